-- One direction of a connection: segments put in order, and what is in them: Init messages, frames, Inner Space units.
-- Nothing here knows Wireshark.

local stream = {}
stream.__index = stream

local INIT = { a = "\21\16\26\14", b = "\9\113\5\224" } -- RFC 8548, Section 4.3
local HEADER = 3 -- control, clen
local MAX_WAITING = 8 * 1024 * 1024 -- octets kept while others before them are missing
local MAX_INIT = 65536

local function u16(s, at) return s:byte(at + 1) * 256 + s:byte(at + 2) end
local function u32(s, at) return u16(s, at) * 65536 + u16(s, at + 2) end

-- new makes the direction of "a" or "b". first is the sequence number of its first octet. take(record) is called for
-- each record, which is { kind =, at = its offset, text =, parts = packet numbers, ... }.
function stream.new(who, first, take)
  return setmetatable({
    who = who, first = first, at = 0, buffer = "", parts = {}, waiting = {}, waiting_octets = 0,
    mode = "unknown", take = take, octets = 0,
  }, stream)
end

-- place returns the offset in the stream of a sequence number: the one nearest to what is expected next.
function stream:place(seq)
  local expected = self.at + #self.buffer
  local difference = (seq - self.first - expected) % 4294967296
  if difference >= 2147483648 then difference = difference - 4294967296 end
  return expected + difference
end

-- add takes a segment of a packet. missing is the number of its octets that the capture does not have. It returns the
-- segment's offset and, in words, what was odd about it.
function stream:add(packet, seq, text, missing)
  local place = self:place(seq)
  if self.mode == "lost" then return place end
  local odd
  if missing > 0 then
    self:lose()
    return place, ("the capture lacks %d octets of this segment: what follows is not decoded"):format(missing)
  end
  local expected = self.at + #self.buffer
  if place + #text <= expected then
    return place, #text > 0 and "retransmission" or nil
  elseif place > expected then
    self.waiting[#self.waiting + 1] = { packet = packet, seq = seq, text = text, place = place }
    self.waiting_octets = self.waiting_octets + #text
    if self.waiting_octets > MAX_WAITING then
      self:lose()
      return place, "segments before this one are missing from the capture: what follows is not decoded"
    end
    return place, ("%d octets before it have not been seen yet"):format(place - expected)
  end
  self:append(packet, text:sub(expected - place + 1))
  self:fill()
  return place, odd
end

function stream:lose()
  self.mode, self.buffer, self.waiting, self.parts = "lost", "", {}, {}
end

-- fill takes over what has been waiting.
function stream:fill()
  local found = true
  while found and #self.waiting > 0 do
    found = false
    local expected = self.at + #self.buffer
    for i, w in ipairs(self.waiting) do
      if w.place <= expected then
        table.remove(self.waiting, i)
        self.waiting_octets = self.waiting_octets - #w.text
        if w.place + #w.text > expected then self:append(w.packet, w.text:sub(expected - w.place + 1)) end
        found = true
        break
      end
    end
  end
end

function stream:append(packet, text)
  self.buffer = self.buffer .. text
  self.parts[#self.parts + 1] = packet
  self:parse()
end

-- cut takes n octets off the front of the buffer, as a record.
function stream:cut(kind, n)
  local record = { kind = kind, at = self.at, text = self.buffer:sub(1, n), parts = self.parts, who = self.who }
  local last = self.parts[#self.parts]
  self.buffer = self.buffer:sub(n + 1)
  self.at = self.at + n
  self.parts = #self.buffer > 0 and { last } or {}
  return record
end

-- begin says what the stream holds from here on: "init", "frames", "units", "plain" or "syn" (n octets of SYN data);
-- echoes: a unit with an echo cookie is before that.
function stream:begin(mode, echoes)
  if self.mode ~= "lost" then
    self.mode, self.after = echoes and "echo" or mode, mode
    self:parse()
  end
end

function stream:parse()
  local step = stream["parse_" .. self.mode]
  while step and #self.buffer > 0 do
    local mode = self.mode
    if not step(self) then return end
    if self.mode ~= mode then step = stream["parse_" .. self.mode] end
  end
end

function stream:parse_init()
  local magic = INIT[self.who]
  local n = math.min(4, #self.buffer)
  if self.buffer:sub(1, n) ~= magic:sub(1, n) then
    local record = self:cut("bad", #self.buffer)
    record.why = "the stream does not begin with " .. (self.who == "a" and "INIT1_MAGIC" or "INIT2_MAGIC")
    self.mode = "plain"
    self.take(record)
    return true
  end
  if #self.buffer < 8 then return false end
  local len = u32(self.buffer, 4)
  if len < 9 or len > MAX_INIT then
    local record = self:cut("bad", #self.buffer)
    record.why = "message_len is " .. len
    self:lose()
    self.take(record)
    return true
  end
  if #self.buffer < len then return false end
  local record = self:cut("init", len)
  self.mode = "frames"
  self.take(record)
  return true
end

function stream:parse_frames()
  if #self.buffer < HEADER then return false end
  local n = HEADER + u16(self.buffer, 1)
  if #self.buffer < n then return false end
  self.take(self:cut("frame", n))
  return true
end

-- parse_units reads Inner Space units: SPS(16) InOO(14) Len(2) = 1, inner options, payload.
function stream:parse_units()
  if #self.buffer < 4 then return false end
  local sps, offset = u16(self.buffer, 0), u16(self.buffer, 2)
  local len = offset % 4
  if len ~= 1 then
    local record = self:cut("bad", #self.buffer)
    record.why = ("Inner Space: Len is %d, not 1"):format(len)
    self:lose()
    self.take(record)
    return true
  end
  local inner = (offset - len) -- 4 * InOO
  if #self.buffer < 4 + inner + sps then return false end
  local record = self:cut("unit", 4 + inner + sps)
  record.sps, record.inoo, record.len = sps, inner / 4, len
  record.options, record.payload = record.text:sub(5, 4 + inner), record.text:sub(5 + inner)
  self.take(record)
  return true
end

-- parse_echo reads the one unit in which host A sends an echo cookie back, ahead of all else.
function stream:parse_echo()
  local units = self.at
  if not self:parse_units() then return false end
  if self.mode == "echo" and self.at > units then self.mode = self.after end
  return true
end

function stream:parse_plain() -- not ours
  self:cut("plain", #self.buffer)
  return true
end

-- nonce is the frame's, for a nonce randomizer (RFC 8548, Sections 3.6 and 4.2.3). offset is below 2^53.
function stream.nonce(randomizer, offset)
  local bits = bit32 or bit
  local out, n = {}, offset
  for i = 12, 1, -1 do
    local o = i > 4 and n % 256 or 0
    n = (n - n % 256) / 256
    out[i] = string.char(bits.bxor(randomizer:byte(i), math.floor(o)))
  end
  return table.concat(out)
end

return stream
