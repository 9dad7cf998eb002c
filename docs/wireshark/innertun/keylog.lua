-- The key log: TCPCRYPT <session id> <generation> <k_ab> <k_ba> <cipher> <host A ip:port> <host B ip:port>
-- Host A is the end that seals with k_ab.

local keylog = {}

local function octets(hex)
  if #hex % 2 ~= 0 or hex:find("%X") then return nil end
  return (hex:gsub("..", function(o) return string.char(tonumber(o, 16)) end))
end

local function endpoint(s) -- [ip]:port without its brackets
  return (s:gsub("^%[(.*)%]:", "%1:"))
end

-- read returns the sessions of a file, each { id =, a =, b =, keys = { [generation] = { ab =, ba =, cipher = } } }, in the
-- order of their first lines, and the number of lines that were not understood; or nil and why the file cannot be read.
-- Lines for early data have an `early` of their own, those for the proof in a SYN-ACK-U a `proof`.
function keylog.read(name)
  local file, err = io.open(name, "r")
  if not file then return nil, err end
  local sessions, known, bad = {}, {}, 0
  for line in file:lines() do
    local label, id, generation, ab, ba, cipher, a, b =
      line:match("^(TCPCRYPT%S*) (%x+) (%d+) (%x+) (%x+) (%x+) (%S+) (%S+)%s*$")
    local k_ab, k_ba = ab and octets(ab), ba and octets(ba)
    if k_ab and k_ba and octets(id) then
      local name = label .. id .. a .. b
      local session = known[name]
      if not session then
        session = { id = octets(id), a = endpoint(a), b = endpoint(b), early = label == "TCPCRYPT-EARLY",
          proof = label == "TCPCRYPT-PROOF", keys = {} }
        known[name] = session
        sessions[#sessions + 1] = session
      end
      session.keys[tonumber(generation)] = { ab = k_ab, ba = k_ba, cipher = tonumber(cipher, 16) }
    elseif line:find("%S") and not line:find("^#") then
      bad = bad + 1
    end
  end
  file:close()
  return sessions, bad
end

return keylog
