package packet

import (
	"bytes"
	"net/netip"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var (
	here4, there4 = netip.MustParseAddrPort("198.18.0.1:20000"), netip.MustParseAddrPort("198.18.0.2:80")
	here6, there6 = netip.MustParseAddrPort("[fd00::1]:20000"), netip.MustParseAddrPort("[fd00::2]:80")
)

func samples() []Segment {
	options := []byte{2, 4, 5, 0xb4, 69, 3, 0x23, 1}
	return []Segment{
		{From: here4, To: there4, Hops: 3, ID: 77, Seq: 1 << 31, Flags: SYN, Window: 65535, Options: options},
		{From: here6, To: there6, Hops: 64, Seq: 5, Ack: 6, Flags: SYN | ACK, Window: 1, Options: options, Payload: []byte("abc")},
		{From: here4, To: there4, Hops: 255, Seq: 1, Ack: 2, Flags: FIN | PSH | ACK, Payload: []byte("x")},
		{From: here6, To: there6, Hops: 1, Flags: RST},
	}
}

func TestRoundTrip(t *testing.T) {
	for _, s := range samples() {
		pkt, err := s.Append([]byte("before"))
		if err != nil {
			t.Fatal(err)
		}
		pkt = pkt[len("before"):]
		got, err := Parse(pkt)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
			t.Error(diff)
		}
		if !Intact(pkt) {
			t.Error("wrong checksum")
		}
		for n := range pkt {
			if _, err := Parse(pkt[:n]); err == nil {
				t.Errorf("parsed %d octets of %d", n, len(pkt))
			}
			if Intact(pkt[:n]) {
				t.Errorf("%d octets of %d are intact", n, len(pkt))
			}
		}
		for i := range pkt {
			if here := s.From.Addr(); here.Is6() && (i < 4 || i == 7) {
				continue // in no checksum: class, flow label, hop limit
			}
			bad := bytes.Clone(pkt)
			bad[i] ^= 0x10
			if Intact(bad) {
				t.Errorf("octet %d turned over, and nothing noticed", i)
			}
		}
	}
}

func TestAppendErrors(t *testing.T) {
	for name, s := range map[string]Segment{
		"families": {From: here4, To: there6},
		"nowhere":  {From: here4},
		"options":  {From: here4, To: there4, Options: make([]byte, 41)},
		"long":     {From: here4, To: there4, Payload: make([]byte, 1<<16)},
	} {
		if b, err := s.Append([]byte{9}); err == nil || len(b) != 1 {
			t.Errorf("%s: %v, %d octets", name, err, len(b))
		}
	}
}

// icmp puts a message around a quote, without checksums.
func icmp(kind, code byte, is4 bool, quote []byte) []byte {
	body := append([]byte{kind, code, 0, 0, 0, 0, 0, 0}, quote...)
	if is4 {
		s := Segment{From: netip.MustParseAddrPort("198.18.9.9:0"), To: here4, Hops: 60}
		pkt := s.appendIP(nil, len(body))
		pkt[9] = protocolICMP
		return append(pkt, body...)
	}
	s := Segment{From: netip.MustParseAddrPort("[fd00::9]:0"), To: here6, Hops: 60}
	pkt := s.appendIP(nil, len(body))
	pkt[6] = protocolICMPv6
	return append(pkt, body...)
}

func TestNotice(t *testing.T) {
	for _, s := range samples() {
		sent, _ := s.Append(nil)
		is4 := s.From.Addr().Is4()
		kind := byte(3)
		header := ipv6Header
		if is4 {
			kind, header = 11, ipv4Header
		}
		for cut := header + minQuote; cut <= len(sent); cut++ {
			n, err := ParseNotice(icmp(kind, 0, is4, sent[:cut]))
			if err != nil {
				t.Fatalf("%d octets quoted: %v", cut, err)
			}
			if n.Cause != TimeExceeded || n.Quote.From != s.From || n.Quote.To != s.To || n.Quote.Seq != s.Seq || n.Quote.ID != s.ID {
				t.Errorf("%+v", n)
			}
			if c := Compare(sent, n.Quote); len(c) != 0 {
				t.Errorf("%d octets quoted: %v", cut, c)
			}
		}
		for cut := range header + minQuote {
			if _, err := ParseNotice(icmp(kind, 0, is4, sent[:cut])); err == nil {
				t.Errorf("%d octets are a quote", cut)
			}
		}
		// RFC 4884: padded, an extension behind it.
		long := icmp(kind, 0, is4, append(append(bytes.Clone(sent), make([]byte, 128-len(sent))...), 0x20, 0, 0, 0))
		at := ipv6Header + 4
		words := byte(128 / 8)
		if is4 {
			at, words = ipv4Header+5, 128/4
		}
		long[at] = words
		if n, err := ParseNotice(long); err != nil || len(Compare(sent, n.Quote)) != 0 {
			t.Errorf("with an extension: %v", err)
		}
	}
}

