-- AES-GCM (NIST SP 800-38D) and ChaCha20-Poly1305 (RFC 8439) in plain Lua, to decrypt captures with: not fast, and not
-- in constant time. For Lua 5.2 (bit32) and later with Wireshark's own `bit`.
--
--   open(cipher, key, nonce, head, sealed) -> plaintext, or nil if the tag does not fit

local bits = bit32 or bit
local bxor, band, bor, rshift, lshift = bits.bxor, bits.band, bits.bor, bits.rshift, bits.lshift
local rotate = bits.lrotate or bits.rol
local floor, byte, char, concat = math.floor, string.byte, string.char, table.concat

local function word(s, i) -- big endian
  local a, b, c, d = byte(s, i, i + 3)
  return bor(lshift(a, 24), lshift(b, 16), lshift(c, 8), d)
end

local function word_le(s, i)
  local a, b, c, d = byte(s, i, i + 3)
  return bor(lshift(d, 24), lshift(c, 16), lshift(b, 8), a)
end

local function octets(w)
  return rshift(w, 24), band(rshift(w, 16), 255), band(rshift(w, 8), 255), band(w, 255)
end

local function octets_le(w)
  return band(w, 255), band(rshift(w, 8), 255), band(rshift(w, 16), 255), rshift(w, 24)
end

-- AES ---------------------------------------------------------------------------------------------------------------

local S, T0, T1, T2, T3 = {}, {}, {}, {}, {}
do
  local p, q = 1, 1 -- p runs through the field, q through the inverses
  local function twice(x)
    x = lshift(x, 1)
    if x > 255 then x = bxor(x, 0x11b) end
    return x
  end
  repeat
    p = bxor(p, twice(p))
    q = bxor(q, lshift(q, 1))
    q = bxor(q, lshift(q, 2))
    q = band(bxor(q, lshift(q, 4)), 255)
    if band(q, 128) ~= 0 then q = bxor(q, 9) end
    local function turn(n) return band(bor(lshift(q, n), rshift(q, 8 - n)), 255) end
    S[p] = bxor(q, turn(1), turn(2), turn(3), turn(4), 0x63)
  until p == 1
  S[0] = 0x63
  for i = 0, 255 do
    local s = S[i]
    local d = twice(s)
    T0[i] = bor(lshift(d, 24), lshift(s, 16), lshift(s, 8), bxor(d, s))
    T1[i] = rotate(T0[i], 24)
    T2[i] = rotate(T0[i], 16)
    T3[i] = rotate(T0[i], 8)
  end
end

local function substitute(w)
  local a, b, c, d = octets(w)
  return bor(lshift(S[a], 24), lshift(S[b], 16), lshift(S[c], 8), S[d])
end

local function expand(key)
  local n = #key / 4
  local w = {}
  for i = 0, n - 1 do w[i] = word(key, 4 * i + 1) end
  local rcon = 1
  for i = n, 4 * (n + 7) - 1 do
    local t = w[i - 1]
    if i % n == 0 then
      t = bxor(substitute(rotate(t, 8)), lshift(rcon, 24))
      rcon = lshift(rcon, 1)
      if rcon > 255 then rcon = bxor(rcon, 0x11b) end
    elseif n > 6 and i % n == 4 then
      t = substitute(t)
    end
    w[i] = bxor(w[i - n], t)
  end
  return w, n + 6
end

-- encrypt returns the block as four words.
local function encrypt(w, rounds, a, b, c, d)
  a, b, c, d = bxor(a, w[0]), bxor(b, w[1]), bxor(c, w[2]), bxor(d, w[3])
  local k = 4
  for _ = 2, rounds do
    a, b, c, d =
      bxor(T0[rshift(a, 24)], T1[band(rshift(b, 16), 255)], T2[band(rshift(c, 8), 255)], T3[band(d, 255)], w[k]),
      bxor(T0[rshift(b, 24)], T1[band(rshift(c, 16), 255)], T2[band(rshift(d, 8), 255)], T3[band(a, 255)], w[k + 1]),
      bxor(T0[rshift(c, 24)], T1[band(rshift(d, 16), 255)], T2[band(rshift(a, 8), 255)], T3[band(b, 255)], w[k + 2]),
      bxor(T0[rshift(d, 24)], T1[band(rshift(a, 16), 255)], T2[band(rshift(b, 8), 255)], T3[band(c, 255)], w[k + 3])
    k = k + 4
  end
  local function last(p, q, r, s, key)
    return bxor(bor(lshift(S[rshift(p, 24)], 24), lshift(S[band(rshift(q, 16), 255)], 16),
      lshift(S[band(rshift(r, 8), 255)], 8), S[band(s, 255)]), key)
  end
  return last(a, b, c, d, w[k]), last(b, c, d, a, w[k + 1]), last(c, d, a, b, w[k + 2]), last(d, a, b, c, w[k + 3])
