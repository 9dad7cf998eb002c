// Package packet makes and reads the IP packets of the prober: TCP segments, and ICMP errors with what they quote. It is
// pure.
package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Flags of a TCP segment. RFC 9293, Section 3.1.
const (
	FIN uint8 = 1 << iota
	SYN
	RST
	PSH
	ACK
)

const (
	protocolTCP    = 6
	protocolICMP   = 1
	protocolICMPv6 = 58

	ipv4Header = 20
	ipv6Header = 40
	tcpHeader  = 20
	maxOptions = 40

	dontFragment = 0x40
	// fragmented: more fragments, or an offset. RFC 791, Section 3.1.
	fragmented = 0x3fff
)

var (
	// ErrPacket: the octets are no whole TCP segment, or no ICMP error about one, in an unfragmented IP packet without
	// IPv6 extension headers.
	ErrPacket = errors.New("not a packet that can be read")
	// ErrEncode: the segment has no encoding; the text says why.
	ErrEncode = errors.New("segment cannot be encoded")
)

// Segment is a TCP segment, with what matters of the IP header before it.
type Segment struct {
	From, To netip.AddrPort // both IPv4 or both IPv6, without zones
	Hops     uint8          // time to live, or hop limit
	ID       uint16         // identification; IPv4 only

	Seq, Ack uint32
	Flags    uint8
	Window   uint16
	Options  []byte // at most 40 octets; sent, they are padded with NOP to whole words
	Payload  []byte
}

// Has reports whether all these flags are set.
func (s Segment) Has(flags uint8) bool { return s.Flags&flags == flags }

// Len is what the segment takes of the sequence space. RFC 9293, Section 3.4.
func (s Segment) Len() uint32 {
	n := uint32(len(s.Payload))
	if s.Has(SYN) {
		n++
	}
	if s.Has(FIN) {
		n++
	}
	return n
}

// Append appends the packet, checksums included. On error, which wraps ErrEncode, dst is returned unchanged.
func (s Segment) Append(dst []byte) ([]byte, error) {
	from, to := s.From.Addr(), s.To.Addr()
	padding := -len(s.Options) & 3
	length := tcpHeader + len(s.Options) + padding + len(s.Payload)
	switch {
	case !from.IsValid() || !to.IsValid() || from.Is4() != to.Is4():
		return dst, fmt.Errorf("%w: from %s to %s", ErrEncode, from, to)
	case len(s.Options) > maxOptions:
		return dst, fmt.Errorf("%w: %d octets of options, at most %d", ErrEncode, len(s.Options), maxOptions)
	case length > 1<<16-1-ipv4Header:
		return dst, fmt.Errorf("%w: %d octets", ErrEncode, length)
	}
	out := s.appendIP(dst, length)
	at := len(out)
	out = binary.BigEndian.AppendUint16(out, s.From.Port())
	out = binary.BigEndian.AppendUint16(out, s.To.Port())
	out = binary.BigEndian.AppendUint32(out, s.Seq)
	out = binary.BigEndian.AppendUint32(out, s.Ack)
	out = append(out, byte(tcpHeader+len(s.Options)+padding)<<2, s.Flags)
	out = binary.BigEndian.AppendUint16(out, s.Window)
	out = append(out, 0, 0, 0, 0) // checksum, urgent pointer
	out = append(out, s.Options...)
	for range padding {
		out = append(out, 1)
	}
	out = append(out, s.Payload...)
	binary.BigEndian.PutUint16(out[at+16:], ^fold(add(pseudo(from, to, protocolTCP, length), out[at:])))
	return out, nil
}

// appendIP appends the IP header for so many octets of TCP.
func (s Segment) appendIP(dst []byte, length int) []byte {
	at := len(dst)
	if s.From.Addr().Is4() {
		dst = append(dst, 0x45, 0)
		dst = binary.BigEndian.AppendUint16(dst, uint16(ipv4Header+length))
		dst = binary.BigEndian.AppendUint16(dst, s.ID)
		dst = append(dst, dontFragment, 0, s.Hops, protocolTCP, 0, 0)
		dst = append(append(dst, s.From.Addr().AsSlice()...), s.To.Addr().AsSlice()...)
		binary.BigEndian.PutUint16(dst[at+10:], ^fold(add(0, dst[at:])))
		return dst
	}
	dst = append(dst, 0x60, 0, 0, 0)
	dst = binary.BigEndian.AppendUint16(dst, uint16(length))
	dst = append(dst, protocolTCP, s.Hops)
	return append(append(dst, s.From.Addr().AsSlice()...), s.To.Addr().AsSlice()...)
}

