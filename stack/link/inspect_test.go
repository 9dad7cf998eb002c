package link

import (
	"bytes"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// split lays b out as a slot does, with the first parts of the given sizes.
func split(b []byte, first, second int) ([]byte, [2][]byte) {
	first = min(first, len(b))
	second = min(second, len(b)-first)
	return b[:first], [2][]byte{b[first : first+second], b[first+second:]}
}

func TestInspect(t *testing.T) {
	payload := bytes.Repeat([]byte{1, 2, 3, 0xff, 0xfe}, 999)
	for _, v6 := range []bool{false, true} {
		for _, n := range []int{0, 1, 7, 74, 75, 1460, len(payload)} {
			good := frame{v6: v6, port: 61000, payload: payload[:n]}
			bad := good
			bad.badTCP = true
			for _, pad := range []int{0, 1, 6} {
				for _, cut := range [][2]int{{114, 2048}, {128, 2047}, {115, 1}, {60, 0}} {
					for _, vouched := range []bool{false, true} {
						first, more := split(append(good.ip(), make([]byte, pad)...), cut[0], cut[1])
						if got := inspect(first, more, vouched); got != sound {
							t.Errorf("v6 %t, %d octets, padding %d, cut %v, vouched %t: %d", v6, n, pad, cut, vouched, got)
						}
						want := badChecksum
						if vouched {
							want = sound
						}
						first, more = split(append(bad.ip(), make([]byte, pad)...), cut[0], cut[1])
						if got := inspect(first, more, vouched); got != want {
							t.Errorf("bad: v6 %t, %d octets, padding %d, cut %v, vouched %t: %d", v6, n, pad, cut, vouched, got)
						}
					}
				}
			}
			// Every strict prefix of what the header announces is malformed.
			whole := good.ip()
			for i := range whole[:min(len(whole), 300)] {
				first, more := split(whole[:i], 114, 2048)
				if got := inspect(first, more, true); got != malformed {
					t.Fatalf("v6 %t: %d of %d octets: %d", v6, i, len(whole), got)
				}
			}
		}
	}
}

func TestInspectOddities(t *testing.T) {
	const udp = uint8(header.UDPProtocolNumber)
	for _, c := range []struct {
		name    string
		f       frame
		vouched bool
		want    verdict
	}{
		{"IPv4 header damaged", frame{badIP: true}, false, badChecksum},
		{"IPv4 header damaged, TCP vouched for", frame{badIP: true}, true, badChecksum},
		{"options", frame{options: 40, payload: []byte("abc")}, false, sound},
		{"options, damaged", frame{options: 40, payload: []byte("abc"), badTCP: true}, false, badChecksum},
		{"first fragment", frame{more: true}, true, fragment},
		{"last fragment", frame{fragOffset: 8}, true, fragment},
		{"UDP fragment", frame{more: true, proto: udp}, false, sound},
		{"IPv6 fragment", frame{v6: true, more: true}, true, fragment},
		{"IPv6 extension header", frame{v6: true, proto: 60}, false, malformed},
		{"IPv6 extension header, vouched for", frame{v6: true, proto: 60}, true, sound},
		{"ICMP", frame{proto: uint8(header.ICMPv4ProtocolNumber)}, false, sound},
		{"ICMPv6", frame{v6: true, proto: uint8(header.ICMPv6ProtocolNumber)}, false, sound},
	} {
		first, more := split(c.f.ip(), 114, 2048)
		if got := inspect(first, more, c.vouched); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func FuzzInspect(f *testing.F) {
	f.Add(frame{port: 61000, payload: []byte("abc")}.ip(), false)
	f.Add(frame{v6: true, port: 61000, payload: []byte("abc")}.ip(), false)
	f.Add(frame{more: true}.ip(), true)
	f.Fuzz(func(t *testing.T, b []byte, vouched bool) {
		first, more := split(b, headViewLen, midViewLen)
		whole := inspect(b, [2][]byte{}, vouched)
		// How the octets lie makes no difference, unless the IPv4 header does not fit the first part.
		if got := inspect(first, more, vouched); got != whole {
			t.Fatalf("%d whole, %d in parts", whole, got)
		}
	})
}