end

-- GHASH -------------------------------------------------------------------------------------------------------------

-- hash_table holds, for each of 16 places and each octet there, the product with the hash key: four words each.
local function hash_table(h0, h1, h2, h3)
  local t = {}
  local v0, v1, v2, v3 = h0, h1, h2, h3
  for place = 1, 16 do
    local t0, t1, t2, t3 = { [0] = 0 }, { [0] = 0 }, { [0] = 0 }, { [0] = 0 }
    local bit = 128
    while bit > 0 do
      t0[bit], t1[bit], t2[bit], t3[bit] = v0, v1, v2, v3
      local carry = band(v3, 1)
      v3 = bor(rshift(v3, 1), lshift(band(v2, 1), 31))
      v2 = bor(rshift(v2, 1), lshift(band(v1, 1), 31))
      v1 = bor(rshift(v1, 1), lshift(band(v0, 1), 31))
      v0 = rshift(v0, 1)
      if carry ~= 0 then v0 = bxor(v0, 0xe1000000) end
      bit = floor(bit / 2)
    end
    local high = 1
    for i = 1, 255 do
      if i >= 2 * high then high = 2 * high end
      if i > high then
        local low = i - high
        t0[i], t1[i] = bxor(t0[high], t0[low]), bxor(t1[high], t1[low])
        t2[i], t3[i] = bxor(t2[high], t2[low]), bxor(t3[high], t3[low])
      end
    end
    t[place] = { t0, t1, t2, t3 }
  end
  return t
end

local function multiply(t, w, a, b, c, d)
  local i1, i2, i3, i4 = octets(a)
  local i5, i6, i7, i8 = octets(b)
  local i9, i10, i11, i12 = octets(c)
  local i13, i14, i15, i16 = octets(d)
  local x = t[w]
  return bxor(x[1][i1], x[2][i2], x[3][i3], x[4][i4], x[5][i5], x[6][i6], x[7][i7], x[8][i8],
    x[9][i9], x[10][i10], x[11][i11], x[12][i12], x[13][i13], x[14][i14], x[15][i15], x[16][i16])
end

local function ghash(t, y, s)
  local y0, y1, y2, y3 = y[1], y[2], y[3], y[4]
  if #s % 16 ~= 0 then s = s .. ("\0"):rep(16 - #s % 16) end
  for i = 1, #s, 16 do
    local a, b, c, d = bxor(y0, word(s, i)), bxor(y1, word(s, i + 4)), bxor(y2, word(s, i + 8)), bxor(y3, word(s, i + 12))
    y0, y1, y2, y3 = multiply(t, 1, a, b, c, d), multiply(t, 2, a, b, c, d), multiply(t, 3, a, b, c, d), multiply(t, 4, a, b, c, d)
  end
  y[1], y[2], y[3], y[4] = y0, y1, y2, y3
end

local function gcm_key(key)
  local w, rounds = expand(key)
  local by_place = hash_table(encrypt(w, rounds, 0, 0, 0, 0))
  local t = {} -- by word, then place
  for i = 1, 4 do
    t[i] = {}
    for place = 1, 16 do t[i][place] = by_place[place][i] end
  end
  return { w = w, rounds = rounds, t = t }
end

local function text(a, b, c, d)
  local a1, a2, a3, a4 = octets(a)
  local b1, b2, b3, b4 = octets(b)
  local c1, c2, c3, c4 = octets(c)
  return char(a1, a2, a3, a4, b1, b2, b3, b4, c1, c2, c3, c4, octets(d))
end