// Parse reads a packet that is one TCP segment. Options and Payload alias pkt. Checksums are not looked at: see Intact.
// The error is ErrPacket.
func Parse(pkt []byte) (Segment, error) {
	h, body, err := parseIP(pkt)
	if err != nil || h.protocol != protocolTCP || len(body) < h.length || h.length < tcpHeader {
		return Segment{}, ErrPacket
	}
	tcp := body[:h.length]
	offset := int(tcp[12]>>4) * 4
	if offset < tcpHeader || offset > len(tcp) {
		return Segment{}, ErrPacket
	}
	return Segment{
		From: netip.AddrPortFrom(h.from, binary.BigEndian.Uint16(tcp)),
		To:   netip.AddrPortFrom(h.to, binary.BigEndian.Uint16(tcp[2:])),
		Hops: h.hops, ID: h.id,
		Seq: binary.BigEndian.Uint32(tcp[4:]), Ack: binary.BigEndian.Uint32(tcp[8:]),
		Flags: tcp[13], Window: binary.BigEndian.Uint16(tcp[14:]),
		Options: tcp[tcpHeader:offset:offset], Payload: tcp[offset:],
	}, nil
}

// ip is what matters of an IP header.
type ip struct {
	from, to netip.Addr
	protocol uint8
	hops     uint8
	class    uint8 // type of service, or traffic class
	id       uint16
	length   int // of what follows the header, as the header says
}

// parseIP reads the header of an IP packet that may be cut short behind it.
func parseIP(pkt []byte) (h ip, body []byte, err error) {
	switch {
	case len(pkt) >= ipv4Header && pkt[0]>>4 == 4:
		header, total := int(pkt[0]&15)*4, int(binary.BigEndian.Uint16(pkt[2:]))
		if header < ipv4Header || header > len(pkt) || total < header || binary.BigEndian.Uint16(pkt[6:])&fragmented != 0 {
			return h, nil, ErrPacket
		}
		return ip{
			from: netip.AddrFrom4([4]byte(pkt[12:])), to: netip.AddrFrom4([4]byte(pkt[16:])),
			protocol: pkt[9], hops: pkt[8], class: pkt[1], id: binary.BigEndian.Uint16(pkt[4:]), length: total - header,
		}, pkt[header:], nil
	case len(pkt) >= ipv6Header && pkt[0]>>4 == 6:
		return ip{
			from: netip.AddrFrom16([16]byte(pkt[8:])), to: netip.AddrFrom16([16]byte(pkt[24:])),
			protocol: pkt[6], hops: pkt[7], class: pkt[0]<<4 | pkt[1]>>4, length: int(binary.BigEndian.Uint16(pkt[4:])),
		}, pkt[ipv6Header:], nil
	}
	return h, nil, ErrPacket
}

// Intact reports whether the checksums of a TCP segment or an ICMP message are right, as far as the packet goes.
func Intact(pkt []byte) bool {
	h, body, err := parseIP(pkt)
	if err != nil || len(body) < h.length {
		return false
	}
	body = body[:h.length]
	if h.from.Is4() && fold(add(0, pkt[:int(pkt[0]&15)*4])) != 0xffff {
		return false
	}
	sum := uint32(0)
	if h.protocol != protocolICMP {
		sum = pseudo(h.from, h.to, h.protocol, len(body))
	}
	return fold(add(sum, body)) == 0xffff
}

// pseudo sums the pseudo-header. RFC 9293, Section 3.1; RFC 8200, Section 8.1.
func pseudo(from, to netip.Addr, protocol uint8, length int) uint32 {
	sum := uint32(protocol) + uint32(length>>16) + uint32(length&0xffff)
	return add(add(sum, from.AsSlice()), to.AsSlice())
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
