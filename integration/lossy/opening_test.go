package lossy

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"
)

// segment is a TCP packet of one end, by its port, to the other.
func segment(ipv6 bool, from, to uint16) []byte {
	header, at := 20, 12
	b := make([]byte, 14+40+20)
	b[12], b[13], b[14], b[14+3], b[14+9] = 8, 0, 0x45, 40, 6
	if ipv6 {
		header, at = 40, 8
		b[12], b[13], b[14], b[14+3], b[14+9], b[14+5], b[14+6] = 0x86, 0xdd, 0x60, 0, 0, 20, 6
	}
	size := map[bool]int{false: 4, true: 16}[ipv6]
	b[14+at], b[14+at+size] = byte(from), byte(to)
	binary.BigEndian.PutUint16(b[14+header:], from)
	binary.BigEndian.PutUint16(b[14+header+2:], to)
	b[14+header+12] = 0x50 // a header without options
	return b
}

// Where every packet would be lost, all but two of each connection's first ones pass, and none that comes later.
func TestOpeningLosses(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		there, back := newFate(Config{Loss: 1, OpeningLosses: 2}, 1), newFate(Config{Loss: 1, OpeningLosses: 2}, 2)
		back.openings = there.openings
		passes := func(f *fate, from, to uint16) bool {
			return len(f.judge(segment(ipv6, from, to), time.Unix(0, 0))) == 1
		}
		for _, client := range []uint16{7, 9} { // on either side of the server's
			var got []bool
			got = append(got, passes(there, client, 8), passes(there, client, 8), passes(back, 8, client))
			for range openingPackets - 2 {
				got = append(got, passes(there, client, 8))
			}
			if want := append([]bool{false, false}, slices.Repeat([]bool{true}, openingPackets-1)...); !slices.Equal(got, want) {
				t.Errorf("IPv6 %v: %v, want %v", ipv6, got, want)
			}
			if passes(there, client, 8) {
				t.Error("a packet behind the opening passes")
			}
			if !passes(back, 8, client) {
				t.Error("the other direction has sent but one packet")
			}
		}
		udp := segment(ipv6, 7, 8)
		udp[map[bool]int{false: 14 + 9, true: 14 + 6}[ipv6]] = 17
		if len(there.judge(udp, time.Unix(0, 0))) != 0 {
			t.Error("a packet of no TCP connection passes")
		}
	}
}
