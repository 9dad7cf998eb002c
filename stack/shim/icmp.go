package shim

import (
	"encoding/binary"
	"net/netip"
	"syscall"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	tcpipstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// icmpRoom covers the headers of a message and of the packet it quotes, up to the ports, in octets.
const icmpRoom = header.IPv6MinimumSize + header.ICMPv6MinimumSize + header.IPv6MinimumSize + 8

// minMTU4 is the least MTU of an IPv4 path that is believed, in octets, as in Linux.
const minMTU4 = 552

// incomingICMP sees to two messages about TCP connections. What the netstack does not understand of ICMPv6 it tells the
// host, and what is said of packets that are too big it sets right.
func (s *Shim) incomingICMP(proto tcpip.NetworkProtocolNumber, pkt *tcpipstack.PacketBuffer) *tcpipstack.PacketBuffer {
	b, ok := pkt.Data().PullUp(min(pkt.Data().Size(), icmpRoom))
	if !ok {
		return nil
	}
	at, ok := icmpOffset(proto, b)
	if !ok || len(b) < at+header.ICMPv6MinimumSize {
		return nil
	}
	f, ok := quotedFlow(proto, b[at+header.ICMPv6MinimumSize:])
	if !ok {
		return nil
	}
	kind, code := b[at], b[at+1]
	switch {
	case proto == header.IPv4ProtocolNumber && kind == uint8(header.ICMPv4DstUnreachable) && code == uint8(header.ICMPv4FragmentationNeeded):
		return s.tooBig(f, pkt, at, minMTU4)
	case proto == header.IPv6ProtocolNumber && kind == uint8(header.ICMPv6PacketTooBig):
		return s.tooBig(f, pkt, at, header.IPv6MinimumMTU)
	case proto == header.IPv6ProtocolNumber && kind == uint8(header.ICMPv6DstUnreachable):
		if errno := errnoOfUnreachable6(header.ICMPv6Code(code)); errno != 0 {
			s.host.Unreachable(f, errno)
		}
	}
	return nil
}

// errnoOfUnreachable6 is what the kernel makes of those codes of ICMPv6's destination unreachable (RFC 4443, Section
// 3.1) that the netstack does not know; 0: it does.
func errnoOfUnreachable6(code header.ICMPv6Code) syscall.Errno {
	switch code {
	case header.ICMPv6BeyondScope, header.ICMPv6AddressUnreachable:
		return syscall.EHOSTUNREACH
	case header.ICMPv6Prohibited, header.ICMPv6Policy, header.ICMPv6RejectRoute:
		return syscall.EACCES
	}
	return 0
}

// icmpOffset finds where the ICMP message begins in an IP packet.
func icmpOffset(proto tcpip.NetworkProtocolNumber, b []byte) (int, bool) {
	switch {
	case proto == header.IPv4ProtocolNumber && len(b) >= header.IPv4MinimumSize:
		h := header.IPv4(b)
		return int(h.HeaderLength()), h.Protocol() == uint8(header.ICMPv4ProtocolNumber) && !h.More() && h.FragmentOffset() == 0
	case proto == header.IPv6ProtocolNumber && len(b) >= header.IPv6MinimumSize:
		return header.IPv6MinimumSize, header.IPv6(b).NextHeader() == uint8(header.ICMPv6ProtocolNumber)
	}
	return 0, false
}

// quotedFlow names the connection of the TCP packet, sent by this host, that an ICMP message quotes.
func quotedFlow(proto tcpip.NetworkProtocolNumber, b []byte) (Flow, bool) {
	var at int
	var isTCP bool
	switch {
	case proto == header.IPv4ProtocolNumber && len(b) >= header.IPv4MinimumSize:
		at, isTCP = int(header.IPv4(b).HeaderLength()), header.IPv4(b).Protocol() == uint8(header.TCPProtocolNumber)
	case proto == header.IPv6ProtocolNumber && len(b) >= header.IPv6MinimumSize:
		at, isTCP = header.IPv6MinimumSize, header.IPv6(b).NextHeader() == uint8(header.TCPProtocolNumber)
	}
	if !isTCP || len(b) < at+4 {
		return Flow{}, false
	}
	src, dst := addresses(proto, b)
	return Flow{
		Local:  netip.AddrPortFrom(src, binary.BigEndian.Uint16(b[at:])),
		Remote: netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[at+2:])),
	}, true
}

// tooBig puts the right MTU into a message that a packet was too big. The MTU ends at octet 8 of the message in both
// versions, and its upper half is unused in ICMP's. Segments that carry options of a Handshake must shrink by these, too;
// and the netstack would make segments of one octet of an MTU that it finds impossible.
func (s *Shim) tooBig(f Flow, pkt *tcpipstack.PacketBuffer, at int, least uint16) *tcpipstack.PacketBuffer {
	b := make([]byte, 0, pkt.Data().Size())
	buf := pkt.Data().ToBuffer()
	buf.Apply(func(v *buffer.View) { b = append(b, v.AsSlice()...) })
	buf.Release()
	m := b[at:]
	told := binary.BigEndian.Uint16(m[6:])
	if binary.BigEndian.Uint16(m[4:]) != 0 {
		return nil // more than any segment
	}
	mtu := told
	if e := s.table.get(f); e != nil && e.active && mtu > reserve {
		e.told(int(max(mtu, least)))
		mtu -= reserve
	}
	if mtu = max(mtu, least); mtu == told {
		return nil
	}
	binary.BigEndian.PutUint16(m[6:], mtu)
	// Only what the change does to the sum changes (RFC 1624): a bad checksum stays bad.
	sum := checksum.Combine(^binary.BigEndian.Uint16(m[2:]), checksum.Combine(^told, mtu))
	binary.BigEndian.PutUint16(m[2:], ^sum)
	out := tcpipstack.NewPacketBuffer(tcpipstack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
	out.NetworkProtocolNumber, out.PktType, out.Hash = pkt.NetworkProtocolNumber, pkt.PktType, pkt.Hash
	return out
}
