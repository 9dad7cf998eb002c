package lab

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"
)

const kindENO = 69

// packet builds a TCP segment with a correct checksum, reckoned here from the start (RFC 9293, Section 3.1).
func packet(v6 bool, flags byte, options, payload []byte) []byte {
	tcp := make([]byte, 20, 20+len(options)+len(payload))
	binary.BigEndian.PutUint16(tcp, 40000)
	binary.BigEndian.PutUint16(tcp[2:], 80)
	binary.BigEndian.PutUint32(tcp[4:], 0x01020304)
	tcp[12], tcp[13] = byte((20+len(options))/4)<<4, flags
	tcp = append(append(tcp, options...), payload...)
	var ip []byte
	if v6 {
		src, dst := netip.MustParseAddr("fd00::1").As16(), netip.MustParseAddr("fd00::2").As16()
		ip = append([]byte{0x60, 0, 0, 0, 0, 0, 6, 64}, src[:]...)
		ip = append(ip, dst[:]...)
		binary.BigEndian.PutUint16(ip[4:], uint16(len(tcp)))
	} else {
		ip = []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 198, 18, 0, 1, 198, 18, 0, 2}
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(tcp)))
	}
	pkt := append(ip, tcp...)
	binary.BigEndian.PutUint16(pkt[len(ip)+16:], ^checksum(pkt))
	return pkt
}

