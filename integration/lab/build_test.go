package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// seg is a segment for tests; addresses and ports are those of `packet`, the other way round if fromB.
type seg struct {
	v6, fromB bool
	seq, ack  uint32
	flags     byte
	options   []byte
	payload   string
}

// raw builds it, checksums reckoned from the start.
func (s seg) raw() []byte {
	pkt := packet(s.v6, s.flags, s.options, []byte(s.payload))
	header := 20
	if s.v6 {
		header = 40
	}
	tcp := pkt[header:]
	if s.fromB {
		binary.BigEndian.PutUint16(tcp, 80)
		binary.BigEndian.PutUint16(tcp[2:], 40000)
		if s.v6 {
			pkt[23], pkt[39] = pkt[39], pkt[23]
		} else {
			pkt[15], pkt[19] = pkt[19], pkt[15]
		}
	}
	binary.BigEndian.PutUint32(tcp[4:], s.seq)
	binary.BigEndian.PutUint32(tcp[8:], s.ack)
	binary.BigEndian.PutUint16(tcp[14:], 1000)
	tcp[16], tcp[17] = 0, 0
	binary.BigEndian.PutUint16(tcp[16:], ^checksum(pkt))
	if !s.v6 {
		binary.BigEndian.PutUint16(pkt[10:], ^fold(add(0, zeroed(pkt[:20], 10))))
	}
	return pkt
}

func (s seg) String() string {
	return fmt.Sprintf("%s %d %d %x %q", flagText(s.flags), s.seq, s.ack, s.options, s.payload)
}

func flagText(f byte) (s string) {
	for i, c := range "FSRPA" {
		if f&(1<<i) != 0 {
			s += string(c)
		}
	}
	return s
}

// through sends segments through elements, a millisecond apart, and returns what arrives at either side. It fails the
// test for any packet whose checksums are not right.
func through(t *testing.T, e Element, in ...seg) (a, b []seg) {
	t.Helper()
	w := newWorld(e)
	for _, s := range in {
		end := A
		if s.fromB {
			end = B
		}
		w.path.From(end)(s.raw())
		w.clock.Advance(time.Millisecond)
	}
	w.clock.Advance(time.Minute)
	return segs(t, w.got[A]), segs(t, w.got[B])
}

// segs reads arrivals back. An ICMP message is a seg with its type and code in the sequence number.
func segs(t *testing.T, arrivals []arrival) (all []seg) {
	t.Helper()
	for _, x := range arrivals {
		pkt := []byte(x.data)
		v6 := pkt[0]>>4 == 6
		if !v6 && fold(add(0, pkt[:20])) != 0xffff {
			t.Errorf("wrong IP checksum: %x", pkt)
		}
		s, ok := ParseSegment(pkt)
		if !ok {
			all = append(all, seg{v6: v6, seq: icmpCode(t, pkt)})
			continue
		}
		if checksum(pkt) != 0xffff {
			t.Errorf("wrong TCP checksum: %x", pkt)
		}
		all = append(all, seg{v6: v6, fromB: s.Source.Port() == 80, seq: s.Seq(), ack: s.Ack(), flags: s.Flags(),
			options: trim(s.Options()), payload: string(s.Payload())})
	}
	return all
}

func icmpCode(t *testing.T, pkt []byte) uint32 {
	t.Helper()
	switch {
	case pkt[0]>>4 == 4 && pkt[9] == 1 && fold(add(0, pkt[20:])) == 0xffff:
		return uint32(pkt[20])<<8 | uint32(pkt[21])
	case pkt[0]>>4 == 6 && pkt[6] == 58:
		src, dst := netip.AddrFrom16([16]byte(pkt[8:])), netip.AddrFrom16([16]byte(pkt[24:]))
		if fold(add(add(add(add(58, src.AsSlice()), dst.AsSlice()), nil)+uint32(len(pkt)-40), pkt[40:])) == 0xffff {
			return uint32(pkt[40])<<8 | uint32(pkt[41])
		}
	}
	t.Errorf("neither TCP nor good ICMP: %x", pkt)
	return 0
}

// trim leaves padding out.
func trim(options []byte) []byte {
	if len(options) == 0 {
		return nil
	}
	return options
}

func compare(t *testing.T, what string, got, want []seg) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s:\n got %v\nwant %v", what, got, want)
	}
}

// both runs a test for either IP version.
func both(t *testing.T, f func(t *testing.T, v6 bool)) {
	for _, v6 := range []bool{false, true} {
		t.Run(map[bool]string{false: "IPv4", true: "IPv6"}[v6], func(t *testing.T) { f(t, v6) })
	}
}

// as6 makes segments of the IP version.
func as6(v6 bool, all ...seg) []seg {
	for i := range all {
		all[i].v6 = v6
	}
	return all
}