func TestCauses(t *testing.T) {
	sent4, _ := samples()[0].Append(nil)
	sent6, _ := samples()[1].Append(nil)
	for _, c := range []struct {
		is4        bool
		kind, code byte
		want       Cause
	}{
		{true, 3, 0, Unreachable}, {true, 3, 13, Prohibited}, {true, 3, 4, TooBig}, {true, 11, 0, TimeExceeded}, {true, 12, 0, Problem}, {true, 8, 0, 0},
		{false, 1, 0, Unreachable}, {false, 1, 1, Prohibited}, {false, 2, 0, TooBig}, {false, 3, 0, TimeExceeded}, {false, 4, 0, Problem}, {false, 128, 0, 0},
	} {
		quote := sent6
		if c.is4 {
			quote = sent4
		}
		n, err := ParseNotice(icmp(c.kind, c.code, c.is4, quote))
		if (err == nil) != (c.want != 0) || n.Cause != c.want && err == nil {
			t.Errorf("%+v: %v, %v", c, n.Cause, err)
		}
	}
}

func TestCompare(t *testing.T) {
	base := samples()[0]
	base.Payload = []byte("data")
	sent, _ := base.Append(nil)
	for want, edit := range map[string]func(*Segment){
		"sequence":          func(s *Segment) { s.Seq++ },
		"acknowledgment":    func(s *Segment) { s.Ack++ },
		"flags":             func(s *Segment) { s.Flags |= PSH },
		"window":            func(s *Segment) { s.Window = 9 },
		"source":            func(s *Segment) { s.From = there4 },
		"destination":       func(s *Segment) { s.To = here4 },
		"mss":               func(s *Segment) { s.Options = []byte{2, 4, 5, 0, 69, 3, 0x23, 1} },
		"option 69 removed": func(s *Segment) { s.Options = []byte{2, 4, 5, 0xb4, 1, 1, 1, 1} },
		"option 69 changed": func(s *Segment) { s.Options = []byte{2, 4, 5, 0xb4, 69, 3, 0x21, 1} },
		"option 8 added":    func(s *Segment) { s.Options = append([]byte{8, 2, 1, 1}, s.Options...) },
		"options":           func(s *Segment) { s.Options = []byte{2, 9, 5, 0xb4} },
		"payload length":    func(s *Segment) { s.Payload = nil },
		"payload":           func(s *Segment) { s.Payload = []byte("dAta") },
	} {
		other := base
		other.Options = bytes.Clone(base.Options)
		edit(&other)
		seen, _ := other.Append(nil)
		n, err := ParseNotice(icmp(11, 0, true, seen))
		if err != nil {
			t.Fatal(err)
		}
		if c := Compare(sent, n.Quote); len(c) != 1 || c[0].What != want || c[0].Sent == c[0].Seen {
			t.Errorf("%s: got %v", want, c)
		}
	}
	seen := bytes.Clone(sent)
	seen[1] = 0x20
	seen[ipv4Header+16] ^= 1
	n, _ := ParseNotice(icmp(11, 0, true, seen))
	if c := Compare(sent, n.Quote); len(c) != 1 || c[0].What != "class" {
		t.Errorf("class: %v", c)
	}
	seen[1] = 0
	n, _ = ParseNotice(icmp(11, 0, true, seen))
	if c := Compare(sent, n.Quote); len(c) != 1 || c[0].What != "checksum" {
		t.Errorf("checksum: %v", c)
	}
	seen = seen[:ipv4Header+8]
	seen[3] -= 4
	n, _ = ParseNotice(icmp(11, 0, true, seen))
	if c := Compare(sent, n.Quote); len(c) != 1 || c[0].What != "length" {
		t.Errorf("length, eight octets quoted: %v", c)
	}
}

func FuzzPacket(f *testing.F) {
	for _, s := range samples() {
		pkt, _ := s.Append(nil)
		f.Add(pkt)
		kind := byte(3)
		if s.From.Addr().Is4() {
			kind = 11
		}
		f.Add(icmp(kind, 0, s.From.Addr().Is4(), pkt))
	}
	sent, _ := samples()[0].Append(nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		Intact(b)
		if n, err := ParseNotice(b); err == nil {
			Compare(sent, n.Quote)
		}
		s, err := Parse(b)
		if err != nil {
			return
		}
		again, err := s.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if s2, err := Parse(again); err != nil || !reflect.DeepEqual(s, s2) {
			t.Fatalf("%+v became %+v (%v)", s, s2, err)
		}
	})
}
