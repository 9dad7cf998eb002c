-- TCP options, inner options and the ENO option taken apart. Nothing here knows Wireshark; offsets count from 0.

local options = {}

local function u16(s, at) return s:byte(at + 1) * 256 + s:byte(at + 2) end

-- walk returns { kind =, at =, len =, text = the whole option } for each option but NOP and EOL, and an error or nil.
function options.walk(s)
  local all, at = {}, 0
  while at < #s do
    local kind = s:byte(at + 1)
    if kind == 0 then return all end
    if kind == 1 then
      at = at + 1
    else
      local len = s:byte(at + 2) or 0
      if len < 2 or at + len > #s then return all, "option of kind " .. kind .. " with a bad length" end
      all[#all + 1] = { kind = kind, at = at, len = len, text = s:sub(at + 1, at + len) }
      at = at + len
    end
  end
  return all
end

-- find returns the first option of a kind, or nil. With an ExID: the first of kind 253 that has it.
function options.find(all, kind, exid)
  for _, o in ipairs(all) do
    if o.kind == kind and (not exid or o.len >= 4 and u16(o.text, 2) == exid) then return o end
  end
end

options.teps = { -- RFC 8548, Section 7, Table 4
  [0x20] = "Inner Space mark", [0x21] = "p256", [0x22] = "p521", [0x23] = "curve25519", [0x24] = "curve448",
}

-- eno takes the contents of a SYN-form ENO option apart (RFC 8547, Section 4.1). Each suboption is { at =, len =,
-- global = bits } or { at =, len =, tep =, v =, data =, data_at =, length = with a length byte before it }.
-- The second result lists what is wrong with it; `broken` is set if the option is ill-formed.
function options.eno(s)
  local subs, wrong, at, broken = {}, {}, 0, false
  local globals, seen = 0, {}
  while at < #s do
    local o = s:byte(at + 1)
    local sub = { at = at, len = 1 }
    if o < 0x20 then
      sub.global = o
      globals = globals + 1
      if globals == 2 then wrong[#wrong + 1] = "a second global suboption, which is to be ignored" end
      if o >= 4 then wrong[#wrong + 1] = ("reserved bits set in global suboption 0x%02x"):format(o) end
    elseif o < 0x80 then
      sub.tep, sub.v, sub.data, sub.data_at = o, 0, "", at + 1
    elseif o >= 0xa0 then
      sub.tep, sub.v, sub.data, sub.data_at = o - 0x80, 1, s:sub(at + 2), at + 1
      sub.len = #s - at
    else
      local n = o % 32 + 1
      local id = s:byte(at + 2)
      if not id or id < 0xa0 or at + 2 + n > #s then
        wrong[#wrong + 1] = ("length byte 0x%02x is not followed by a TEP with v = 1 and %d octets"):format(o, n)
        broken = true
        sub.len = #s - at
      else
        sub.length, sub.tep, sub.v, sub.data, sub.data_at = n, id - 0x80, 1, s:sub(at + 3, at + 2 + n), at + 2
        sub.len = n + 2
      end
    end
    if sub.tep then
      if seen[sub.tep] then wrong[#wrong + 1] = ("TEP 0x%02x listed twice"):format(sub.tep) end
      seen[sub.tep] = true
    end
    subs[#subs + 1] = sub
    at = at + sub.len
  end
  return subs, wrong, broken
end

-- global returns the bits that hold for the whole option: those of the first global suboption, 0 if there is none.
function options.global(subs)
  for _, s in ipairs(subs) do
    if s.global then return s.global end
  end
  return 0
end

local MARK = 0x20

-- marked tells whether the option says that its sender speaks Inner Space.
function options.marked(subs)
  for _, s in ipairs(subs) do
    if s.tep == MARK and s.data == "IS" then return true end
  end
  return false
end

-- negotiate returns what two SYN-form options agree on: host B's last TEP that host A has offered (RFC 8547, Section 4.5),
-- or nil; and whether it resumes a session.
function options.negotiate(a, b)
  local offered, chosen = {}, nil
  for _, s in ipairs(a) do
    if s.tep then offered[s.tep] = s end
  end
  for _, s in ipairs(b) do
    if s.tep and s.tep ~= MARK and offered[s.tep] then chosen = s end
  end
  return chosen, chosen ~= nil and chosen.v == 1
end

-- upgraded reads the TCP Data of an upgraded SYN or SYN-ACK (docs of Inner Space: InSpace option), or returns nil.
function options.upgraded(s)
  if #s < 12 or s:sub(1, 4) ~= "\30\90\156\113" or s:sub(9, 10) ~= "\195\167" then return nil end
  local sps, offset, suffix = u16(s, 4), u16(s, 6), u16(s, 10)
  local len = offset % 4
  local inner, prefix = (offset - len) / 4, (suffix - suffix % 4) / 4
  if len ~= 2 or prefix > inner or 12 + 4 * inner + sps ~= #s then return nil end
  return {
    sps = sps, inoo = inner, len = len, soo = prefix, cu = suffix % 4,
    prefix = s:sub(13, 12 + 4 * prefix), suffix = s:sub(13 + 4 * prefix, 12 + 4 * inner),
    payload = s:sub(13 + 4 * inner),
  }
end

options.u16 = u16
return options
