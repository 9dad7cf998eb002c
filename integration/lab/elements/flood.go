package elements

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"innertun/integration/lab"
)

// curve25519 is TCPCRYPT_ECDHE_Curve25519 (RFC 8548, Section 7).
const curve25519 = 0x23

// floodWords are what the SYNs of a flood carry.
var floodWords = []string{"syn", "syn-eno", "syn-u", "mixed"}

func floodKind(group string) Kind {
	return Kind{"flood", group, "sends SYNs with forged sources to the server; their answers are lost", []Param{
		{"kind", Word, "syn", floodWords, "plain, with ENO, upgraded with ENO and Init1, or these in turn"},
		{"rate", Int, 1000, nil, "SYNs a second; 0: the burst alone"},
		{"burst", Int, 0, nil, "so many at once when it begins, ahead of what passes then"},
		{"count", Int, 10000, nil, "so many in all; 0: without end"},
		{"after", Duration, "0s", nil, "since the first SYN that passed to side b"},
		{"target", Text, "", nil, "ADDRESS:PORT at side b; without: where that SYN goes"},
	}, "flood:kind=mixed,rate=500,burst=50", flood}
}

func flood(a args, env Env) (lab.Element, error) {
	f := &lab.Flood{Rate: a.int("rate"), Burst: a.int("burst"), Count: a.int("count"), Wait: a.time("after"), Seed: env.Seed}
	if text := a.word("target"); text != "" {
		var err error
		if f.Target, err = netip.ParseAddrPort(text); err != nil {
			return nil, fmt.Errorf("%w: target = %q: expected an address and a port, as 198.18.0.2:80 or [fd00::2]:80", ErrParam, text)
		}
	}
	if f.Rate == 0 && f.Burst == 0 {
		return nil, fmt.Errorf("%w: rate = 0 needs a burst", ErrParam)
	}
	plain := func(int) ([]byte, []byte) { return []byte{2, 4, 5, 180}, nil }
	withENO := func(int) ([]byte, []byte) {
		return []byte{2, 4, 5, 180, 69, 3, curve25519, 1}, nil
	}
	upgraded := func(i int) ([]byte, []byte) { return []byte{2, 4, 5, 180}, upgradedSYN(env.Seed, i) }
	switch a.word("kind") {
	case "syn":
		f.SYN = plain
	case "syn-eno":
		f.SYN = withENO
	case "syn-u":
		f.SYN = upgraded
	default:
		f.SYN = func(i int) ([]byte, []byte) {
			return []func(int) ([]byte, []byte){plain, withENO, upgraded}[i%3](i)
		}
	}
	f.Start()
	return f, nil
}

// upgradedSYN is the data of the i-th upgraded SYN, octet by octet as docs/inner-space.md has it. Its nonce and its public key,
// which any 32 octets are, follow from the seed.
func upgradedSYN(seed uint64, i int) []byte {
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	binary.BigEndian.PutUint64(key[8:], uint64(i))
	b := []byte{0x1e, 0x5a, 0x9c, 0x71, 0, 0, 0, 22<<2 | 2, 0xc3, 0xa7, 0, 0} // 22 words of suffix options
	b = append(b, 69, 3, curve25519)
	b = append(b, 253, 83, 0x49, 0x60)                    // Init1 (RFC 8548, Section 4.1), 79 octets
	b = append(b, 0x15, 0x10, 0x1a, 0x0e, 0, 0, 0, 79, 3) // magic, length, three ciphers
	b = append(b, 0, 1, 0, 2, 0, 16)                      // AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305
	noise := make([]byte, 64)
	rand.NewChaCha8(key).Read(noise)
	return append(append(b, noise...), 1, 1)
}

func routerKind(group string) Kind {
	return Kind{"router", group, "a hop: counts down the time to live, answers what has none left by ICMP", []Param{
		{"address4", Text, "198.18.255.254", nil, "whence it answers IPv4; none: it is silent"},
		{"address6", Text, "fd00::fe", nil, "whence it answers IPv6; none: it is silent"},
		{"quote", Size, 0, nil, "at most so much of a packet behind its IP header; 0: all that the RFCs allow"},
	}, "router:quote=8", router}
}

func router(a args, _ Env) (lab.Element, error) {
	cfg := lab.RouterConfig{Quote: a.int("quote")}
	for _, x := range []struct {
		name string
		is4  bool
		to   *netip.Addr
	}{{"address4", true, &cfg.IPv4}, {"address6", false, &cfg.IPv6}} {
		text := a.word(x.name)
		if text == "none" {
			continue
		}
		ip, err := netip.ParseAddr(text)
		if err != nil || ip.Is4() != x.is4 {
			return nil, fmt.Errorf("%w: %s = %q: expected an address of that family, or none", ErrParam, x.name, text)
		}
		*x.to = ip
	}
	return lab.NewRouter(cfg), nil
}
