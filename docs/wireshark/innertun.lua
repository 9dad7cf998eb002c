-- A dissector for TCP-ENO (RFC 8547), tcpcrypt (RFC 8548) and Inner Space, for Wireshark and tshark (tested with 4.0):
--
--   tshark -X lua_script:innertun.lua -o innertun.keylog:FILE -r CAPTURE
--
-- The folder `innertun` must lie beside this file. The key log may also be named by the environment variable
-- INNERTUN_KEYLOG.

local here = debug.getinfo(1, "S").source:match("^@(.*[/\\])") or ""
local function part(name, ...) return assert(loadfile(here .. "innertun/" .. name .. ".lua"))(...) end
local aead, keylog, options, stream = part("aead"), part("keylog"), part("options"), part("stream")
local packet = part("packet")
local connection = part("connection")(options, stream, aead)

local eno = Proto("tcp-eno", "TCP Encryption Negotiation Option")
local tcpcrypt = Proto("tcpcrypt", "tcpcrypt")
local inner = Proto("innertun", "Inner Space")
local claim = Proto("tcpcrypt.stream", "tcpcrypt stream")

if set_plugin_info then set_plugin_info({ version = "1", description = "TCP-ENO, tcpcrypt, Inner Space" }) end

-- Fields ------------------------------------------------------------------------------------------------------------

local NAMES = options.teps
local CIPHERS = {}
for id, c in pairs(aead.ciphers) do CIPHERS[id] = c.name end
local HOSTS = { [0] = "A (active opener)", [1] = "B (passive opener)" }
local EXIDS = { -- the project's own; docs/inner-space.md
  [0x4954] = "proof of a reset", [0x4960] = "init", [0x4961] = "rekey", [0x4962] = "proof", [0x4963] = "mtu", [0x4964] = "close",
  [0x4965] = "outer", [0x4966] = "cookie", [0x4967] = "early-data",
}
local HELLO = { [1] = "capabilities", [2] = "identity" }

