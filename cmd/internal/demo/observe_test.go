package demo

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"innertun/integration/lab"
)

var (
	client   = netip.MustParseAddrPort("198.18.0.1:40000")
	server80 = netip.MustParseAddrPort("198.18.0.2:80")
)

// segment builds an IPv4 packet; checksums do not matter to an eavesdropper.
func segment(from, to netip.AddrPort, flags byte, seq uint32, options, payload string) []byte {
	total := 40 + len(options) + len(payload)
	b := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0}
	binary.BigEndian.PutUint16(b[2:], uint16(total))
	b = append(append(b, from.Addr().AsSlice()...), to.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = binary.BigEndian.AppendUint32(b, seq)
	b = append(b, 0, 0, 0, 0, byte(20+len(options))/4<<4, flags, 0, 0, 0, 0, 0, 0)
	return append(append(b, options...), payload...)
}

func capture(start time.Time, packets ...[]byte) []lab.Captured {
	var c []lab.Captured
	for i, p := range packets {
		to := lab.B
		if s, ok := lab.ParseSegment(p); ok && s.Destination == client {
			to = lab.A
		}
		c = append(c, lab.Captured{At: start.Add(time.Duration(i) * time.Millisecond), To: to, Data: p})
	}
	return c
}

// The eavesdropper finds what was said, also where segments cut through it, come late or come twice, and does not find
// what was not.
func TestEavesdropperFindsPlaintext(t *testing.T) {
	isn := uint32(0xfffffffa) // wraps within the stream
	start := time.Unix(100, 0)
	said := "GET /secret HTTP/1.1\r\nHost: legacy.demo\r\n\r\n"
	c := overhear(capture(start,
		segment(netip.MustParseAddrPort("198.18.0.9:1"), server80, lab.ACK, 1, "", "someone else's words, twenty-four octets or more"),
		segment(client, server80, lab.SYN, isn, "", ""),
		segment(server80, client, lab.SYN|lab.ACK, 500, "", ""),
		segment(client, server80, lab.ACK, isn+1+30, "", said[30:]),
		segment(client, server80, lab.ACK, isn+1, "", said[:15]),
		segment(client, server80, lab.ACK, isn+1+10, "", said[10:30]),
		segment(server80, client, lab.ACK, 501, "", "an answer of some length, in clear"),
	), client, server80)
	if string(c.up) != said || !strings.HasPrefix(string(c.down), "an answer") {
		t.Fatalf("streams %q and %q", c.up, c.down)
	}
	if !c.syn.Equal(start.Add(time.Millisecond)) || len(c.packets) != 6 {
		t.Errorf("SYN at %v, %d packets", c.syn.Sub(start), len(c.packets))
	}
	if !c.seesAny([]byte(said)) || !c.sees([]byte("secret")) || !c.seesAny([]byte("an answer of some length")) {
		t.Error("plaintext was there and was not found")
	}
	if c.seesAny([]byte("someone else's words, twenty-four octets or more")) || c.seesAny(makeFile("legacy.demo", 4096)) {
		t.Error("found what this connection did not carry")
	}
}

// A file of which a single part leaks is found too.
func TestEavesdropperFindsOnePart(t *testing.T) {
	file := makeFile("upgraded.demo", 1<<20)
	leak := string(file[700_000 : 700_000+40_000])
	c := overhear(capture(time.Unix(0, 0),
		segment(client, server80, lab.SYN, 0, "", ""),
		segment(client, server80, lab.ACK, 1, "", strings.Repeat("x", 30_000)),
		segment(client, server80, lab.ACK, 30_001, "", leak),
	), client, server80)
	if !c.seesAny(file) {
		t.Error("a leak of 40,000 octets was not found")
	}
}

func TestApplications(t *testing.T) {
	init1 := "\x15\x10\x1a\x0e\x00\x00\x00\x0cpkey"
	for _, c := range []struct{ up, want string }{
		{init1 + "frames", "frames"},
		{"GET / HTTP/1.1", "GET / HTTP/1.1"},
		{init1[:10], init1[:10]},
		{"\x15\x10", "\x15\x10"},
	} {
		if got := string(conversation{up: []byte(c.up)}.applications()); got != c.want {
			t.Errorf("%q: got %q, want %q", c.up, got, c.want)
		}
	}
}

func TestOpening(t *testing.T) {
	start := time.Unix(100, 0)
	c := overhear(capture(start,
		segment(client, server80, lab.SYN, 0, "\x45\x03\x23\x01", ""),
		segment(server80, client, lab.SYN|lab.ACK, 0, "\x45\x04\x01\x23", ""),
		segment(client, server80, lab.ACK, 1, "\x45\x02\x01\x01", ""),
		segment(client, server80, lab.ACK, 1, "", "\x15\x10\x1a\x0e\x00\x00\x00\x08"),
		segment(client, server80, lab.ACK, 9, "", ""), // nothing to tell
		segment(server80, client, lab.ACK, 1, "", "HTTP/1.1 200 OK\r\nContent-Type: text/plain"),
		segment(client, server80, lab.ACK, 9, "", "too late"),
	), client, server80)
	var got []string
	for _, s := range c.opening(start.Add(5 * time.Millisecond)) {
		got = append(got, s.to.String()+" "+s.what)
	}
	want := []string{
		"B SYN + ENO option 45 03 23",
		"A SYN-ACK + ENO option 45 04 01 23",
		"B ACK + ENO option 45 02",
		"B 8 octets: Init1, tcpcrypt's ciphers and public key",
		`A 41 octets: "HTTP/1.1 200 OK\r\nContent-Typ..."`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
