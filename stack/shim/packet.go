package shim

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	tcpipstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// received is a look at an incoming TCP segment. tcp ends with the options.
type received struct {
	proto  tcpip.NetworkProtocolNumber
	pkt    *tcpipstack.PacketBuffer
	ip     []byte
	tcp    header.TCP
	length int // octets of the IP packet
}

type class int

const (
	other    class = iota // not a TCP segment, or not one that can be understood
	segment               // a TCP segment
	fragment              // a part of one
)

// headerRoom covers an IPv6 header and the longest TCP header.
const headerRoom = header.IPv6MinimumSize + header.TCPHeaderMaximumSize

// look finds the TCP header of an incoming packet.
func look(proto tcpip.NetworkProtocolNumber, pkt *tcpipstack.PacketBuffer) (received, class) {
	r := received{proto: proto, pkt: pkt}
	size := pkt.Data().Size()
	b, ok := pkt.Data().PullUp(min(size, headerRoom))
	if !ok {
		return r, other
	}
	var ipLen int
	switch {
	case proto == header.IPv4ProtocolNumber && len(b) >= header.IPv4MinimumSize:
		h := header.IPv4(b)
		if h.Protocol() != uint8(header.TCPProtocolNumber) {
			return r, other
		}
		if h.More() || h.FragmentOffset() != 0 {
			return r, fragment
		}
		ipLen, r.length = int(h.HeaderLength()), int(h.TotalLength())
		if ipLen < header.IPv4MinimumSize {
			return r, other
		}
	case proto == header.IPv6ProtocolNumber && len(b) >= header.IPv6MinimumSize:
		h := header.IPv6(b)
		switch h.NextHeader() {
		case uint8(header.TCPProtocolNumber):
		case uint8(header.IPv6FragmentExtHdrIdentifier):
			return r, fragment // of whatever: nothing but TCP is served
		default:
			return r, other
		}
		ipLen, r.length = header.IPv6MinimumSize, header.IPv6MinimumSize+int(h.PayloadLength())
	default:
		return r, other
	}
	if r.length > size || r.length < ipLen+header.TCPMinimumSize {
		return r, other
	}
	if len(b) < ipLen+header.TCPMinimumSize {
		if b, ok = pkt.Data().PullUp(ipLen + header.TCPMinimumSize); !ok {
			return r, other
		}
	}
	end := ipLen + int(header.TCP(b[ipLen:]).DataOffset())
	if end < ipLen+header.TCPMinimumSize || end > r.length {
		return r, other
	}
	if len(b) < end {
		if b, ok = pkt.Data().PullUp(end); !ok {
			return r, other
		}
	}
	r.ip, r.tcp = b[:ipLen], header.TCP(b[ipLen:end])
	return r, segment
}

// addresses returns source and destination of an IP header.
func addresses(proto tcpip.NetworkProtocolNumber, ip []byte) (src, dst netip.Addr) {
	if proto == header.IPv4ProtocolNumber {
		return netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	}
	return netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
}

// flow names the connection of the segment, seen from this host.
func (r received) flow() Flow {
	src, dst := addresses(r.proto, r.ip)
	return Flow{
		Local:  netip.AddrPortFrom(dst, r.tcp.DestinationPort()),
		Remote: netip.AddrPortFrom(src, r.tcp.SourcePort()),
	}
}

func (r received) options() []byte { return r.tcp[header.TCPMinimumSize:] }

func (r received) payloadLen() int { return r.length - len(r.ip) - len(r.tcp) }

func (r received) header(f Flow) Header {
	return Header{
		Flow: f, Seq: r.tcp.SequenceNumber(), Ack: r.tcp.AckNumber(), Flags: uint8(r.tcp.Flags()),
		Window: r.tcp.WindowSize(), Options: r.options(), PayloadLen: r.payloadLen(),
	}
}

// intact verifies the TCP checksum, unless the link has done so.
func (r received) intact(offloaded bool) bool {
	if offloaded || r.pkt.RXChecksumValidated {
		return true
	}
	var sum uint16
	if r.pkt.Data().Size() == r.length {
		sum = r.pkt.Data().ChecksumAtOffset(len(r.ip))
	} else {
		sum = checksum.Checksum(r.bytes()[len(r.ip):], 0)
	}
	return checksum.Combine(sum, pseudoHeader(r.proto, r.ip, r.length-len(r.ip))) == 0xffff
}