local function gcm_open(k, nonce, head, sealed, tag)
  local y = { 0, 0, 0, 0 }
  ghash(k.t, y, head)
  ghash(k.t, y, sealed)
  local n0, n1, n2 = word(nonce, 1), word(nonce, 5), word(nonce, 9)
  local w, rounds = k.w, k.rounds
  ghash(k.t, y, text(0, 8 * #head, floor(8 * #sealed / 4294967296), band(8 * #sealed, 0xffffffff)))
  local m0, m1, m2, m3 = encrypt(w, rounds, n0, n1, n2, 1)
  if text(bxor(m0, y[1]), bxor(m1, y[2]), bxor(m2, y[3]), bxor(m3, y[4])) ~= tag then return nil end
  local out, padded = {}, sealed .. ("\0"):rep(-#sealed % 16)
  local counter = 2
  for i = 1, #sealed, 16 do
    local a, b, c, d = encrypt(w, rounds, n0, n1, n2, counter)
    counter = counter + 1
    out[counter] = text(bxor(a, word(padded, i)), bxor(b, word(padded, i + 4)), bxor(c, word(padded, i + 8)), bxor(d, word(padded, i + 12)))
  end
  return concat(out, "", 3, counter > 2 and counter or 2):sub(1, #sealed)
end

-- ChaCha20 and Poly1305 ---------------------------------------------------------------------------------------------

local function quarter(x, a, b, c, d)
  local xa, xb, xc, xd = x[a], x[b], x[c], x[d]
  xa = band(xa + xb, 0xffffffff); xd = rotate(bxor(xd, xa), 16)
  xc = band(xc + xd, 0xffffffff); xb = rotate(bxor(xb, xc), 12)
  xa = band(xa + xb, 0xffffffff); xd = rotate(bxor(xd, xa), 8)
  xc = band(xc + xd, 0xffffffff); xb = rotate(bxor(xb, xc), 7)
  x[a], x[b], x[c], x[d] = xa, xb, xc, xd
end

local function chacha_block(state, counter, x)
  state[13] = counter
  for i = 1, 16 do x[i] = state[i] end
  for _ = 1, 10 do
    quarter(x, 1, 5, 9, 13); quarter(x, 2, 6, 10, 14); quarter(x, 3, 7, 11, 15); quarter(x, 4, 8, 12, 16)
    quarter(x, 1, 6, 11, 16); quarter(x, 2, 7, 12, 13); quarter(x, 3, 8, 9, 14); quarter(x, 4, 5, 10, 15)
  end
  for i = 1, 16 do x[i] = band(x[i] + state[i], 0xffffffff) end
end

local function chacha_state(key, nonce)
  local s = { 0x61707865, 0x3320646e, 0x79622d32, 0x6b206574 }
  for i = 0, 7 do s[5 + i] = word_le(key, 4 * i + 1) end
  s[13] = 0
  for i = 0, 2 do s[14 + i] = word_le(nonce, 4 * i + 1) end
  return s
end

-- limbs splits 17 octets into six numbers of 22 bits, so that no sum of products is beyond 2^53.
local function limbs(s, i)
  local function unsigned(w) return w % 4294967296 end
  local a, b, c, d = unsigned(word_le(s, i)), unsigned(word_le(s, i + 4)), unsigned(word_le(s, i + 8)), unsigned(word_le(s, i + 12))
  local B = 4194304
  return a % B,
    floor(a / B) + b % 4096 * 1024,
    floor(b / 4096) + c % 4 * 1048576,
    floor(c / 4) % B,
    floor(c / 16777216) + d % 16384 * 256,
    floor(d / 16384)
end

-- poly1305 authenticates s, whose length is a multiple of 16 octets.
local function poly1305(key, s)
  local B = 4194304
  local clamped = {}
  for i = 1, 16 do
    local o = byte(key, i)
    if i % 4 == 0 then o = band(o, 15) elseif i % 4 == 1 and i > 1 then o = band(o, 252) end
    clamped[i] = char(o)
  end
  local r0, r1, r2, r3, r4, r5 = limbs(concat(clamped), 1)
  local s1, s2, s3, s4, s5 = 20 * r1, 20 * r2, 20 * r3, 20 * r4, 20 * r5 -- 2^132 = 20 modulo 2^130 - 5
  local h0, h1, h2, h3, h4, h5 = 0, 0, 0, 0, 0, 0
  for i = 1, #s, 16 do
    local m0, m1, m2, m3, m4, m5 = limbs(s, i)
    h0, h1, h2, h3, h4, h5 = h0 + m0, h1 + m1, h2 + m2, h3 + m3, h4 + m4, h5 + m5 + 262144 -- 2^128
    local d0 = h0 * r0 + h1 * s5 + h2 * s4 + h3 * s3 + h4 * s2 + h5 * s1
    local d1 = h0 * r1 + h1 * r0 + h2 * s5 + h3 * s4 + h4 * s3 + h5 * s2
    local d2 = h0 * r2 + h1 * r1 + h2 * r0 + h3 * s5 + h4 * s4 + h5 * s3
    local d3 = h0 * r3 + h1 * r2 + h2 * r1 + h3 * r0 + h4 * s5 + h5 * s4
    local d4 = h0 * r4 + h1 * r3 + h2 * r2 + h3 * r1 + h4 * r0 + h5 * s5
    local d5 = h0 * r5 + h1 * r4 + h2 * r3 + h3 * r2 + h4 * r1 + h5 * r0
    local c = floor(d0 / B); h0 = d0 - c * B
    d1 = d1 + c; c = floor(d1 / B); h1 = d1 - c * B
    d2 = d2 + c; c = floor(d2 / B); h2 = d2 - c * B
    d3 = d3 + c; c = floor(d3 / B); h3 = d3 - c * B
    d4 = d4 + c; c = floor(d4 / B); h4 = d4 - c * B
    d5 = d5 + c; c = floor(d5 / B); h5 = d5 - c * B
    h0 = h0 + 20 * c
    c = floor(h0 / B); h0 = h0 - c * B; h1 = h1 + c
  end
  local h = { h0, h1, h2, h3, h4, h5 }
  local function carry()
    for i = 1, 5 do
      local c = floor(h[i] / B)
      h[i], h[i + 1] = h[i] - c * B, h[i + 1] + c
    end
  end
  carry()
  for _ = 1, 2 do -- what is above 2^130 comes back times five
    local c = floor(h[6] / 1048576)
    h[6] = h[6] - c * 1048576
    h[1] = h[1] + 5 * c
    carry()
  end
  if h[6] == 1048575 and h[5] == B - 1 and h[4] == B - 1 and h[3] == B - 1 and h[2] == B - 1 and h[1] >= B - 5 then
    h = { h[1] - (B - 5), 0, 0, 0, 0, 0 }
  end
  -- Plus the key's second half, modulo 2^128, octet by octet.
  local out, bitsleft, acc, at, c = {}, 0, 0, 1, 0
  for i = 1, 16 do
    if bitsleft < 8 then
      acc, bitsleft, at = acc + h[at] * 2 ^ bitsleft, bitsleft + 22, at + 1
    end
    local sum = acc % 256 + byte(key, 16 + i) + c
    acc, bitsleft, c = floor(acc / 256), bitsleft - 8, floor(sum / 256)
    out[i] = char(floor(sum % 256))
  end
  return concat(out)
end

local function stream_text(x, n)
  local out = {}
  for i = 1, n do out[i] = char(octets_le(x[i])) end
  return concat(out)
end

local function size(n) -- 64 bits, little endian
  local out = {}
  for i = 1, 8 do
    out[i] = char(floor(n % 256))
    n = floor(n / 256)
  end
  return concat(out)
end

local function chacha_open(k, nonce, head, sealed, tag)
  local state, x = chacha_state(k.key, nonce), {}
  chacha_block(state, 0, x)
  local function pad(s) return s .. ("\0"):rep(-#s % 16) end
  if poly1305(stream_text(x, 8), pad(head) .. pad(sealed) .. size(#head) .. size(#sealed)) ~= tag then return nil end
  local out, padded, n = {}, sealed .. ("\0"):rep(-#sealed % 64), 0
  for i = 1, #sealed, 64 do
    chacha_block(state, floor((i + 63) / 64), x)
    for j = 1, 16 do
      n = n + 1
      out[n] = char(octets_le(bxor(x[j], word_le(padded, i + 4 * j - 4))))
    end
  end
  return concat(out):sub(1, #sealed)
end

-- -------------------------------------------------------------------------------------------------------------------

local ciphers = { -- RFC 8548, Section 7, Table 5
  [0x0001] = { name = "aes-128-gcm", key = 16, new = gcm_key, open = gcm_open },
  [0x0002] = { name = "aes-256-gcm", key = 32, new = gcm_key, open = gcm_open },
  [0x0010] = { name = "chacha20-poly1305", key = 32, new = function(key) return { key = key } end, open = chacha_open },
}

local aead = { ciphers = ciphers, tag = 16 }

-- new prepares a key. It returns nil for a cipher that is not known or a key of another length.
function aead.new(cipher, key)
  local c = ciphers[cipher]
  if not c or #key ~= c.key then return nil end
  return { open = c.open, state = c.new(key) }
end

-- open returns the plaintext, or nil if nonce, head, sealed octets and tag do not belong together.
function aead.open(k, nonce, head, sealed)
  if #sealed < aead.tag then return nil end
  return k.open(k.state, nonce, head, sealed:sub(1, -aead.tag - 1), sealed:sub(-aead.tag))
end

return aead
