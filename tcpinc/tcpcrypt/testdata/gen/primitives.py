"""Cryptographic primitives for test vectors, written for clarity from their specifications. Never for real use: slow, and
not constant-time. Standard library only.
"""

import hashlib
import hmac
import struct


# --- HKDF with SHA-256, RFC 5869 ---------------------------------------------------------------------------------------

def hmac_sha256(key, message):
    return hmac.new(key, message, hashlib.sha256).digest()


def hkdf_extract(salt, ikm):
    return hmac_sha256(salt, ikm)


def hkdf_expand(prk, info, length):
    okm, block, counter = b"", b"", 1
    while len(okm) < length:
        block = hmac_sha256(prk, block + info + bytes([counter]))
        okm += block
        counter += 1
    return okm[:length]


# --- X25519, RFC 7748, Section 5 ---------------------------------------------------------------------------------------

P25519 = 2**255 - 19


def x25519(scalar, u):
    k = bytearray(scalar)
    k[0] &= 248
    k[31] = (k[31] & 127) | 64
    k = int.from_bytes(k, "little")
    x1 = int.from_bytes(u, "little") % 2**255 % P25519
    x2, z2, x3, z3 = 1, 0, x1, 1
    swap = 0
    for t in reversed(range(255)):
        bit = (k >> t) & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb, aa, bb = d * a, c * b, a * a, b * b
        e = aa - bb
        x3, z3 = pow(da + cb, 2, P25519), x1 * pow(da - cb, 2, P25519) % P25519
        x2, z2 = aa * bb % P25519, e * (aa + 121665 * e) % P25519
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, P25519 - 2, P25519) % P25519).to_bytes(32, "little")


X25519_BASE = (9).to_bytes(32, "little")


# --- P-256, FIPS 186-4, Section D.1.2.3, in affine coordinates ----------------------------------------------------------

P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
G = (0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
     0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5)


def p256_add(p, q):
    if p is None:
        return q
    if q is None:
        return p
    if p[0] == q[0]:
        if (p[1] + q[1]) % P == 0:
            return None
        slope = (3 * p[0] * p[0] - 3) * pow(2 * p[1], P - 2, P)
    else:
        slope = (q[1] - p[1]) * pow(q[0] - p[0], P - 2, P)
    x = (slope * slope - p[0] - q[0]) % P
    return x, (slope * (p[0] - x) - p[1]) % P


def p256_multiply(k, p):
    r = None
    while k:
        if k & 1:
            r = p256_add(r, p)
        p = p256_add(p, p)
        k >>= 1
    return r


def p256_compress(p):
    return bytes([2 + p[1] % 2]) + p[0].to_bytes(32, "big")


