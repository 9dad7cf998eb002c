package lab

import (
	"encoding/binary"
	"iter"
	"net/netip"
)

// TCP flags (RFC 9293, Section 3.1).
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// Segment is a view of a TCP segment inside an IP packet.
type Segment struct {
	Source, Destination netip.AddrPort
	TCP                 []byte // header and payload
	headerLen           int
}

// ParseSegment looks at one IP packet. ok is false for what is not a whole TCP segment: other protocols, fragments, IPv6
// extension headers, and lengths that do not fit.
func ParseSegment(pkt []byte) (s Segment, ok bool) {
	var src, dst netip.Addr
	switch {
	case len(pkt) >= 20 && pkt[0]>>4 == 4:
		header, total := int(pkt[0]&15)*4, int(binary.BigEndian.Uint16(pkt[2:]))
		fragment := binary.BigEndian.Uint16(pkt[6:]) & 0x3fff // more fragments, offset
		if pkt[9] != 6 || fragment != 0 || header < 20 || total < header || total > len(pkt) {
			return s, false
		}
		src, dst = netip.AddrFrom4([4]byte(pkt[12:])), netip.AddrFrom4([4]byte(pkt[16:]))
		s.TCP = pkt[header:total]
	case len(pkt) >= 40 && pkt[0]>>4 == 6:
		length := int(binary.BigEndian.Uint16(pkt[4:]))
		if pkt[6] != 6 || 40+length > len(pkt) {
			return s, false
		}
		src, dst = netip.AddrFrom16([16]byte(pkt[8:])), netip.AddrFrom16([16]byte(pkt[24:]))
		s.TCP = pkt[40 : 40+length]
	default:
		return s, false
	}
	if len(s.TCP) < 20 {
		return s, false
	}
	s.headerLen = int(s.TCP[12]>>4) * 4
	if s.headerLen < 20 || s.headerLen > len(s.TCP) {
		return s, false
	}
	s.Source = netip.AddrPortFrom(src, binary.BigEndian.Uint16(s.TCP))
	s.Destination = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(s.TCP[2:]))
	return s, true
}

// Flags are the low eight flags.
func (s Segment) Flags() uint8 { return s.TCP[13] }

// IsSYN reports whether SYN is set, with or without ACK.
func (s Segment) IsSYN() bool { return s.Flags()&SYN != 0 }

// Seq is the sequence number.
func (s Segment) Seq() uint32 { return binary.BigEndian.Uint32(s.TCP[4:]) }

// Ack is the acknowledgment number.
func (s Segment) Ack() uint32 { return binary.BigEndian.Uint32(s.TCP[8:]) }

// Window is the window field, not scaled.
func (s Segment) Window() uint16 { return binary.BigEndian.Uint16(s.TCP[14:]) }

// Options is the options field of the header.
func (s Segment) Options() []byte { return s.TCP[20:s.headerLen] }

// Payload is the data behind the header.
func (s Segment) Payload() []byte { return s.TCP[s.headerLen:] }

// EachOption yields the kind and the whole octets of each option, NOPs left out. It ends at an option whose length does
// not fit.
func (s Segment) EachOption() iter.Seq2[uint8, []byte] { return eachOption(s.Options()) }

// HasOption reports whether an option of this kind is there.
func (s Segment) HasOption(kind uint8) bool {
	for k := range s.EachOption() {
		if k == kind {
			return true
		}
	}
	return false
}

// change applies an edit to an even-aligned part of the segment and keeps its checksum as right, or as wrong, as it was
// (RFC 1624, Section 3). A partial checksum does not cover the part.
func (s Segment) change(part []byte, partial bool, edit func()) {
	if partial {
		edit()
		return
	}
	sum := uint32(^binary.BigEndian.Uint16(s.TCP[16:])) + uint32(^fold(add(0, part)))
	edit()
	binary.BigEndian.PutUint16(s.TCP[16:], ^fold(add(sum, part)))
}

// add sums b as 16-bit words, an odd last octet as if a zero followed.
func add(sum uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
