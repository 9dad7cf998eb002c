package link

import (
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// verdict is what inspect found in a received packet.
type verdict uint8

const (
	sound verdict = iota
	malformed
	fragment
	badChecksum
)

// inspect judges one IP packet, which may be followed by padding. first has its leading octets and all headers,
// more the rest. vouched says that the transport checksum needs no check. The netstack is told that nothing of TCP
// and of the IPv4 header is left to check, so that is done here; ICMP it checks itself.
func inspect(first []byte, more [2][]byte, vouched bool) verdict {
	if len(first) == 0 {
		return malformed
	}
	switch header.IPVersion(first) {
	case header.IPv4Version:
		return inspectIPv4(first, more, vouched)
	case header.IPv6Version:
		return inspectIPv6(first, more, vouched)
	}
	return malformed
}

func inspectIPv4(first []byte, more [2][]byte, vouched bool) verdict {
	if len(first) < header.IPv4MinimumSize {
		return malformed
	}
	ip := header.IPv4(first)
	headerLen := int(ip.HeaderLength())
	if headerLen < header.IPv4MinimumSize || headerLen > len(first) {
		return malformed
	}
	if checksum.Checksum(first[:headerLen], 0) != 0xffff {
		return badChecksum
	}
	if ip.Protocol() == uint8(header.TCPProtocolNumber) && (ip.More() || ip.FragmentOffset() != 0) {
		return fragment
	}
	total := int(ip.TotalLength())
	if total < headerLen || total > len(first)+len(more[0])+len(more[1]) {
		return malformed
	}
	if vouched || ip.Protocol() != uint8(header.TCPProtocolNumber) {
		return sound
	}
	size := total - headerLen
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(size))
	return inspectSum(sum, first[headerLen:], more, size)
}

func inspectIPv6(first []byte, more [2][]byte, vouched bool) verdict {
	if len(first) < header.IPv6MinimumSize {
		return malformed
	}
	ip := header.IPv6(first)
	next := ip.NextHeader()
	if next == uint8(header.IPv6FragmentHeader) {
		return fragment
	}
	size := int(ip.PayloadLength())
	if size > len(first)-header.IPv6MinimumSize+len(more[0])+len(more[1]) {
		return malformed
	}
	switch {
	case vouched || next == uint8(header.ICMPv6ProtocolNumber):
		return sound
	case next != uint8(header.TCPProtocolNumber):
		// What follows extension headers is not looked for, so it cannot be verified.
		return malformed
	}
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(size))
	return inspectSum(sum, first[header.IPv6MinimumSize:], more, size)
}

// inspectSum adds size octets of first and more to the pseudo-header's sum: all ones if nothing was damaged.
func inspectSum(sum uint16, first []byte, more [2][]byte, size int) verdict {
	var c checksum.Checksumer
	for _, b := range [...][]byte{first, more[0], more[1]} {
		b = b[:min(len(b), size)]
		size -= len(b)
		c.Add(b)
	}
	if checksum.Combine(sum, c.Checksum()) != 0xffff {
		return badChecksum
	}
	return sound
}
