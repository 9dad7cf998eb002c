package link

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// frame describes a crafted packet. The zero values are those of a sound TCP segment.
type frame struct {
	v6         bool
	options    int    // octets of IPv4 options
	proto      uint8  // 0: TCP
	port       uint16 // destination
	fragOffset uint16 // octets
	more       bool
	icmpType   uint8
	payload    []byte
	badTCP     bool // checksum
	badIP      bool
	syn        bool
}

var (
	nearMAC = tcpip.LinkAddress("\x02\x00\x00\x00\x00\x01")
	farMAC  = tcpip.LinkAddress("\x02\x00\x00\x00\x00\x02")

	broadcast = tcpip.LinkAddress("\xff\xff\xff\xff\xff\xff")
)

func addr(s string) tcpip.Address { return tcpip.AddrFromSlice(netip.MustParseAddr(s).AsSlice()) }

// ip returns the IP packet, from far to near.
func (f frame) ip() []byte {
	proto := f.proto
	if proto == 0 {
		proto = uint8(header.TCPProtocolNumber)
	}
	src, dst := addr(farV4), addr(nearV4)
	if f.v6 {
		src, dst = addr(farV6), addr(nearV6)
	}
	body := f.body(proto, src, dst)
	if !f.v6 {
		h := header.IPv4(make([]byte, header.IPv4MinimumSize+f.options))
		for i := header.IPv4MinimumSize; i < len(h); i++ {
			h[i] = 1 // no operation
		}
		flags := uint8(0)
		if f.more {
			flags = header.IPv4FlagMoreFragments
		}
		h.Encode(&header.IPv4Fields{
			TotalLength: uint16(len(h) + len(body)), TTL: 64, Protocol: proto,
			Flags: flags, FragmentOffset: f.fragOffset, SrcAddr: src, DstAddr: dst,
		})
		h.SetHeaderLength(uint8(len(h)))
		h.SetChecksum(0)
		h.SetChecksum(^h.CalculateChecksum())
		if f.badIP {
			h.SetChecksum(h.Checksum() ^ 0x0101)
		}
		return append(h, body...)
	}
	if f.more || f.fragOffset != 0 {
		ext := header.IPv6Fragment(make([]byte, header.IPv6FragmentHeaderSize))
		ext[0] = proto
		ext[2], ext[3] = byte(f.fragOffset>>8), byte(f.fragOffset)
		if f.more {
			ext[3] |= 1
		}
		body = append(ext, body...)
		proto = uint8(header.IPv6FragmentHeader)
	}
	h := header.IPv6(make([]byte, header.IPv6MinimumSize))
	h.Encode(&header.IPv6Fields{
		PayloadLength: uint16(len(body)), TransportProtocol: tcpip.TransportProtocolNumber(proto),
		HopLimit: 64, SrcAddr: src, DstAddr: dst,
	})
	return append(h, body...)
}

func (f frame) body(proto uint8, src, dst tcpip.Address) []byte {
	switch tcpip.TransportProtocolNumber(proto) {
	case header.ICMPv4ProtocolNumber, header.ICMPv6ProtocolNumber:
		return append([]byte{f.icmpType, 0, 0, 0, 0, 0, 0, 0}, f.payload...)
	case header.TCPProtocolNumber:
		h := header.TCP(make([]byte, header.TCPMinimumSize))
		flags := header.TCPFlagAck
		if f.syn {
			flags = header.TCPFlagSyn
		}
		h.Encode(&header.TCPFields{SrcPort: 80, DstPort: f.port, SeqNum: 1, DataOffset: header.TCPMinimumSize, Flags: flags, WindowSize: 1000})
		sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, src, dst, uint16(len(h)+len(f.payload)))
		sum = checksum.Checksum(f.payload, sum)
		h.SetChecksum(^h.CalculateChecksum(sum))
		if f.badTCP {
			h.SetChecksum(h.Checksum() ^ 0x0101)
		}
		return append(h, f.payload...)
	}
	return append([]byte{0, 80, byte(f.port >> 8), byte(f.port), 0, 8, 0, 0}, f.payload...)
}

// ethernet returns the packet in a frame to dst, padded to the least size.
func (f frame) ethernet(dst tcpip.LinkAddress) []byte {
	proto := header.IPv4ProtocolNumber
	if f.v6 {
		proto = header.IPv6ProtocolNumber
	}
	return ethernetFrame(dst, proto, f.ip())
}

func ethernetFrame(dst tcpip.LinkAddress, proto tcpip.NetworkProtocolNumber, body []byte) []byte {
	h := header.Ethernet(make([]byte, header.EthernetMinimumSize))
	h.Encode(&header.EthernetFields{SrcAddr: farMAC, DstAddr: dst, Type: proto})
	b := append(h, body...)
	for len(b) < 60 {
		b = append(b, 0)
	}
	return b
}

func arpFrame(dst tcpip.LinkAddress, op header.ARPOp) []byte {
	return arpFrom(dst, op, farMAC, farV4, nearV4)
}

func arpFrom(dst tcpip.LinkAddress, op header.ARPOp, mac tcpip.LinkAddress, sender, target string) []byte {
	h := header.ARP(make([]byte, header.ARPSize))
	h.SetIPv4OverEthernet()
	h.SetOp(op)
	copy(h.HardwareAddressSender(), mac)
	from, to := addr(sender).As4(), addr(target).As4()
	copy(h.ProtocolAddressSender(), from[:])
	copy(h.ProtocolAddressTarget(), to[:])
	return ethernetFrame(dst, header.ARPProtocolNumber, h)
}

func bufferOf(b []byte) buffer.Buffer { return buffer.MakeWithData(b) }