local F = {}
local function define(proto, list)
  local out = {}
  for _, f in ipairs(list) do
    local name, kind = f[1], f[2]
    F[name] = ProtoField[kind](name, (table.unpack or unpack)(f, 3, 6))
    out[#out + 1] = F[name]
  end
  proto.fields = out
end

define(eno, {
  { "innertun.eno.form", "string", "Form" },
  { "innertun.eno.global", "uint8", "Global suboption", base.HEX },
  { "innertun.eno.global.a", "bool", "Application-aware (a)", 8, nil, 0x02 },
  { "innertun.eno.global.b", "bool", "Passive role (b)", 8, nil, 0x01 },
  { "innertun.eno.global.z", "uint8", "Reserved (z)", base.HEX, nil, 0x1c },
  { "innertun.eno.length", "uint8", "Length byte: octets of data", base.DEC },
  { "innertun.eno.tep", "uint8", "TEP", base.HEX, NAMES },
  { "innertun.eno.v", "bool", "Suboption data (v)" },
  { "innertun.eno.data", "bytes", "Suboption data" },
  { "innertun.eno.mark", "bool", "Speaks Inner Space" },
  { "innertun.eno.resume.id", "bytes", "Resumption identifier, this host's half" },
  { "innertun.eno.resume.nonce", "bytes", "Resumption nonce" },
  { "innertun.eno.contents", "bytes", "Contents" },
})
define(tcpcrypt, {
  { "tcpcrypt.host", "uint8", "Sent by host", base.DEC, HOSTS },
  { "tcpcrypt.tep", "uint8", "Negotiated TEP", base.HEX, NAMES },
  { "tcpcrypt.resumed", "bool", "Resumed session" },
  { "tcpcrypt.session_id", "bytes", "Session ID" },
  { "tcpcrypt.cipher", "uint16", "Cipher", base.HEX, CIPHERS },
  { "tcpcrypt.offset", "uint64", "Offset in the stream" },
  { "tcpcrypt.segment", "uint32", "Octets of the stream in this segment" },
  { "tcpcrypt.reassembled_in", "framenum", "Completed in packet", base.NONE, frametype.NONE },
  { "tcpcrypt.part", "framenum", "Part in packet", base.NONE, frametype.NONE },
  { "tcpcrypt.init", "uint8", "Key exchange message", base.DEC, { [1] = "Init1", [2] = "Init2" } },
  { "tcpcrypt.init.magic", "uint32", "Magic", base.HEX },
  { "tcpcrypt.init.len", "uint32", "Message length" },
  { "tcpcrypt.init.nciphers", "uint8", "Number of ciphers" },
  { "tcpcrypt.init.cipher", "uint16", "Cipher", base.HEX, CIPHERS },
  { "tcpcrypt.init.nonce", "bytes", "Nonce" },
  { "tcpcrypt.init.pubkey_len", "uint16", "Length of the public key" },
  { "tcpcrypt.init.pubkey", "bytes", "Public key" },
  { "tcpcrypt.init.ignored", "bytes", "Ignored" },
  { "tcpcrypt.frame", "uint32", "Frame" },
  { "tcpcrypt.frame.control", "uint8", "Control", base.HEX },
  { "tcpcrypt.frame.rekey", "bool", "Rekey", 8, nil, 0x01 },
  { "tcpcrypt.frame.reserved", "uint8", "Reserved", base.HEX, nil, 0xfe },
  { "tcpcrypt.frame.len", "uint16", "Length of the ciphertext (clen)" },
  { "tcpcrypt.frame.offset", "uint64", "Frame offset" },
  { "tcpcrypt.frame.generation", "uint32", "Key generation" },
  { "tcpcrypt.frame.ciphertext", "bytes", "Ciphertext and tag" },
  { "tcpcrypt.decrypted", "bool", "Decrypted and authenticated" },
  { "tcpcrypt.flags", "uint8", "Flags", base.HEX },
  { "tcpcrypt.flags.fin", "bool", "FINp", 8, nil, 0x01 },
  { "tcpcrypt.flags.urg", "bool", "URGp", 8, nil, 0x02 },
  { "tcpcrypt.flags.reserved", "uint8", "Reserved", base.HEX, nil, 0xfc },
  { "tcpcrypt.urgent", "uint16", "Urgent" },
  { "tcpcrypt.data", "bytes", "Data" },
  { "tcpcrypt.data.len", "uint32", "Octets of data" },
})
define(inner, {
  { "innertun.syn", "bool", "Upgraded SYN" },
  { "innertun.is.magic_a", "uint32", "Magic Number A", base.HEX },
  { "innertun.is.sps", "uint16", "Sent Payload Size (SPS)" },
  { "innertun.is.inoo", "uint16", "Inner Options Offset (InOO), words", base.DEC, nil, 0xfffc },
  { "innertun.is.len", "uint16", "Len", base.DEC, nil, 0x0003 },
  { "innertun.is.magic_b", "uint16", "Magic Number B", base.HEX },
  { "innertun.is.soo", "uint16", "Suffix Options Offset (SOO), words", base.DEC, nil, 0xfffc },
  { "innertun.is.cu", "uint16", "CU", base.HEX, nil, 0x0003 },
  { "innertun.is.unit", "uint32", "Unit, octets" },
  { "innertun.is.payload", "bytes", "Payload" },
  { "innertun.early", "bytes", "Early data, decrypted" },
  { "innertun.proof", "bytes", "Proof of host B, decrypted" },
  { "innertun.option.place", "string", "Options" },
  { "innertun.option.kind", "uint8", "Kind" },
  { "innertun.option.len", "uint8", "Length" },
  { "innertun.option.exid", "uint16", "ExID", base.HEX, EXIDS },
  { "innertun.option.data", "bytes", "Data" },
  { "innertun.hello", "bytes", "Hello" },
  { "innertun.hello.type", "uint8", "Item", base.DEC, HELLO },
  { "innertun.hello.capabilities", "uint32", "Capabilities", base.HEX },
  { "innertun.hello.resets", "bool", "Resets are authenticated", 32, nil, 0x1 },
  { "innertun.hello.key", "bytes", "Ed25519 public key" },
  { "innertun.hello.signature", "bytes", "Signature" },
  { "innertun.hello.value", "bytes", "Value" },
  { "innertun.rst.mac", "bytes", "Proof of the reset (HMAC-SHA256, 16 octets)" },
})

local X = {}
local function experts(proto, list)
  local out = {}
  for _, e in ipairs(list) do
    X[e[1]] = ProtoExpert.new(e[1], e[2], e[3], e[4])
    out[#out + 1] = X[e[1]]
  end
  proto.experts = out
end
experts(eno, {
  { "innertun.eno.malformed", "Ill-formed ENO option", expert.group.PROTOCOL, expert.severity.ERROR },
  { "innertun.eno.odd", "Unusual ENO option", expert.group.PROTOCOL, expert.severity.WARN },
})
experts(tcpcrypt, {
  { "tcpcrypt.error", "Not as tcpcrypt wants it", expert.group.PROTOCOL, expert.severity.ERROR },
  { "tcpcrypt.warning", "Remarkable", expert.group.PROTOCOL, expert.severity.WARN },
  { "tcpcrypt.remark", "Remark", expert.group.SEQUENCE, expert.severity.NOTE },
  { "tcpcrypt.unauthentic", "The frame does not authenticate", expert.group.SECURITY, expert.severity.ERROR },
  { "tcpcrypt.unopened", "Not decrypted", expert.group.UNDECODED, expert.severity.CHAT },
  { "tcpcrypt.rekeyed", "New keys from this frame on", expert.group.SEQUENCE, expert.severity.NOTE },
  { "tcpcrypt.end", "End of the encrypted stream (FINp)", expert.group.SEQUENCE, expert.severity.CHAT },
  { "tcpcrypt.reserved", "Reserved bits are set", expert.group.PROTOCOL, expert.severity.WARN },
})

-- Preferences -------------------------------------------------------------------------------------------------------

inner.prefs.keylog = Pref.string("Key log", "", "File with traffic keys, as innertun --keylog and innertun capture --keys write it; "
  .. "INNERTUN_KEYLOG in the environment serves if this is empty")
inner.prefs.decrypt_limit = Pref.uint("Decrypt at most (KiB)", 16384,
  "of each direction of a connection: Lua decrypts less than a megabyte a second; 0: nothing")

-- Display -----------------------------------------------------------------------------------------------------------

local function hex64(n) return UInt64.new(n % 4294967296, math.floor(n / 4294967296)) end
local function generated(item) item:set_generated() return item end
local function tvb_of(text, name) return ByteArray.new(text, true):tvb(name) end

-- show_eno shows the contents of an ENO option at a place of a tvb.
local function show_eno(tree, tvb, at, len, syn)
  generated(tree:add(F["innertun.eno.form"], tvb(at, len), syn and "SYN" or "non-SYN"))
  if not syn then
    if len > 2 then
      tree:add(F["innertun.eno.contents"], tvb(at + 2, len - 2))
      tree:add_proto_expert_info(X["innertun.eno.odd"], "non-SYN-form ENO option with contents")
    end
    return "ENO"
  end
  local body = len > 2 and tvb(at + 2, len - 2):raw() or ""
  local subs, wrong, broken = options.eno(body)
  local words = {}
  for _, s in ipairs(subs) do
    local p = at + 2 + s.at
    if s.global then
      local t = tree:add(F["innertun.eno.global"], tvb(p, 1))
      t:add(F["innertun.eno.global.z"], tvb(p, 1))
      t:add(F["innertun.eno.global.a"], tvb(p, 1))
      t:add(F["innertun.eno.global.b"], tvb(p, 1))
      if s.global % 2 == 1 then words[#words + 1] = "b" end
    elseif s.tep then
      local name = NAMES[s.tep] or ("0x%02x"):format(s.tep)
      local t = tree
      if s.length then t:add(F["innertun.eno.length"], tvb(p, 1), s.length) end
      t = tree:add(F["innertun.eno.tep"], tvb(s.length and p + 1 or p, 1), s.tep)
      t:add(F["innertun.eno.v"], tvb(s.length and p + 1 or p, 1), s.v == 1)
      if #s.data > 0 then
        local d = at + 2 + s.data_at
        t:add(F["innertun.eno.data"], tvb(d, #s.data))
        if s.tep == 0x20 and s.data == "IS" then
          t:add(F["innertun.eno.mark"], tvb(d, 2), true)
        elseif s.tep ~= 0x20 and #s.data >= 9 then
          t:add(F["innertun.eno.resume.id"], tvb(d, 9))
          if #s.data > 9 then t:add(F["innertun.eno.resume.nonce"], tvb(d + 9, #s.data - 9)) end
        end
      end
      words[#words + 1] = name .. (s.v == 1 and s.tep ~= 0x20 and "+data" or "")
    end
  end
  for _, w in ipairs(wrong) do
    tree:add_proto_expert_info(broken and X["innertun.eno.malformed"] or X["innertun.eno.odd"], w)
  end
  return "ENO " .. table.concat(words, ",")
end

local function show_options(tree, tvb, at, text, place)
  if #text == 0 then return end
  local all, err = options.walk(text)
  local t = tree:add(F["innertun.option.place"], tvb(at, #text), place)
  for _, o in ipairs(all) do
    local p = at + o.at
    local k = t:add(F["innertun.option.kind"], tvb(p, 1))
    k:add(F["innertun.option.len"], tvb(p + 1, 1))
    if o.kind == 69 then
      k:append_text(" (" .. show_eno(k, tvb, p, o.len, true) .. ")")
    elseif (o.kind == 253 or o.kind == 254) and o.len >= 4 then
      k:add(F["innertun.option.exid"], tvb(p + 2, 2))
      if o.len > 4 then k:add(F["innertun.option.data"], tvb(p + 4, o.len - 4)) end
    elseif o.len > 2 then
      k:add(F["innertun.option.data"], tvb(p + 2, o.len - 2))
    end
  end
  if err then t:add_proto_expert_info(X["tcpcrypt.error"], err) end
end

local function show_init(tree, tvb, tep)
  local text = tvb:raw()
  local first = text:byte(1) == 0x15
  local t = tree:add(F["tcpcrypt.init"], tvb, first and 1 or 2)
  t:add(F["tcpcrypt.init.magic"], tvb(0, 4))
  t:add(F["tcpcrypt.init.len"], tvb(4, 4))
  local at = 8
  if first then
    local n = tvb(8, 1):uint()
    t:add(F["tcpcrypt.init.nciphers"], tvb(8, 1))
    at = 9
    for _ = 1, n do
      if at + 2 <= #text then t:add(F["tcpcrypt.init.cipher"], tvb(at, 2)) end
      at = at + 2
    end
  else
    if #text < 10 then return t end
    t:add(F["tcpcrypt.init.cipher"], tvb(8, 2))
    at = 10
  end
  if at + 32 > #text then
    t:add_proto_expert_info(X["tcpcrypt.error"], "no room for the nonce")
    return t
  end
  t:add(F["tcpcrypt.init.nonce"], tvb(at, 32))
  at = at + 32
  local size = ({ [0x23] = 32, [0x24] = 56 })[tep]
  if tep == 0x21 or tep == 0x22 then
    if at + 2 > #text then return t end
    t:add(F["tcpcrypt.init.pubkey_len"], tvb(at, 2))
    at, size = at + 2, tep == 0x21 and 33 or 67
  end
  size = math.min(size or #text - at, #text - at)
  if size > 0 then t:add(F["tcpcrypt.init.pubkey"], tvb(at, size)) end
  if at + size < #text then t:add(F["tcpcrypt.init.ignored"], tvb(at + size)) end
  return t
end

local function show_hello(tree, tvb, at, hello)
  local t = tree:add(F["innertun.hello"], tvb(at, hello.len))
  for _, i in ipairs(hello.items) do
    local p = at + i.at
    local k = t:add(F["innertun.hello.type"], tvb(p, 1))
    if i.type == 1 and i.len == 4 then
      k:add(F["innertun.hello.capabilities"], tvb(p + 3, 4))
      k:add(F["innertun.hello.resets"], tvb(p + 3, 4))
    elseif i.type == 2 and i.len == 96 then
      k:add(F["innertun.hello.key"], tvb(p + 3, 32))
      k:add(F["innertun.hello.signature"], tvb(p + 35, 64))
    elseif i.len > 0 then
      k:add(F["innertun.hello.value"], tvb(p + 3, i.len))
    end
  end
  if hello.why then t:add_proto_expert_info(X["tcpcrypt.error"], hello.why) end
end

local show = {} -- by kind of item; each returns words for the Info column, or nil

function show.note(i, tree)
  local level = { error = "tcpcrypt.error", warn = "tcpcrypt.warning", note = "tcpcrypt.remark" }
  tree:add_proto_expert_info(X[level[i.level]], i.text)
end

function show.segment(i, tree, _, pinfo, completed)
  generated(tree:add(F["tcpcrypt.segment"], i.len))
  generated(tree:add(F["tcpcrypt.offset"], hex64(i.at)))
  if i.odd then tree:add_proto_expert_info(X["tcpcrypt.remark"], i.odd) end
  if completed and completed ~= pinfo.number then generated(tree:add(F["tcpcrypt.reassembled_in"], completed)) end
end

local function show_parts(tree, i)
  if #i.parts < 2 then return end
  for _, n in ipairs(i.parts) do generated(tree:add(F["tcpcrypt.part"], n)) end
end

function show.init(i, tree, tvb)
  local t = show_init(tree, tvb, i.tep)
  show_parts(t, i)
  return i.who == "a" and "Init1" or "Init2"
end

function show.frame(i, tree, tvb)
  local t = tree:add(F["tcpcrypt.frame"], tvb, i.number)
  local c = t:add(F["tcpcrypt.frame.control"], tvb(0, 1))
  c:add(F["tcpcrypt.frame.reserved"], tvb(0, 1))
  c:add(F["tcpcrypt.frame.rekey"], tvb(0, 1))
  if tvb(0, 1):uint() > 1 then c:add_proto_expert_info(X["tcpcrypt.reserved"]) end
  t:add(F["tcpcrypt.frame.len"], tvb(1, 2))
  generated(t:add(F["tcpcrypt.frame.offset"], tvb, hex64(i.offset)))
  generated(t:add(F["tcpcrypt.frame.generation"], tvb, i.generation))
  if i.rekey then t:add_proto_expert_info(X["tcpcrypt.rekeyed"], "generation " .. i.generation .. " from this frame on") end
  if tvb:len() > 3 then t:add(F["tcpcrypt.frame.ciphertext"], tvb(3)) end
  show_parts(t, i)
  generated(t:add(F["tcpcrypt.decrypted"], tvb, i.plain ~= nil))
  if i.why then t:add_proto_expert_info(i.plain and X["tcpcrypt.error"] or X["tcpcrypt.unauthentic"], i.why) end
  if i.unopened then t:add_proto_expert_info(X["tcpcrypt.unopened"], i.unopened) end
  local words = ("frame %d: %d octets"):format(i.number, #i.text)
  if i.rekey then words = words .. ", rekey" end
  if not i.plain then return words end
  local clear = tvb_of(i.plain, "tcpcrypt plaintext")
  local f = t:add(F["tcpcrypt.flags"], clear(0, 1))
  f:add(F["tcpcrypt.flags.reserved"], clear(0, 1))
  f:add(F["tcpcrypt.flags.urg"], clear(0, 1))
  f:add(F["tcpcrypt.flags.fin"], clear(0, 1))
  if i.flags > 3 then f:add_proto_expert_info(X["tcpcrypt.reserved"]) end
  if i.fin then
    f:add_proto_expert_info(X["tcpcrypt.end"])
    words = words .. ", FINp"
  end
  if not i.data then return words end
  local at = 1
  if i.urg then
    t:add(F["tcpcrypt.urgent"], clear(1, 2))
    at = 3
  end
  generated(t:add(F["tcpcrypt.data.len"], #i.data))
  if i.hello then show_hello(t, clear, at, i.hello) end
  if #i.data > 0 then t:add(F["tcpcrypt.data"], clear(at)) end
  return words
end

function show.unit(i, tree, tvb)
  local t = tree:add(F["innertun.is.unit"], tvb, #i.text)
  t:add(F["innertun.is.sps"], tvb(0, 2))
  t:add(F["innertun.is.inoo"], tvb(2, 2))
  t:add(F["innertun.is.len"], tvb(2, 2))
  show_options(t, tvb, 4, i.options, "inner")
  if #i.payload > 0 then t:add(F["innertun.is.payload"], tvb(4 + #i.options)) end
  return ("unit: %d octets, options %d"):format(#i.payload, #i.options)
end

function show.upgraded(i, tree, tvb)
  local u = i.u
  generated(tree:add(F["innertun.syn"], tvb, true))
  tree:add(F["innertun.is.magic_a"], tvb(0, 4))
  tree:add(F["innertun.is.sps"], tvb(4, 2))
  tree:add(F["innertun.is.inoo"], tvb(6, 2))
  tree:add(F["innertun.is.len"], tvb(6, 2))
  tree:add(F["innertun.is.magic_b"], tvb(8, 2))
  tree:add(F["innertun.is.soo"], tvb(10, 2))
  tree:add(F["innertun.is.cu"], tvb(10, 2))
  show_options(tree, tvb, 12, u.prefix, "prefix")
  show_options(tree, tvb, 12 + #u.prefix, u.suffix, "suffix")
  if i.init then show_init(tree, tvb_of(i.init, "Init message")(), i.tep) end
  if #u.payload > 0 then
    local payload = tvb(12 + #u.prefix + #u.suffix)
    tree:add(F["innertun.is.payload"], payload)
    generated(tree:add(F["tcpcrypt.decrypted"], payload, u.early ~= nil))
    if u.early and #u.early.data > 0 then tree:add(F["innertun.early"], tvb_of(u.early.data, "Early data")()) end
  end
  if u.proof then tree:add(F["innertun.proof"], tvb_of(u.proof, "Proof of host B")()) end
  return u.who == "a" and "SYN-U" or "SYN-ACK-U"
end

function show.mac(i, tree, tvb)
  tree:add(F["innertun.rst.mac"], tvb)
  return "authenticated RST"
end

-- Dissection --------------------------------------------------------------------------------------------------------

local tcp_flags = Field.new("tcp.flags")

local connections, shown, done, settings = {}, {}, {}, {}
local plain = {} -- pairs of ends whose connection was claimed and turned out to be plain

function inner.init()
  connections, shown, done, plain = {}, {}, {}, {}
  settings = { sessions = {}, limit = inner.prefs.decrypt_limit * 1024, completed = function(r, packet)
    for _, n in ipairs(r.parts) do done[n] = done[n] or packet end
  end }
  local name = inner.prefs.keylog
  if name == "" then name = os.getenv("INNERTUN_KEYLOG") or "" end
  if name ~= "" then
    local sessions, bad = keylog.read(name)
    if not sessions then
      report_failure("innertun: key log: " .. bad)
      return
    end
    if bad > 0 then report_failure(("innertun: key log %s: %d lines not understood"):format(name, bad)) end
    settings.sessions = sessions
  end
end

-- The option in Wireshark's own tree of TCP options.
function eno.dissector(tvb, pinfo, tree)
  local flags = { tcp_flags() } -- the last is this segment's
  local syn = #flags > 0 and math.floor(flags[#flags].value / 2) % 2 == 1
  local t = tree:add(eno, tvb())
  t:append_text(": " .. show_eno(t, tvb, 0, tvb:len(), syn))
  return tvb:len()
end
DissectorTable.get("tcp.option"):add(69, eno)

local function pair(pinfo)
  local a, b = tostring(pinfo.src) .. ":" .. pinfo.src_port, tostring(pinfo.dst) .. ":" .. pinfo.dst_port
  return a < b and a .. " " .. b or b .. " " .. a
end

-- Data of a connection that has negotiated encryption is shown by the post-dissector; nobody else should guess at it.
function claim.dissector(tvb, pinfo, tree)
  if plain[pair(pinfo)] then -- it goes to whom it would have gone to
    local ports = DissectorTable.get("tcp.port")
    local low, high = math.min(pinfo.src_port, pinfo.dst_port), math.max(pinfo.src_port, pinfo.dst_port)
    local d = ports:get_dissector(low) or ports:get_dissector(high)
    if d then return d:call(tvb, pinfo, tree) end
  end
  return tvb:len()
end

local HEADERS = 120 -- octets of IP and TCP headers, at most

local function first_pass(tvb, pinfo)
  local captured = tvb:captured_len()
  local s = packet.find(tvb(0, math.min(captured, packet.SCAN + HEADERS)):raw(), captured, pinfo.src_port, pinfo.dst_port)
  if not s then return { items = {} } end
  local have = math.max(math.min(s.data_len, captured - s.data_at), 0)
  s.packet, s.data, s.missing = pinfo.number, have > 0 and tvb(s.data_at, have):raw() or "", s.data_len - have
  s.acknowledges = s.ack and s.ack_number or nil
  local id = s.src < s.dst and s.src .. " " .. s.dst or s.dst .. " " .. s.src
  local c = connections[id]
  if not c then
    c = connection.new(settings)
    connections[id] = c
  end
  local items = c:segment(s)
  for _, i in ipairs(items) do -- what belongs to the whole connection and may come later is noted now
    if i.kind == "upgraded" then i.init, i.tep = connection.init_option(i.u), c.tep end
  end
  local ours = (c.tep ~= nil or c.inner) and not c:is_plain()
  if ours then
    if not c.claimed then pinfo.conversation = claim end
    c.claimed = true
  end
  if c.claimed then plain[pair(pinfo)] = not ours end
  return { items = items, tep = c.tep, resumed = c.resumed, session = c.session and c.session.id, cipher = c.cipher,
    host = c.a and (s.src == c.a and 0 or 1), data_at = s.data_at, data_len = have, syn = s.syn }
end

-- range_of returns the octets of an item: of this packet if they are all there, else put together.
local function range_of(i, segment_at, payload)
  if i.kind == "upgraded" then return payload end
  if i.kind == "mac" then return tvb_of(i.text, "Proof of the reset")() end
  if i.kind == "note" or not i.text then return nil end
  if payload and segment_at and not i.decrypted and i.at >= segment_at and i.at - segment_at + #i.text <= payload:len() then
    return payload(i.at - segment_at, #i.text)
  end
  return tvb_of(i.text, i.kind == "unit" and "Inner Space unit" or "tcpcrypt " .. i.kind)()
end

local function show_connection(tree, s)
  if s.host then generated(tree:add(F["tcpcrypt.host"], s.host)) end
  generated(tree:add(F["tcpcrypt.tep"], s.tep))
  generated(tree:add(F["tcpcrypt.resumed"], s.resumed or false))
  if s.cipher then generated(tree:add(F["tcpcrypt.cipher"], s.cipher)) end
  if s.session then generated(tree:add(F["tcpcrypt.session_id"], tvb_of(s.session, "Session ID")())) end
end

function inner.dissector(tvb, pinfo, tree)
  local s = shown[pinfo.number]
  if not s then
    if pinfo.visited or pinfo.port_type ~= 2 then return end -- 2: TCP
    s = first_pass(tvb, pinfo)
    shown[pinfo.number] = s
  end
  if #s.items == 0 and not (s.tep and s.syn) then return end
  local payload = s.data_len > 0 and tvb(s.data_at, s.data_len) or nil
  local segment_at, root
  for _, i in ipairs(s.items) do
    if i.kind == "segment" then segment_at = i.at end
  end
  local words = {}
  for _, i in ipairs(s.items) do
    local proto = (i.kind == "unit" or i.kind == "upgraded" or i.kind == "mac") and inner or tcpcrypt
    local range = range_of(i, segment_at, payload)
    local t = root
    if proto ~= tcpcrypt then
      t = range and tree:add(inner, range) or tree:add(inner)
    elseif not root then
      root = payload and tree:add(tcpcrypt, payload) or tree:add(tcpcrypt)
      t = root
    end
    words[#words + 1] = show[i.kind](i, t, range, pinfo, done[pinfo.number])
  end
  if s.tep then show_connection(root or tree:add(tcpcrypt), s) end
  if #words > 0 then
    pinfo.cols.protocol = "tcpcrypt"
    pinfo.cols.info:append(" [" .. table.concat(words, "; ") .. "]")
  end
end
register_postdissector(inner)
