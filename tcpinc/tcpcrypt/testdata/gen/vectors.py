"""Test vectors for tcpcrypt (RFC 8548), printed as JSON: a second implementation, which shares no code with the first.

    python3 testdata/gen/vectors.py > testdata/vectors.json
"""

import hashlib
import json
import struct
import sys

from primitives import (P256, P521, X448_BASE, X25519_BASE, aes_gcm_seal, chacha20_poly1305_seal, hkdf_expand,
                        hkdf_extract, x448, x25519)

NEXTK, SESSID, REKEY, KEY_A, KEY_B, RESUME = (bytes([i]) for i in range(1, 7))
INIT1_MAGIC, INIT2_MAGIC = 0x15101A0E, 0x097105E0
K_LEN = 32
EARLY = b"\x10"  # this project's own, not of the RFC
CIPHERS = {0x0001: (16, aes_gcm_seal), 0x0002: (32, aes_gcm_seal), 0x0010: (32, chacha20_poly1305_seal)}


def draw(label, length=32):
    """Octets that stand for random ones."""
    label = b"innertun tcpcrypt vector " + label.encode()
    blocks = [hashlib.sha256(label + bytes([i]) * (i > 0)).digest() for i in range((length + 31) // 32)]
    return b"".join(blocks)[:length]


class Montgomery:
    """A public key is sent as it is. RFC 8548, Section 5."""

    def __init__(self, name, tep, function, base):
        self.name, self.tep, self.function, self.base = name, tep, function, base

    def private(self, label):
        return draw(label, len(self.base))

    def public(self, private):
        return self.function(private, self.base)

    def shared(self, private, public):
        return self.function(private, public)


class Nist:
    """A public key is a compressed point with its length, which counts itself. RFC 8548, Section 5."""

    def __init__(self, name, tep, curve):
        self.name, self.tep, self.curve = name, tep, curve

    def private(self, label):
        excess = 8 * self.curve.size - self.curve.n.bit_length()
        k = draw(label, self.curve.size)
        k = bytes([k[0] & (0xFF >> excess)]) + k[1:]
        assert 0 < int.from_bytes(k, "big") < self.curve.n
        return k

    def public(self, private):
        point = self.curve.compress(self.curve.multiply(int.from_bytes(private, "big"), self.curve.g))
        return struct.pack(">H", 2 + len(point)) + point

    def shared(self, private, public):
        point = self.curve.multiply(int.from_bytes(private, "big"), self.curve.decompress(public[2:]))
        return point[0].to_bytes(self.curve.size, "big")


AGREEMENTS = (
    Montgomery("curve25519", 0x23, x25519, X25519_BASE),
    Montgomery("curve448", 0x24, x448, X448_BASE),
    Nist("p256", 0x21, P256),
    Nist("p521", 0x22, P521),
)


def message(magic, body):
    return struct.pack(">II", magic, 8 + len(body)) + body


def frame(cipher, traffic_key, offset, control, flags, urgent, data):
    key_len, seal = CIPHERS[cipher]
    plaintext = bytes([flags]) + (struct.pack(">H", urgent) if flags & 2 else b"") + data
    header = struct.pack(">BH", control, len(plaintext) + 16)
    frame_id = bytes(4) + struct.pack(">Q", offset)
    nonce = bytes(a ^ b for a, b in zip(frame_id, traffic_key[key_len:]))
    return header + seal(traffic_key[:key_len], nonce, plaintext, header)


def case(curve, cipher, tail=b""):
    name = f"{curve.name}/{cipher:04x}" + ("/tail" if tail else "")
    transcript = bytes.fromhex("4505") + draw(name + " transcript")[:9]
    private = {h: curve.private(f"{name} private {h}") for h in "ab"}
    nonce = {h: draw(f"{name} nonce {h}") for h in "ab"}
    public = {h: curve.public(private[h]) for h in "ab"}
    offered = [0x0010, 0x7777, 0x0002, 0x0001]

    cipher_list = b"".join(struct.pack(">H", c) for c in offered)
    init1 = message(INIT1_MAGIC, bytes([len(offered)]) + cipher_list + nonce["a"] + public["a"] + tail)
    init2 = message(INIT2_MAGIC, struct.pack(">H", cipher) + nonce["b"] + public["b"] + tail)
    es = curve.shared(private["a"], public["b"])
    assert es == curve.shared(private["b"], public["a"])

    ss = [hkdf_extract(nonce["a"], transcript + init1 + init2 + es)]
    for _ in range(2):
        ss.append(hkdf_expand(ss[-1], NEXTK, K_LEN))

    key_len = CIPHERS[cipher][0] + 12

    def keys(secret, sn):
        mk = [hkdf_expand(secret, REKEY + sn, K_LEN)]
        for _ in range(2):
            mk.append(hkdf_expand(mk[-1], REKEY, K_LEN))
        return {
            "mk": [k.hex() for k in mk],
            "k_ab": [hkdf_expand(k, KEY_A, key_len).hex() for k in mk],
            "k_ba": [hkdf_expand(k, KEY_B, key_len).hex() for k in mk],
        }

    def session(i, tep_byte, sn):
        return {
            "sn": sn.hex(),
            "session_id": (bytes([tep_byte]) + hkdf_expand(ss[i], SESSID + sn, K_LEN)).hex(),
            "resume": hkdf_expand(ss[i], RESUME, 18).hex(),
            **keys(ss[i], sn),
        }

    fresh = session(0, curve.tep, b"")
    resumed = session(1, curve.tep | 0x80, draw(name + " resumption")[:16])

    # What the host that seals with the given keys sends, from an offset on: data, a rekey, data, the end.
    def stream(way, keys_of, offset):
        frames = []
        for generation, control, flags, data in (
            (0, 0, 0, b"hello from " + way.encode()),
            (1, 1, 0, b""),
            (1, 0, 0, draw(name + way) * 9),
            (1, 0, 1, b""),
        ):
            f = frame(cipher, bytes.fromhex(keys_of["k_" + way][generation]), offset, control, flags, 0, data)
            frames.append({"generation": generation, "offset": offset, "control": control, "flags": flags, "urgent": 0,
                           "data": data.hex(), "frame": f.hex()})
            offset += len(f)
        return frames

    streams = {"ab": stream("ab", fresh, len(init1)), "ba": stream("ba", fresh, len(init2))}

    # Early data in the SYN of the opener: with its nonce, and the key of its role in the fresh session.
    def early(i, opener, nonce):
        mk = hkdf_expand(ss[i], EARLY + nonce, K_LEN)
        k = {"ab": hkdf_expand(mk, KEY_A, key_len), "ba": hkdf_expand(mk, KEY_B, key_len)}
        data = b"first words of " + opener.encode()
        sealed = frame(cipher, k["ab" if opener == "a" else "ba"], 0, 0, 0, 0, data)
        return {"mk": mk.hex(), "k_ab": k["ab"].hex(), "k_ba": k["ba"].hex(), "data": data.hex(), "frame": sealed.hex()}

    # Whole resumed sessions, in which one host after the other is the opener. Nothing comes before the frames. What is
    # called a and b here is so by the roles in the fresh session.
    resumptions = []
    for i, opener, len_a, len_b in ((1, "a", 8, 8), (2, "b", 0, 5)):
        sn_a, sn_b = draw(f"{name} sn a {i}")[:len_a], draw(f"{name} sn b {i}")[:len_b]
        identifier = hkdf_expand(ss[i], RESUME, 18)
        tep_byte = bytes([curve.tep | 0x80])
        s = session(i, curve.tep | 0x80, sn_a + sn_b)
        resumptions.append({
            "i": i, "opener": opener, "nonce_a": sn_a.hex(), "nonce_b": sn_b.hex(),
            "suboption_a": (tep_byte + identifier[:9] + sn_a).hex(),
            "suboption_b": (tep_byte + identifier[9:] + sn_b).hex(),
            **s, "ab": stream("ab", s, 0), "ba": stream("ba", s, 0),
            "early": early(i, opener, sn_a if opener == "a" else sn_b),
        })

    # What a receiver must bear: reserved bits, an urgent field, large offsets.
    odd = []
    for control, flags, urgent, offset, data in (
        (0xFE, 0xFC, 0, 0, b"reserved bits"),
        (0x00, 0x02, 0xBEEF, 2**32 - 1, b"urgent"),
        (0xFE, 0xFF, 3, 2**63 + 5, b""),
        (0x00, 0x00, 0, 2**64 - 200, b"x"),
    ):
        f = frame(cipher, bytes.fromhex(fresh["k_ab"][0]), offset, control, flags, urgent, data)
        odd.append({"generation": 0, "offset": offset, "control": control, "flags": flags, "urgent": urgent,
                    "data": data.hex(), "frame": f.hex()})

    return {
        "name": name, "tep": curve.tep, "cipher": cipher, "offered": offered, "transcript": transcript.hex(),
        "tail": tail.hex(),
        "private_a": private["a"].hex(), "private_b": private["b"].hex(),
        "nonce_a": nonce["a"].hex(), "nonce_b": nonce["b"].hex(),
        "public_a": public["a"].hex(), "public_b": public["b"].hex(),
        "init1": init1.hex(), "init2": init2.hex(), "es": es.hex(),
        "ss": [s.hex() for s in ss], "fresh": fresh, "resumed": resumed,
        "ab": streams["ab"], "ba": streams["ba"], "odd": odd,
        "resumptions": resumptions,
    }


def main():
    cases = [case(curve, cipher) for curve in AGREEMENTS for cipher in CIPHERS]
    cases += [case(curve, 0x0001, b"to be ignored") for curve in AGREEMENTS]
    json.dump(cases, sys.stdout, indent=1)
    print()


main()
