package stacktest

import (
	"fmt"
	"net/netip"
	"strings"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// TCP flags, RFC 9293, Section 3.1.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// Packet is a TCP or ICMP packet taken apart. Its slices lie within the packet.
type Packet struct {
	Raw      []byte
	Src, Dst netip.AddrPort // port 0 unless TCP
	Protocol uint8          // 6: TCP
	Seq, Ack uint32
	Flags    uint8
	Window   uint16
	Options  []byte
	Payload  []byte
}

// Parse takes an IP packet apart and verifies every checksum in it.
func Parse(raw []byte) (Packet, error) {
	p := Packet{Raw: raw}
	var src, dst []byte
	var l4 []byte
	var pseudo uint16
	switch header.IPVersion(raw) {
	case header.IPv4Version:
		ip := header.IPv4(raw)
		if !ip.IsValid(len(raw)) || int(ip.TotalLength()) != len(raw) {
			return p, fmt.Errorf("ill-formed IPv4 packet of %d octets", len(raw))
		}
		if !ip.IsChecksumValid() {
			return p, fmt.Errorf("bad IPv4 header checksum")
		}
		p.Protocol = ip.Protocol()
		src, dst, l4 = ip.SourceAddressSlice(), ip.DestinationAddressSlice(), ip.Payload()
		pseudo = header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(p.Protocol), ip.SourceAddress(), ip.DestinationAddress(), uint16(len(l4)))
	case header.IPv6Version:
		ip := header.IPv6(raw)
		if !ip.IsValid(len(raw)) || int(ip.PayloadLength())+header.IPv6MinimumSize != len(raw) {
			return p, fmt.Errorf("ill-formed IPv6 packet of %d octets", len(raw))
		}
		p.Protocol = ip.NextHeader()
		src, dst, l4 = ip.SourceAddressSlice(), ip.DestinationAddressSlice(), ip.Payload()
		pseudo = header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(p.Protocol), ip.SourceAddress(), ip.DestinationAddress(), uint16(len(l4)))
	default:
		return p, fmt.Errorf("not an IP packet: % x", raw[:min(len(raw), 8)])
	}
	s, _ := netip.AddrFromSlice(src)
	d, _ := netip.AddrFromSlice(dst)
	p.Src, p.Dst = netip.AddrPortFrom(s, 0), netip.AddrPortFrom(d, 0)
	switch p.Protocol {
	case uint8(header.TCPProtocolNumber):
		return p, p.parseTCP(l4, pseudo)
	case uint8(header.ICMPv4ProtocolNumber):
		pseudo = 0
		fallthrough
	case uint8(header.ICMPv6ProtocolNumber):
		p.Payload = l4
		if checksum.Checksum(l4, pseudo) != 0xffff {
			return p, fmt.Errorf("bad ICMP checksum")
		}
	}
	return p, nil
}

func (p *Packet) parseTCP(l4 []byte, pseudo uint16) error {
	t := header.TCP(l4)
	if len(l4) < header.TCPMinimumSize || int(t.DataOffset()) > len(l4) || t.DataOffset() < header.TCPMinimumSize {
		return fmt.Errorf("ill-formed TCP segment of %d octets", len(l4))
	}
	if checksum.Checksum(l4, pseudo) != 0xffff {
		return fmt.Errorf("bad TCP checksum")
	}
	p.Src = netip.AddrPortFrom(p.Src.Addr(), t.SourcePort())
	p.Dst = netip.AddrPortFrom(p.Dst.Addr(), t.DestinationPort())
	p.Seq, p.Ack, p.Flags, p.Window = t.SequenceNumber(), t.AckNumber(), uint8(t.Flags()), t.WindowSize()
	p.Options, p.Payload = l4[header.TCPMinimumSize:t.DataOffset()], l4[t.DataOffset():]
	return nil
}

// Is tells whether it is a TCP segment with exactly these flags, PSH aside.
func (p Packet) Is(flags uint8) bool { return p.Protocol == 6 && p.Flags&^PSH == flags }

// Option returns the content of the first option of this kind, kind and length not included.
func (p Packet) Option(kind uint8) ([]byte, bool) { return Option(p.Options, kind) }

// Option finds the first option of a kind in the options of a TCP header.
func Option(options []byte, kind uint8) ([]byte, bool) {
	for b := options; len(b) > 0 && b[0] != 0; {
		if b[0] == 1 {
			b = b[1:]
			continue
		}
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			return nil, false
		}
		if b[0] == kind {
			return b[2:b[1]], true
		}
		b = b[b[1]:]
	}
	return nil, false
}

func (p Packet) String() string {
	if p.Protocol != 6 {
		return fmt.Sprintf("%v > %v protocol %d, %d octets", p.Src.Addr(), p.Dst.Addr(), p.Protocol, len(p.Payload))
	}
	var flags strings.Builder
	for i, c := range "FSRPA" {
		if p.Flags&(1<<i) != 0 {
			flags.WriteRune(c)
		}
	}
	return fmt.Sprintf("%v > %v %s seq %d ack %d, %d octets, options %x", p.Src, p.Dst, flags.String(), p.Seq, p.Ack, len(p.Payload), p.Options)
}

// SetTCPChecksum makes the checksums of a rewritten TCP packet right again.
func SetTCPChecksum(raw []byte) {
	var l4 []byte
	var pseudo uint16
	if header.IPVersion(raw) == header.IPv4Version {
		ip := header.IPv4(raw)
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
		l4 = ip.Payload()
		pseudo = header.PseudoHeaderChecksum(header.TCPProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(len(l4)))
	} else {
		ip := header.IPv6(raw)
		l4 = ip.Payload()
		pseudo = header.PseudoHeaderChecksum(header.TCPProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(len(l4)))
	}
	t := header.TCP(l4)
	t.SetChecksum(0)
	t.SetChecksum(^checksum.Checksum(l4, pseudo))
}

// Segment builds a TCP segment in an IP packet, with right checksums. Options are padded with zeros.
func Segment(src, dst netip.AddrPort, seq, ack uint32, flags uint8, options, payload []byte) []byte {
	for len(options)%4 != 0 {
		options = append(options[:len(options):len(options)], 0)
	}
	l4 := header.TCPMinimumSize + len(options) + len(payload)
	ipLen := header.IPv6MinimumSize
	if src.Addr().Is4() {
		ipLen = header.IPv4MinimumSize
	}
	raw := make([]byte, ipLen+l4)
	if src.Addr().Is4() {
		raw[0], raw[8], raw[9] = 0x45, 64, 6
		header.IPv4(raw).SetTotalLength(uint16(len(raw)))
		copy(raw[12:], src.Addr().AsSlice())
		copy(raw[16:], dst.Addr().AsSlice())
	} else {
		raw[0], raw[6], raw[7] = 0x60, 6, 64
		header.IPv6(raw).SetPayloadLength(uint16(l4))
		copy(raw[8:], src.Addr().AsSlice())
		copy(raw[24:], dst.Addr().AsSlice())
	}
	t := header.TCP(raw[ipLen:])
	t.Encode(&header.TCPFields{
		SrcPort: src.Port(), DstPort: dst.Port(), SeqNum: seq, AckNum: ack, WindowSize: 65535,
		DataOffset: uint8(header.TCPMinimumSize + len(options)), Flags: header.TCPFlags(flags),
	})
	copy(t[header.TCPMinimumSize:], options)
	copy(t[header.TCPMinimumSize+len(options):], payload)
	SetTCPChecksum(raw)
	return raw
}