def p256_decompress(b):
    x = int.from_bytes(b[1:], "big")
    y = pow(x**3 - 3 * x + B, (P + 1) // 4, P)
    if (y * y - (x**3 - 3 * x + B)) % P:
        raise ValueError("not on the curve")
    return x, y if y % 2 == b[0] % 2 else P - y


# --- AES, FIPS 197 ---------------------------------------------------------------------------------------------------

def _xtime(a):
    return ((a << 1) ^ (0x1B if a & 0x80 else 0)) & 0xFF


def _gf_multiply(a, b):
    r = 0
    while b:
        if b & 1:
            r ^= a
        a, b = _xtime(a), b >> 1
    return r


def _sbox():
    box = []
    for value in range(256):
        inverse = next((i for i in range(256) if _gf_multiply(value, i) == 1), 0)
        s = 0x63
        for shift in range(5):
            s ^= ((inverse << shift) | (inverse >> (8 - shift))) & 0xFF
        box.append(s)
    return box


SBOX = _sbox()


def aes_expand(key):
    words = [list(key[i:i + 4]) for i in range(0, len(key), 4)]
    nk, rcon = len(words), 1
    for i in range(nk, 4 * (nk + 7)):
        w = list(words[-1])
        if i % nk == 0:
            w = [SBOX[b] for b in w[1:] + w[:1]]
            w[0] ^= rcon
            rcon = _xtime(rcon)
        elif nk > 6 and i % nk == 4:
            w = [SBOX[b] for b in w]
        words.append([a ^ b for a, b in zip(w, words[i - nk])])
    return [sum(words[i:i + 4], []) for i in range(0, len(words), 4)]


def aes_encrypt(round_keys, block):
    s = [a ^ b for a, b in zip(block, round_keys[0])]
    for number, round_key in enumerate(round_keys[1:], 1):
        s = [SBOX[s[(i + 4 * (i % 4)) % 16]] for i in range(16)]  # SubBytes and ShiftRows, column-major
        if number < len(round_keys) - 1:
            mixed = []
            for c in range(0, 16, 4):
                col = s[c:c + 4]
                for r in range(4):
                    mixed.append(_gf_multiply(col[r], 2) ^ _gf_multiply(col[(r + 1) % 4], 3)
                                 ^ col[(r + 2) % 4] ^ col[(r + 3) % 4])
            s = mixed
        s = [a ^ b for a, b in zip(s, round_key)]
    return bytes(s)


# --- GCM, NIST SP 800-38D -------------------------------------------------------------------------------------------

def _ghash(h, data):
    h, y = int.from_bytes(h, "big"), 0
    for i in range(0, len(data), 16):
        x = y ^ int.from_bytes(data[i:i + 16], "big")
        v, y = h, 0
        for bit in range(127, -1, -1):
            if (x >> bit) & 1:
                y ^= v
            v = (v >> 1) ^ (0xE1 << 120 if v & 1 else 0)
    return y.to_bytes(16, "big")


def _pad16(b):
    return b + bytes(-len(b) % 16)


def aes_gcm_seal(key, nonce, plaintext, associated):
    keys = aes_expand(key)
    stream = b"".join(aes_encrypt(keys, nonce + struct.pack(">I", 2 + i)) for i in range((len(plaintext) + 15) // 16))
    ciphertext = bytes(a ^ b for a, b in zip(plaintext, stream))
    lengths = struct.pack(">QQ", 8 * len(associated), 8 * len(ciphertext))
    tag = _ghash(aes_encrypt(keys, bytes(16)), _pad16(associated) + _pad16(ciphertext) + lengths)
    mask = aes_encrypt(keys, nonce + struct.pack(">I", 1))
    return ciphertext + bytes(a ^ b for a, b in zip(tag, mask))


# --- ChaCha20-Poly1305, RFC 8439 ------------------------------------------------------------------------------------

def _rotate(v, n):
    return ((v << n) | (v >> (32 - n))) & 0xFFFFFFFF


def _quarter(s, a, b, c, d):
    for x, y, z, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        s[x] = (s[x] + s[y]) & 0xFFFFFFFF
        s[z] = _rotate(s[z] ^ s[x], n)


def chacha20_block(key, counter, nonce):
    start = list(struct.unpack("<4I", b"expand 32-byte k")) + list(struct.unpack("<8I", key)) + [counter]
    start += list(struct.unpack("<3I", nonce))
    s = list(start)
    for _ in range(10):
        for i in range(4):
            _quarter(s, i, 4 + i, 8 + i, 12 + i)
        for i in range(4):
            _quarter(s, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(s, start)))


def poly1305(key, message):
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    s = int.from_bytes(key[16:], "little")
    a = 0
    for i in range(0, len(message), 16):
        a = (a + int.from_bytes(message[i:i + 16] + b"\x01", "little")) * r % (2**130 - 5)
    return ((a + s) % 2**128).to_bytes(16, "little")


def chacha20_poly1305_seal(key, nonce, plaintext, associated):
    stream = b"".join(chacha20_block(key, 1 + i, nonce) for i in range((len(plaintext) + 63) // 64))
    ciphertext = bytes(a ^ b for a, b in zip(plaintext, stream))
    lengths = struct.pack("<QQ", len(associated), len(ciphertext))
    one_time = chacha20_block(key, 0, nonce)[:32]
    return ciphertext + poly1305(one_time, _pad16(associated) + _pad16(ciphertext) + lengths)
