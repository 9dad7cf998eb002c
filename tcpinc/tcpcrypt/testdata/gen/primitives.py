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


# --- X25519 and X448, RFC 7748, Section 5 -------------------------------------------------------------------------------

P25519 = 2**255 - 19
P448 = 2**448 - 2**224 - 1


def _ladder(p, bits, a24, k, u):
    """The Montgomery ladder: the u coordinate of k times the point with u, on a curve over the field of p."""
    x1 = u % p
    x2, z2, x3, z3 = 1, 0, x1, 1
    swap = 0
    for t in reversed(range(bits)):
        bit = (k >> t) & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb, aa, bb = d * a, c * b, a * a, b * b
        e = aa - bb
        x3, z3 = pow(da + cb, 2, p), x1 * pow(da - cb, 2, p) % p
        x2, z2 = aa * bb % p, e * (aa + a24 * e) % p
    if swap:
        x2, z2 = x3, z3
    return x2 * pow(z2, p - 2, p) % p


def x25519(scalar, u):
    k = bytearray(scalar)
    k[0] &= 248
    k[31] = (k[31] & 127) | 64
    u = int.from_bytes(u, "little") % 2**255
    return _ladder(P25519, 255, 121665, int.from_bytes(k, "little"), u).to_bytes(32, "little")


def x448(scalar, u):
    k = bytearray(scalar)
    k[0] &= 252
    k[55] |= 128
    u = int.from_bytes(u, "little")
    return _ladder(P448, 448, 39081, int.from_bytes(k, "little"), u).to_bytes(56, "little")


X25519_BASE = (9).to_bytes(32, "little")
X448_BASE = (5).to_bytes(56, "little")


# --- P-256 and P-521, FIPS 186-4, Section D.1.2, in affine coordinates --------------------------------------------------

class Weierstrass:
    """The curve y^2 = x^3 - 3x + b over the field of p, with base point g of order n. None is the point at infinity."""

    def __init__(self, p, n, b, g):
        self.p, self.n, self.b, self.g = p, n, b, g
        self.size = (p.bit_length() + 7) // 8
        assert self._right(g[0]) == g[1] * g[1] % p and self.multiply(n, g) is None

    def _right(self, x):
        return (x**3 - 3 * x + self.b) % self.p

    def add(self, q, r):
        if q is None:
            return r
        if r is None:
            return q
        if q[0] == r[0]:
            if (q[1] + r[1]) % self.p == 0:
                return None
            slope = (3 * q[0] * q[0] - 3) * pow(2 * q[1], -1, self.p)
        else:
            slope = (r[1] - q[1]) * pow(r[0] - q[0], -1, self.p)
        x = (slope * slope - q[0] - r[0]) % self.p
        return x, (slope * (q[0] - x) - q[1]) % self.p

    def multiply(self, k, q):
        r = None
        while k:
            if k & 1:
                r = self.add(r, q)
            q = self.add(q, q)
            k >>= 1
        return r

    def compress(self, q):
        return bytes([2 + q[1] % 2]) + q[0].to_bytes(self.size, "big")

    def decompress(self, b):
        x = int.from_bytes(b[1:], "big")
        y = pow(self._right(x), (self.p + 1) // 4, self.p)  # p = 3 mod 4
        if y * y % self.p != self._right(x):
            raise ValueError("not on the curve")
        return x, y if y % 2 == b[0] % 2 else self.p - y


P256 = Weierstrass(
    p=0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF,
    n=0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    b=0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    g=(0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
       0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5))

P521 = Weierstrass(
    p=2**521 - 1,
    n=0x01FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFA51868783BF2F966B7FCC0148F709A5D03BB5C9B8899C47AEBB6FB71E91386409,
    b=0x0051953EB9618E1C9A1F929A21A0B68540EEA2DA725B99B315F3B8B489918EF109E156193951EC7E937B1652C0BD3BB1BF073573DF883D2C34F1EF451FD46B503F00,
    g=(0x00C6858E06B70404E9CD9E3ECB662395B4429C648139053FB521F828AF606B4D3DBAA14B5E77EFE75928FE1DC127A2FFA8DE3348B3C1856A429BF97E7E31C2E5BD66,
       0x011839296A789A3BC0045C8A5FB42C7D1BD998F54449579B446817AFBD17273E662C97EE72995EF42640C550B9013FAD0761353C7086A272C24088BE94769FD16650))


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
