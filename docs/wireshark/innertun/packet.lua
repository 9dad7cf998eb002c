-- Finds the TCP segment in a packet without Wireshark's fields: on the first of two passes there are none.

local packet = {}

local function ipv4(s) return ("%d.%d.%d.%d"):format(s:byte(1, 4)) end

-- ipv6 writes an address as RFC 5952 wants it.
local function ipv6(s)
  local groups, best, length = {}, 0, 1
  for i = 1, 8 do groups[i] = s:byte(2 * i - 1) * 256 + s:byte(2 * i) end
  local i = 1
  while i <= 8 do
    local n = 0
    while i + n <= 8 and groups[i + n] == 0 do n = n + 1 end
    if n > length then best, length = i, n end
    i = i + math.max(n, 1)
  end
  local function join(from, to)
    local out = {}
    for k = from, to do out[#out + 1] = ("%x"):format(groups[k]) end
    return table.concat(out, ":")
  end
  if best == 0 then return join(1, 8) end
  return join(1, best - 1) .. "::" .. join(best + length, 8)
end

local SCAN = 160 -- octets of link layers and tunnels before the IP header

local function u16(s, at) return s:byte(at + 1) * 256 + s:byte(at + 2) end
local function u32(s, at) return u16(s, at) * 65536 + u16(s, at + 2) end

-- tcp_at returns offset and length of the TCP segment in the IP packet at an offset, and the addresses.
local function tcp_at(s, at, total)
  local version = math.floor(s:byte(at + 1) / 16)
  if version == 4 and #s >= at + 40 then
    local header, len = s:byte(at + 1) % 16 * 4, u16(s, at + 2)
    if header < 20 or s:byte(at + 10) ~= 6 or u16(s, at + 6) % 16384 ~= 0 then return nil end
    if len == 0 then len = total - at end
    return at + header, len - header, ipv4(s:sub(at + 13, at + 16)), ipv4(s:sub(at + 17, at + 20))
  elseif version == 6 and #s >= at + 60 then
    if s:byte(at + 7) ~= 6 then return nil end
    local len = u16(s, at + 4)
    if len == 0 then len = total - at - 40 end
    return at + 40, len, ipv6(s:sub(at + 9, at + 24)), ipv6(s:sub(at + 25, at + 40))
  end
end

-- quoted tells whether the IP packet at an offset is a part of an ICMP error.
local function quoted(s, at)
  if at >= 28 and s:byte(at - 27) == 0x45 and s:byte(at - 18) == 1 then return true end
  return at >= 48 and math.floor(s:byte(at - 47) / 16) == 6 and s:byte(at - 41) == 58
end

-- find looks for the segment between two ports in the first octets of a packet: { src =, dst = (ip:port), seq =, ack_number =,
-- syn =, ack =, rst =, options =, data_at =, data_len = octets of data the segment has }. total is the packet's length as captured.
function packet.find(s, total, src_port, dst_port)
  for at = 0, math.min(SCAN, #s - 40) do
    local tcp, len, src, dst = tcp_at(s, at, total)
    if tcp and #s >= tcp + 20 and u16(s, tcp) == src_port and u16(s, tcp + 2) == dst_port and not quoted(s, at) then
      local header = math.floor(s:byte(tcp + 13) / 16) * 4
      if header >= 20 and header <= len and #s >= tcp + header then
        local flags = s:byte(tcp + 14)
        local function set(bit) return math.floor(flags / bit) % 2 == 1 end
        return {
          src = src .. ":" .. src_port, dst = dst .. ":" .. dst_port, seq = u32(s, tcp + 4), ack_number = u32(s, tcp + 8),
          syn = set(2), ack = set(16), rst = set(4), options = s:sub(tcp + 21, tcp + header),
          data_at = tcp + header, data_len = len - header,
        }
      end
    end
  end
end

packet.SCAN = SCAN
return packet
