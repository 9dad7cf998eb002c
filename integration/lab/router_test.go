package lab

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

func TestRouter(t *testing.T) {
	here, there := netip.MustParseAddr("198.18.7.1"), netip.MustParseAddr("fd00:7::1")
	for _, w := range []struct {
		name  string
		pkt   []byte
		hops  int // where the field is
		quote int
	}{
		{"IPv4", ipHeader(netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("198.18.0.2"), protocolTCP), 8, ipv4HeaderLen},
		{"IPv6", ipHeader(netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2"), protocolTCP), 7, ipv6HeaderLen},
	} {
		t.Run(w.name, func(t *testing.T) {
			is4 := w.hops == 8
			pkt := append(w.pkt, make([]byte, 60)...)
			if is4 {
				binary.BigEndian.PutUint16(pkt[2:], uint16(len(pkt)))
				copy(pkt[12:], []byte{198, 18, 0, 1, 198, 18, 0, 2})
				binary.BigEndian.PutUint16(pkt[10:], ^fold(add(0, pkt[:20])))
			} else {
				binary.BigEndian.PutUint16(pkt[4:], 60)
				pkt[8], pkt[24] = 0xfd, 0xfd
			}
			clock := NewManual(start)
			e := NewRouter(RouterConfig{IPv4: here, IPv6: there, Quote: 8})
			path := NewPath(clock, e)
			defer path.Close()
			var got [2][][]byte
			path.Connect(func(b []byte) { got[A] = append(got[A], b) }, func(b []byte) { got[B] = append(got[B], b) })
			send := func(hops byte) {
				b := append([]byte(nil), pkt...)
				b[w.hops] = hops
				if is4 {
					b[10], b[11] = 0, 0
					binary.BigEndian.PutUint16(b[10:], ^fold(add(0, b[:20])))
				}
				path.From(A)(b)
				clock.Advance(0)
			}
			for hops := 2; hops < 256; hops++ {
				send(byte(hops))
				b := got[B][len(got[B])-1]
				if b[w.hops] != byte(hops-1) || is4 && fold(add(0, b[:20])) != 0xffff {
					t.Fatalf("%d hops became %d, header %x", hops, b[w.hops], b[:20])
				}
			}
			send(1)
			if len(got[B]) != 254 || len(got[A]) != 1 || e.Acted() != 1 {
				t.Fatalf("%d passed, %d answers", len(got[B]), len(got[A]))
			}
			reply := got[A][0]
			want := here
			from := netip.AddrFrom4([4]byte(reply[12:]))
			if !is4 {
				want, from = there, netip.AddrFrom16([16]byte(reply[8:]))
			}
			if from != want || len(reply) != w.quote+8+w.quote+8 {
				t.Errorf("from %s, %d octets", from, len(reply))
			}
		})
	}
	// No address of the family: silence.
	clock := NewManual(start)
	path := NewPath(clock, NewRouter(RouterConfig{}))
	defer path.Close()
	answers := 0
	path.Connect(func([]byte) { answers++ }, func([]byte) { t.Error("it went on") })
	pkt := append(ipHeader(netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("198.18.0.2"), protocolTCP), make([]byte, 60)...)
	pkt[8] = 1
	path.From(A)(pkt)
	clock.Advance(0)
	if answers != 0 {
		t.Error("a router without address answered")
	}
}