// checksum is the one's complement sum over pseudo-header and segment: 0xffff if the segment's checksum is right.
func checksum(pkt []byte) uint16 {
	header, addresses := 20, pkt[12:20]
	if pkt[0]>>4 == 6 {
		header, addresses = 40, pkt[8:40]
	}
	sum := uint32(6 + len(pkt) - header)
	for _, b := range [][]byte{addresses, pkt[header:]} {
		for i, octet := range b {
			sum += uint32(octet) << (8 * (1 - i%2))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

var synOptions = []byte{2, 4, 5, 180, 1, 69, 5, 0x23, 0x21, 0xa1, 69, 2, 4, 2, 1, 1} // MSS, NOP, ENO twice, SACK

func TestStripOption(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, c := range []struct {
			from  Segments
			flags byte
			want  int64
		}{
			{SYNs, SYN, 2}, {SYNs, SYN | ACK, 2}, {SYNs, ACK, 0}, {NonSYNs, SYN, 0}, {NonSYNs, ACK | PSH, 2}, {All, SYN, 2}, {All, ACK, 2},
		} {
			e := NewStripOption(kindENO, c.from)
			w := newWorld(e)
			sent := packet(v6, c.flags, synOptions, []byte("odd"))
			w.path.From(A)(slices.Clone(sent))
			w.clock.Advance(time.Second)
			got := []byte(w.got[B][0].data)
			s, ok := ParseSegment(got)
			if !ok || checksum(got) != 0xffff {
				t.Fatalf("%+v: broken packet %x", c, got)
			}
			if e.Stripped() != c.want || s.HasOption(kindENO) != (c.want == 0) || !s.HasOption(2) || !s.HasOption(4) {
				t.Errorf("%+v: stripped %d, options % x", c, e.Stripped(), s.Options())
			}
			if len(got) != len(sent) || string(s.Payload()) != "odd" {
				t.Errorf("%+v: payload %q", c, s.Payload())
			}
		}
	}
}

// A checksum that was wrong stays wrong: the path must not mend what something else broke.
func TestStripKeepsWrongChecksum(t *testing.T) {
	w := newWorld(NewStripOption(kindENO, All))
	sent := packet(false, SYN, synOptions, nil)
	sent[20+4] ^= 1
	w.path.From(A)(sent)
	w.clock.Advance(time.Second)
	if checksum([]byte(w.got[B][0].data)) == 0xffff {
		t.Error("checksum of a damaged segment is right again")
	}
}

func TestDropSYN(t *testing.T) {
	e := NewDropSYN(kindENO)
	w := newWorld(e)
	w.path.From(A)(packet(false, SYN, synOptions, nil))
	w.path.From(A)(packet(false, SYN, synOptions[:4], nil))
	w.path.From(A)(packet(false, ACK, synOptions, nil))
	w.path.From(B)(packet(true, SYN|ACK, synOptions, nil))
	w.clock.Advance(time.Second)
	if e.Dropped() != 2 || len(w.got[B]) != 2 || len(w.got[A]) != 0 {
		t.Errorf("dropped %d, %d passed", e.Dropped(), len(w.got[B]))
	}
}

func TestParseSegment(t *testing.T) {
	s, ok := ParseSegment(packet(true, SYN, synOptions, []byte("x")))
	if !ok || s.Source.String() != "[fd00::1]:40000" || s.Destination.String() != "[fd00::2]:80" || s.Seq() != 0x01020304 || !s.IsSYN() {
		t.Errorf("parsed %+v, %v", s, ok)
	}
	fragment := packet(false, ACK, nil, nil)
	fragment[7] = 1
	udp := packet(false, ACK, nil, nil)
	udp[9] = 17
	for name, pkt := range map[string][]byte{"fragment": fragment, "udp": udp, "empty": nil, "version": make([]byte, 60)} {
		if _, ok := ParseSegment(pkt); ok {
			t.Errorf("%s taken for a TCP segment", name)
		}
	}
}

// Every strict prefix of a packet is no segment, and no elements break on one.
func TestPrefixes(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		whole := packet(v6, SYN, synOptions, []byte("payload"))
		w := newWorld(NewStripOption(kindENO, All), NewDropSYN(kindENO))
		for n := range whole {
			if _, ok := ParseSegment(whole[:n]); ok {
				t.Errorf("prefix of %d octets taken", n)
			}
			w.path.From(A)(slices.Clone(whole[:n]))
		}
		w.clock.Advance(time.Second)
		if len(w.got[B]) != len(whole) {
			t.Errorf("%d of %d prefixes passed", len(w.got[B]), len(whole))
		}
	}
}

func FuzzElements(f *testing.F) {
	f.Add(packet(false, SYN, synOptions, []byte("payload")))
	f.Add(packet(true, ACK, synOptions, nil))
	f.Fuzz(func(t *testing.T, pkt []byte) {
		w := newWorld(NewDropSYN(kindENO), NewStripOption(kindENO, All))
		w.path.Connect(nil, ByDestination(map[netip.Addr]func([]byte){
			netip.MustParseAddr("198.18.0.2"): func(got []byte) {
				if s, ok := ParseSegment(got); ok && s.HasOption(kindENO) {
					t.Errorf("option left in %x", got)
				}
				if len(got) != len(pkt) {
					t.Errorf("length %d became %d", len(pkt), len(got))
				}
			},
		}))
		w.path.From(A)(slices.Clone(pkt))
		w.clock.Advance(time.Second)
	})
}

func TestByDestination(t *testing.T) {
	var four, six int
	send := ByDestination(map[netip.Addr]func([]byte){
		netip.MustParseAddr("198.18.0.2"): func([]byte) { four++ },
		netip.MustParseAddr("fd00::2"):    func([]byte) { six++ },
	})
	send(packet(false, SYN, nil, nil))
	send(packet(true, SYN, nil, nil))
	other := packet(false, SYN, nil, nil)
	other[19]++
	send(other)
	send(nil)
	if four != 1 || six != 1 {
		t.Errorf("delivered %d and %d", four, six)
	}
}

func TestTapAndPcap(t *testing.T) {
	var tap Tap
	w := newWorld(&tap, Delay(time.Millisecond), &refuseNothing{})
	pkt := packet(false, SYN, synOptions, nil)
	w.path.From(A)(pkt)
	w.clock.Advance(1500 * time.Microsecond)
	w.path.From(B)([]byte{1, 2, 3})
	w.clock.Advance(time.Second)
	got := tap.Packets()
	if len(got) != 2 || !bytes.Equal(got[0].Data, pkt) || got[0].To != B || got[1].To != A || got[1].At.Sub(got[0].At) != 2500*time.Microsecond {
		t.Fatalf("captured %+v", got)
	}
	var file bytes.Buffer
	if err := WritePcap(&file, got); err != nil {
		t.Fatal(err)
	}
	want := []byte{0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 101, 0, 0, 0}
	want = append(want, 0x40, 0x42, 0x0f, 0, 0, 0, 0, 0, byte(len(pkt)), 0, 0, 0, byte(len(pkt)), 0, 0, 0)
	want = append(want, pkt...)
	want = append(want, 0x40, 0x42, 0x0f, 0, 0xa0, 0x25, 0x26, 0, 3, 0, 0, 0, 3, 0, 0, 0, 1, 2, 3)
	if !bytes.Equal(file.Bytes(), want) {
		t.Errorf("file\n%x, want\n%x", file.Bytes(), want)
	}
	tap.Stop()
	w.path.From(A)(pkt)
	w.clock.Advance(time.Second)
	if len(tap.Packets()) != 0 || len(w.got[B]) != 2 {
		t.Error("a stopped tap keeps packets, or keeps them to itself")
	}
}

type refuseNothing struct{}

func (*refuseNothing) Packet(p Packet, at Place) { at.Send(p) }
