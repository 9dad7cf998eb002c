-- A connection as the dissector knows it: what its SYNs agreed on, its two directions, its keys. Nothing here knows
-- Wireshark. What is found in a packet is appended to `items`, to be shown as often as the packet is.

return function(options, stream, aead)
  local connection = {}
  connection.__index = connection

  local TRIALS = 64 -- sessions of the key log that are tried for a connection whose addresses are not in it

  function connection.new(settings)
    return setmetatable({ settings = settings, dir = {}, isn = {}, eno = {}, upgraded = {}, base = { a = 0, b = 0 },
      generation = { a = 0, b = 0 }, key = {}, decrypted = { a = 0, b = 0 }, frames = { a = 0, b = 0 }, units = {} }, connection)
  end

  local function other(who) return who == "a" and "b" or "a" end

  function connection:who(src) return src == self.a and "a" or "b" end

  function connection:note(level, text) self.items[#self.items + 1] = { kind = "note", level = level, text = text } end

  -- segment takes a TCP segment on the first pass: { packet =, src =, dst =, seq =, syn =, ack =, rst =, options =, data =,
  -- missing = octets of data the capture lacks }. It returns what is to be shown.
  function connection:segment(s)
    self.items, self.packet = {}, s.packet
    local all, err = options.walk(s.options)
    if err then self:note("warn", "TCP options: " .. err) end
    s.all = all
    if s.syn then
      self:opening(s)
    elseif not self.a then
      self:midway(s)
    end
    if not self.a or not self.dir[self:who(s.src)] then return self.items end
    local who = self:who(s.src)
    if not s.syn and not s.rst and who == "a" and not self.third then self:confirmation(s) end
    if s.rst then
      self:reset(s)
    elseif #s.data + s.missing > 0 then
      local place, odd = self.dir[who]:add(s.packet, (s.seq + (s.syn and 1 or 0)) % 4294967296, s.data, s.missing)
      local mode = self.dir[who].mode
      if mode ~= "plain" and mode ~= "unknown" then
        self.items[#self.items + 1] = { kind = "segment", at = place, len = #s.data, odd = odd }
      end
    end
    if s.syn then self:agree() end
    return self.items
  end

  -- anew forgets what was before a SYN of a new connection on the same ports, or of the same with another sequence number.
  function connection:anew()
    local fresh = connection.new(self.settings)
    fresh.items, fresh.packet, fresh.claimed = self.items, self.packet, self.claimed
    for k in pairs(self) do self[k] = nil end
    for k, v in pairs(fresh) do self[k] = v end
  end

  -- opening takes a SYN or SYN-ACK. In a simultaneous open there are two SYNs, and host B is the one whose option has b = 1.
  function connection:opening(s)
    local o = options.find(s.all, 69)
    local eno = o and options.eno(o.text:sub(3))
    if self.a and not s.ack then
      local known = self.isn[self:who(s.src)]
      if known and known ~= s.seq or not known and self.third then self:anew() end
    end
    if not self.a then
      local passive = s.ack or eno and options.global(eno) % 2 == 1
      self.a, self.b = passive and s.dst or s.src, passive and s.src or s.dst
    end
    local who = self:who(s.src)
    self.isn[who] = s.seq
    if not self.dir[who] then
      self.dir[who] = stream.new(who, (s.seq + 1) % 4294967296, function(r) self:take(r) end)
    end
    if eno and not self.eno[who] then self.eno[who] = eno end
    local u = options.upgraded(s.data)
    if u then
      self.upgraded[who] = u
      u.who = who
      u.options = { (options.walk(u.prefix)), (options.walk(u.suffix)) } -- what is wrong with them is said where they are shown
      if who == "a" and #u.payload > 0 then u.early = self:early(u.payload) end
      local sealed = who == "b" and connection.message(u, function(o) return options.u16(o.text, 2) == 0x4962 end)
      if sealed then u.proof = self:proof(sealed) end
      self.items[#self.items + 1] = { kind = "upgraded", u = u, data = s.data }
    end
  end

  -- midway begins with a capture that lacks the SYNs, where the stream begins with an Init message.
  function connection:midway(s)
    local magic = s.data:sub(1, 4)
    local who = magic == "\21\16\26\14" and "a" or magic == "\9\113\5\224" and "b"
    if not who then return end
    self.a, self.b = s.src, s.dst
    if who == "b" then self.a, self.b = s.dst, s.src end
    self.third = true
    self:note("note", "the capture lacks the SYNs: the TEP is not known")
    self.dir[who] = stream.new(who, s.seq, function(r) self:take(r) end)
    self.dir[who]:begin("init")
    if s.acknowledges then
      self.dir[other(who)] = stream.new(other(who), s.acknowledges, function(r) self:take(r) end)
      -- If the peer has sent its own message, this segment acknowledges it.
      self.dir[other(who)]:begin(who == "a" and "init" or "plain")
    end
  end

  -- agree looks at what SYN and SYN-ACK say, once both are there.
  function connection:agree()
    if self.agreed or not (self.dir.a and self.dir.b) then return end
    self.agreed = true
    local ua, ub = self.upgraded.a, self.upgraded.b
    if ua and ub then
      self.inner = true
      for who, u in pairs(self.upgraded) do
        local d = self.dir[who]
        d:cut("syn", 12 + 4 * u.inoo + u.sps)
        self.base[who] = d.at
        local o = options.find(u.options[1], 69) or options.find(u.options[2], 69)
        self.eno[who] = o and options.eno(o.text:sub(3)) or nil
        u.init = connection.init_option(u)
      end
      self.echoes = options.find(ub.options[1], 253, 0x4966) or options.find(ub.options[2], 253, 0x4966)
    end
    if not (self.eno.a and self.eno.b) then return self:both(self.inner and "units" or "plain") end
    local chosen, resumed = options.negotiate(self.eno.a, self.eno.b)
    if options.marked(self.eno.a) and options.marked(self.eno.b) then self.inner = true end
    self.aware = math.floor(options.global(self.eno.a) / 2) % 2 == 1 and math.floor(options.global(self.eno.b) / 2) % 2 == 1
    if not chosen then
      self:note("warn", "no TEP that both have listed: the connection stays plain")
      return self:both(ua and ub and "units" or "plain")
    end
    self.tep, self.resumed = chosen.tep, resumed
    self.tep_byte = chosen.tep + (resumed and 128 or 0)
    if ua and ub then
      self.third = true -- the SYN-ACK-U is the confirmation
      self:both((resumed or ub.init) and "frames" or "init")
    end
  end

  -- is_plain tells whether what follows is for others to show.
  function connection:is_plain()
    return self.dir.a ~= nil and self.dir.b ~= nil and (self.dir.a.mode == "plain" or self.dir.b.mode == "plain")
  end

  -- init_option joins an Init message that is spread over several options: one that is not full ends it.
  function connection.init_option(u)
    return connection.message(u, function(o)
      local magic = o.text:sub(5, 8)
      return magic == "\21\16\26\14" or magic == "\9\113\5\224"
    end)
  end

  -- message joins one that begins with an option of kind 253 that `begins` knows.
  function connection.message(u, begins)
    for _, all in ipairs(u.options) do
      local whole, id
      for _, o in ipairs(all) do
        if not whole and o.kind == 253 and o.len >= 4 and begins(o) then
          whole, id = o.text:sub(5), o.text:sub(3, 4)
          if o.len < 255 then return whole end
        elseif whole and o.kind == 253 and o.text:sub(3, 4) == id then
          whole = whole .. o.text:sub(5)
          if o.len < 255 then return whole end
        end
      end
    end
  end

  function connection:both(mode)
    for who, d in pairs(self.dir) do d:begin(mode, who == "a" and self.echoes) end
  end

  -- confirmation takes host A's first segment after its SYN (RFC 8547, Section 4.6).
  function connection:confirmation(s)
    self.third = true
    if not self.tep then return end
    if options.find(s.all, 69) then return self:both(self.resumed and "frames" or "init") end
    self.fell_back = true
    self:note("warn", "host A's first segment after the SYN has no ENO: host B takes the connection as plain TCP")
    self:both(self.resumed and "plain" or "init")
  end

  -- reset looks for the proof in a RST.
  function connection:reset(s)
    local o = options.find(s.all, 253, 0x4954)
    if o and o.len == 20 then self.items[#self.items + 1] = { kind = "mac", text = o.text:sub(5), option = o } end
  end

  -- take takes a record out of a direction.
  function connection:take(r)
    r.part_of = self.packet
    if r.kind == "bad" then
      if self.fell_back then
        self:note("note", "plain TCP from here on")
      else
        self:note("error", r.why)
      end
      return
    elseif r.kind == "plain" or r.kind == "syn" then
      return
    elseif r.kind == "init" then
      r.tep = self.tep
      if r.who == "b" then self.cipher = options.u16(r.text, 8) end
    elseif r.kind == "frame" then
      self:frame(r)
    end
    self.items[#self.items + 1] = r
    if r.inner_units then
      for _, unit in ipairs(r.inner_units) do self.items[#self.items + 1] = unit end
    end
    if #r.parts > 1 and self.settings.completed then self.settings.completed(r, self.packet) end
  end

  function connection:frame(r)
    local who, control = r.who, r.text:byte(1)
    r.offset = r.at - self.base[who]
    r.rekey = control % 2 == 1
    if r.rekey then self.generation[who] = self.generation[who] + 1 end
    r.generation = self.generation[who]
    self.frames[who] = self.frames[who] + 1
    r.number = self.frames[who]
    if #r.text - 3 < 17 then
      r.why = "clen has no room for flags and tag"
      return
    end
    self:open(r)
    r.cipher, r.session, r.tep, r.resumed = self.cipher, self.session and self.session.id, self.tep, self.resumed
    if r.plain then self:plaintext(r) end
  end

  -- candidates are the sessions of the key log that the connection's may be.
  function connection:candidates()
    local exact, trials = {}, {}
    for _, s in ipairs(self.settings.sessions) do
      if not s.early and not s.proof and (not self.tep_byte or s.id:byte(1) == self.tep_byte) then
        if s.a == self.a and s.b == self.b or s.a == self.b and s.b == self.a then
          exact[#exact + 1] = s
        else
          trials[#trials + 1] = s
        end
      end
    end
    if #exact > 0 then return exact end
    while #trials > TRIALS do table.remove(trials, 1) end
    return trials
  end

  local function attempt(key, r)
    if not key or not key.aead or #key.randomizer ~= 12 then return nil end
    return aead.open(key.aead, stream.nonce(key.randomizer, r.offset), r.text:sub(1, 3), r.text:sub(4))
  end

  -- early decrypts early data, one frame at offset 0 under keys of its own; nil: there are no keys that fit. It was sealed by
  -- host a of this connection, which may have been either host when the session's keys were exchanged.
  function connection:early(payload)
    for _, s in ipairs(self.settings.sessions) do
      for _, swapped in ipairs({ false, true }) do
        if s.early and (swapped and s.b or s.a) == self.a and (swapped and s.a or s.b) == self.b then
          local key = self:key_of(s, 0, "a", swapped)
          local plain = attempt(key, { offset = 0, text = payload })
          if plain and #plain > 0 then return { data = plain:sub(2), session = s.id } end
        end
      end
    end
  end

  -- proof decrypts what host B says of itself in a SYN-ACK-U, likewise.
  function connection:proof(sealed)
    for _, s in ipairs(self.settings.sessions) do
      if s.proof and s.a == self.a and s.b == self.b then
        local plain = attempt(self:key_of(s, 0, "b", false), { offset = 0, text = sealed })
        if plain and #plain > 0 then return plain:sub(2) end
      end
    end
  end

  -- key_of returns host who's sealing key in a generation of a session, prepared, and its nonce randomizer.
  function connection:key_of(session, generation, who, swapped)
    local k = session.keys[generation]
    local c = k and aead.ciphers[k.cipher]
    if not c then return nil end
    local ab = (who == "a") ~= swapped
    local whole = ab and k.ab or k.ba
    return { aead = aead.new(k.cipher, whole:sub(1, c.key)), randomizer = whole:sub(c.key + 1), cipher = k.cipher,
      generation = generation }
  end

  -- open decrypts a frame, if there are keys for it.
  function connection:open(r)
    if self.decrypted[r.who] >= self.settings.limit then
      r.unopened = "beyond the limit of what is decrypted (preference decrypt_limit)"
      return
    end
    if self.session then
      if self.broken then return end
      local key = self.key[r.who]
      if not key or key.generation ~= r.generation then
        key = self:key_of(self.session, r.generation, r.who, self.swapped)
        self.key[r.who] = key
      end
      if not key then
        r.unopened = "the key log lacks generation " .. r.generation
        return
      end
      r.plain = attempt(key, r)
      if not r.plain then r.why, self.broken = "the frame does not authenticate", true end
    else
      local exact = false
      for _, session in ipairs(self:candidates()) do
        for _, swapped in ipairs({ session.a ~= self.a, session.a == self.a }) do
          if not r.plain and (not session.tried or session.a == self.a or session.a == self.b) then
            exact = exact or session.a == self.a or session.a == self.b
            local key = self:key_of(session, r.generation, r.who, swapped)
            r.plain = attempt(key, r)
            if r.plain then
              self.session, self.swapped, self.cipher, self.key[r.who] = session, swapped, key.cipher, key
            end
          end
        end
        if r.plain then break end
      end
      if not r.plain then
        r.unopened = exact and "the keys that the key log has for these addresses do not fit" or "no keys in the key log"
      end
    end
    if r.plain then self.decrypted[r.who] = self.decrypted[r.who] + #r.text end
  end

  -- plaintext reads what a frame held (RFC 8548, Section 4.2.1).
  function connection:plaintext(r)
    local flags = r.plain:byte(1)
    r.flags, r.fin, r.urg = flags, flags % 2 == 1, math.floor(flags / 2) % 2 == 1
    local data_at = 2
    if r.urg then
      if #r.plain < 3 then
        r.why = "URGp without the urgent field"
        return
      end
      r.urgent, data_at = options.u16(r.plain, 1), 4
    end
    r.data = r.plain:sub(data_at)
    local inner = r.data
    if r.number == 1 and self.aware and not self.resumed then
      r.hello = connection.hello(r.data)
      if r.hello then inner = r.data:sub(r.hello.len + 1) end
    end
    -- A resumption offer leaves no room for the mark: what was known when the secret was made stands for it.
    if self.inner == nil and self.resumed and #inner > 0 then self.inner = connection.are_units(inner) end
    if self.inner and #inner > 0 then
      r.inner_units = {}
      local units = self.units[r.who]
      if not units then
        units = stream.new(r.who, 0, function(u) units.out[#units.out + 1] = u end)
        units.mode = "units"
        self.units[r.who] = units
      end
      units.out = r.inner_units
      if units.mode == "units" then units:append(self.packet, inner) end
      for _, u in ipairs(r.inner_units) do
        if u.kind == "bad" then u.kind, u.level, u.text = "note", "error", u.why end
        u.decrypted = true
      end
    end
  end

  -- are_units tells whether octets are a row of whole Inner Space units, which hardly any others are.
  function connection.are_units(s)
    local at = 0
    while at < #s do
      if at + 4 > #s then return false end
      local offset = options.u16(s, at + 2)
      if offset % 4 ~= 1 then return false end
      at = at + 4 + options.u16(s, at) + offset - 1
    end
    return at == #s
  end

  -- hello reads what a host tells first in its encrypted stream, or returns nil.
  function connection.hello(s)
    if s:sub(1, 4) ~= "ITH1" or #s < 6 then return nil end
    local len = 6 + options.u16(s, 4)
    if len > #s or len > 1024 then return nil end
    local items, at = {}, 6
    while at + 3 <= len do
      local n = options.u16(s, at + 1)
      if at + 3 + n > len then return { len = len, items = items, why = "an item is longer than the hello" } end
      items[#items + 1] = { type = s:byte(at + 1), at = at, len = n, value = s:sub(at + 4, at + 3 + n) }
      at = at + 3 + n
    end
    return { len = len, items = items, why = at ~= len and "octets left over" or nil }
  end

  return connection
end