func pseudoHeader(proto tcpip.NetworkProtocolNumber, ip []byte, length int) uint16 {
	if proto == header.IPv4ProtocolNumber {
		h := header.IPv4(ip)
		return header.PseudoHeaderChecksum(header.TCPProtocolNumber, h.SourceAddress(), h.DestinationAddress(), uint16(length))
	}
	h := header.IPv6(ip)
	return header.PseudoHeaderChecksum(header.TCPProtocolNumber, h.SourceAddress(), h.DestinationAddress(), uint16(length))
}

// bytes returns a copy of the IP packet.
func (r received) bytes() []byte {
	b := make([]byte, 0, r.pkt.Data().Size())
	buf := r.pkt.Data().ToBuffer()
	buf.Apply(func(v *buffer.View) { b = append(b, v.AsSlice()...) })
	buf.Release()
	return b[:r.length]
}

// payload returns a copy of what follows the TCP header.
func (r received) payload() []byte {
	if r.payloadLen() == 0 {
		return nil
	}
	return r.bytes()[len(r.ip)+len(r.tcp):]
}

// edit returns a copy of the packet whose TCP header change has changed, without payload if cut. The caller owns it.
func (r received) edit(cut bool, change func(header.TCP)) *tcpipstack.PacketBuffer {
	b := r.bytes()
	if cut {
		b = b[:len(r.ip)+len(r.tcp)]
	}
	ip, l4 := b[:len(r.ip)], b[len(r.ip):]
	change(header.TCP(l4[:len(r.tcp)]))
	setLength(r.proto, ip, len(b))
	t := header.TCP(l4)
	t.SetChecksum(0)
	t.SetChecksum(^checksum.Checksum(l4, pseudoHeader(r.proto, ip, len(l4))))
	out := tcpipstack.NewPacketBuffer(tcpipstack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
	out.NetworkProtocolNumber = r.pkt.NetworkProtocolNumber
	out.PktType = r.pkt.PktType
	out.Hash = r.pkt.Hash
	out.RXChecksumValidated = true
	return out
}

// setLength sets the length of an IP packet, in octets, and the header's checksum.
func setLength(proto tcpip.NetworkProtocolNumber, ip []byte, length int) {
	if proto == header.IPv4ProtocolNumber {
		h := header.IPv4(ip)
		h.SetTotalLength(uint16(length))
		h.SetChecksum(0)
		h.SetChecksum(^h.CalculateChecksum())
		return
	}
	header.IPv6(ip).SetPayloadLength(uint16(length - len(ip)))
}

// rebuild returns the outgoing packet pkt with another TCP header, which has its options, and with data instead of its
// own payload if that is not nil. The caller owns it.
func rebuild(pkt *tcpipstack.PacketBuffer, tcp, data []byte) *tcpipstack.PacketBuffer {
	ip := pkt.NetworkHeader().Slice()
	l2 := pkt.LinkHeader().Slice()
	offload := data == nil && pkt.GSOOptions.Type != tcpipstack.GSONone && pkt.GSOOptions.NeedsCsum
	var payload buffer.Buffer
	if data == nil {
		payload = pkt.Data().ToBuffer()
	} else {
		payload = buffer.MakeWithData(data)
	}
	// What the link may still push comes on top of what it has pushed.
	spare := pkt.AvailableHeaderBytes()
	out := tcpipstack.NewPacketBuffer(tcpipstack.PacketBufferOptions{
		ReserveHeaderBytes: spare + len(l2) + len(ip) + len(tcp),
		Payload:            payload,
	})
	t := header.TCP(out.TransportHeader().Push(len(tcp)))
	copy(t, tcp)
	n := out.NetworkHeader().Push(len(ip))
	copy(n, ip)
	if len(l2) > 0 {
		copy(out.LinkHeader().Push(len(l2)), l2)
	}
	l4 := len(tcp) + out.Data().Size()
	setLength(pkt.NetworkProtocolNumber, n, len(ip)+l4)
	t.SetDataOffset(uint8(len(tcp)))
	t.SetChecksum(0)
	sum := pseudoHeader(pkt.NetworkProtocolNumber, n, l4)
	if offload {
		t.SetChecksum(sum) // the link completes it
	} else {
		t.SetChecksum(^t.CalculateChecksum(checksum.Combine(sum, out.Data().Checksum())))
	}
	out.NetworkProtocolNumber = pkt.NetworkProtocolNumber
	out.TransportProtocolNumber = pkt.TransportProtocolNumber
	out.EgressRoute = pkt.EgressRoute
	out.Hash = pkt.Hash
	out.PktType = pkt.PktType
	out.Owner = pkt.Owner
	out.Mark = pkt.Mark
	if data == nil {
		out.GSOOptions = pkt.GSOOptions
	}
	return out
}
