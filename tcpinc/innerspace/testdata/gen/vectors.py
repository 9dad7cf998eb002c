"""Test vectors for Inner Space, printed as JSON: a second implementation, which shares no code with the first.

    python3 testdata/gen/vectors.py > testdata/vectors.json
"""

import hashlib
import json
import struct
import sys

MAGIC_A, MAGIC_B = bytes.fromhex("1e5a9c71"), bytes.fromhex("c3a7")
INIT, REKEY, PROOF, MTU, CLOSE, OUTER, COOKIE, EARLY = range(0x4960, 0x4968)


def draw(label, length):
    """Octets that stand for random ones."""
    out = b""
    while len(out) < length:
        out += hashlib.sha256(b"innertun inner space vector %s %d" % (label.encode(), len(out))).digest()
    return out[:length]


def text(octets):
    """Octets in hex; a run of 16 or more of one as `xx*length`, all joined by `+`."""
    out, plain, i = [], "", 0
    while i < len(octets):
        n = 1
        while i + n < len(octets) and octets[i + n] == octets[i]:
            n += 1
        if n < 16:
            plain += octets[i:i + n].hex()
        else:
            out += [plain] * (plain != "") + ["%02x*%d" % (octets[i], n)]
            plain = ""
        i += n
    return "+".join(out + [plain] * (plain != ""))


def field(length, low):
    """14 bits of words, 2 bits below them."""
    assert length % 4 == 0 and length // 4 < 2**14
    return struct.pack(">H", (length // 4 << 2) + low)


def words(options):
    while len(options) % 4:
        options += b"\x01"
    return options


def option(kind, data):
    return bytes([kind, 2 + len(data)]) + data


def experiment(exid, body):
    return option(253, struct.pack(">H", exid) + body)


def spread(exid, message):
    out = b""
    for i in range(0, len(message) + 1, 251):
        out += experiment(exid, message[i:i + 251])
    return out


def syn(prefix, suffix, payload):
    prefix, suffix = words(prefix), words(suffix)
    head = MAGIC_A + struct.pack(">H", len(payload)) + field(len(prefix) + len(suffix), 2)
    head += MAGIC_B + field(len(prefix), 0)
    return head + prefix + suffix + payload


def unit(options, payload):
    options = words(options)
    return struct.pack(">H", len(payload)) + field(len(options), 1) + options + payload


def syns():
    init1 = struct.pack(">II", 0x15101A0E, 620) + draw("init1", 612)
    eno = option(69, bytes.fromhex("81a04953") + b"\x21\x23")
    for name, prefix, suffix, payload in (
        ("nothing", b"", b"", b""),
        ("payload", b"", b"", b"GET / HTTP/1.0\r\n\r\n"),
        ("prefix", option(30, b"ab"), b"", b""),
        ("suffix", b"", option(69, b"\x23"), b"x"),
        ("padding of each", option(30, b"abc"), option(31, b"abcd"), b"yz"),
        ("tcpcrypt", b"", eno + spread(INIT, init1), b""),
        ("most options", option(254, b"a" * 253) * 256,
         option(99, b"b" * 250), b""),
        ("most payload", b"", option(4, b""), b"p" * 65535),
    ):
        yield {"name": name, "prefix": text(words(prefix)), "suffix": text(words(suffix)), "payload": text(payload),
               "data": text(syn(prefix, suffix, payload))}


def streams():
    """Whole streams: the units as they were made, and what is to be found in them."""
    def stream(name, units):
        octets, found, position, payload = b"", [], 0, b""
        for options, data in units:
            octets += unit(b"".join(options), data)
            found += [{"option": text(o), "position": position} for o in options if o[0] > 1]
            position += len(data)
            payload += data
        return {"name": name, "octets": text(octets), "payload": text(payload), "found": found}

    yield stream("empty stream", [])
    yield stream("one unit", [([], b"hello")])
    yield stream("empty units", [([], b""), ([], b"a"), ([], b""), ([], b"b"), ([], b"")])
    yield stream("options without payload", [([option(30, b"xyz")], b""), ([option(31, b"")], b"")])
    yield stream("options and payload", [([option(30, b"x"), option(8, bytes(8))], b"one"), ([], b"two"),
                                         ([option(77, draw("c", 253))], b"three")])
    yield stream("nops between", [([b"\x01", option(30, b"x"), b"\x01\x01", option(31, b"y"), b"\x01"], b"data")])
    yield stream("the limits", [([option(254, b"d" * 253)] * 256 + [option(99, b"e" * 250)], b"f" * 65535), ([], b".")])


def controls():
    for name, exid, octets, fields in (
        ("rekey", REKEY, experiment(REKEY, struct.pack(">I", 7)), {"number": 7}),
        ("rekey, last generation", REKEY, experiment(REKEY, b"\xff" * 4), {"number": 2**32 - 1}),
        ("mtu", MTU, experiment(MTU, struct.pack(">H", 1400)), {"number": 1400}),
        ("close", CLOSE, experiment(CLOSE, b"\x02" + "connection refused: Größe".encode()),
         {"number": 2, "text": "connection refused: Größe"}),
        ("close without text", CLOSE, experiment(CLOSE, b"\xc8"), {"number": 200, "text": ""}),
        ("outer timestamps", OUTER, experiment(OUTER, option(8, bytes(range(8)))), {"body": text(option(8, bytes(range(8))))}),
        ("outer nop", OUTER, experiment(OUTER, b"\x01"), {"body": "01"}),
        ("cookie", COOKIE, experiment(COOKIE, draw("cookie", 200)), {"body": text(draw("cookie", 200))}),
        ("early data accepted", EARLY, experiment(EARLY, b"\x01\x05\xdc"), {"number": 1500, "yes": True}),
        ("early data declined", EARLY, experiment(EARLY, b"\x00\x00\x00"), {"number": 0, "yes": False}),
        *((f"init of {n}", INIT, spread(INIT, draw("init", n)), {"body": text(draw("init", n))})
          for n in (0, 1, 250, 251, 252, 502, 620, 4096)),
        ("proof", PROOF, spread(PROOF, draw("proof", 600)), {"body": text(draw("proof", 600))}),
    ):
        yield {"name": name, "exid": exid, "octets": text(octets), "number": 0, "text": "", "body": "", "yes": False, **fields}


def main():
    json.dump({"syns": list(syns()), "streams": list(streams()), "controls": list(controls())}, sys.stdout, indent=1)
    print()


main()
