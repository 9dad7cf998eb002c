package stack

import (
	"syscall"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	tcpipstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// host is the stack as the shim sees it.
type host Stack

func (h *host) Connected(f Flow) bool {
	ep, ok := (*Stack)(h).endpoint(f).(*tcp.Endpoint)
	if !ok {
		return false
	}
	switch ep.EndpointState() {
	case tcp.StateEstablished, tcp.StateFinWait1, tcp.StateFinWait2, tcp.StateCloseWait, tcp.StateClosing,
		tcp.StateLastAck, tcp.StateTimeWait:
		return true
	}
	return false
}

// Arrives ends a connection in TIME-WAIT for the new SYN of an application. The netstack would do so only where there
// is a listener, and a forwarder is none: the SYN would be dropped until TIME-WAIT is over. Between the application's
// kernel and the access stack nothing is delayed or doubled, so the SYN is no old duplicate: RFC 9293, Section 3.6.1,
// has no other reason to turn it away.
func (h *host) Arrives(f Flow) {
	if s := (*Stack)(h); s.cfg.Promiscuous {
		h.Renew(f)
	}
}

func (h *host) Renew(f Flow) {
	s := (*Stack)(h)
	if ep := s.endpoint(f); ep != nil {
		s.endTimeWait(f, ep)
	}
}

func (h *host) Abort(f Flow) {
	if ep := (*Stack)(h).endpoint(f); ep != nil && tcp.EndpointState(ep.(*tcp.Endpoint).State()) != tcp.StateListen {
		ep.Abort()
	}
}

func (h *host) Unreachable(f Flow, errno syscall.Errno) {
	if a, ok := h.attempts.Load(f); ok {
		a.(*attempt).fail(errno)
	}
}

func (h *host) Reset(f Flow, seq, ack uint32, flags uint8) {
	t := make(header.TCP, header.TCPMinimumSize)
	t.Encode(&header.TCPFields{
		SrcPort: f.Local.Port(), DstPort: f.Remote.Port(), SeqNum: seq, AckNum: ack,
		DataOffset: header.TCPMinimumSize, Flags: header.TCPFlags(flags),
	})
	(*Stack)(h).send(f, header.TCPProtocolNumber, t, func(pseudo uint16) { t.SetChecksum(^t.CalculateChecksum(pseudo)) })
}

// send sends an IP packet of the stack's own along a flow. sum sets its checksum, given that of the pseudo-header.
func (s *Stack) send(f Flow, proto tcpip.TransportProtocolNumber, payload []byte, sum func(pseudo uint16)) {
	r, err := s.ns.FindRoute(nicID, toAddress(f.Local.Addr()), toAddress(f.Remote.Addr()), protocolOf(f.Remote.Addr()), false)
	if err != nil {
		return // nobody to send it to
	}
	defer r.Release()
	sum(r.PseudoHeaderChecksum(proto, uint16(len(payload))))
	pkt := tcpipstack.NewPacketBuffer(tcpipstack.PacketBufferOptions{
		ReserveHeaderBytes: int(r.MaxHeaderLength()) + len(payload),
		Payload:            buffer.Buffer{},
	})
	defer pkt.DecRef()
	copy(pkt.TransportHeader().Push(len(payload)), payload)
	pkt.TransportProtocolNumber = proto
	_ = r.WritePacket(tcpipstack.NetworkHeaderParams{Protocol: proto, TTL: r.DefaultTTL(), DF: true}, pkt)
}

// unreachable tells the remote end of a flow by ICMP why its packet was not delivered.
func (s *Stack) unreachable(f Flow, code header.ICMPv4Code, code6 header.ICMPv6Code, quote []byte) {
	if f.Remote.Addr().Is4() {
		m := make(header.ICMPv4, header.ICMPv4MinimumSize+len(quote))
		m.SetType(header.ICMPv4DstUnreachable)
		m.SetCode(code)
		copy(m[header.ICMPv4MinimumSize:], quote)
		s.send(f, header.ICMPv4ProtocolNumber, m, func(uint16) { m.SetChecksum(^checksum.Checksum(m, 0)) })
		return
	}
	m := make(header.ICMPv6, header.ICMPv6MinimumSize+len(quote))
	m.SetType(header.ICMPv6DstUnreachable)
	m.SetCode(code6)
	copy(m[header.ICMPv6MinimumSize:], quote)
	s.send(f, header.ICMPv6ProtocolNumber, m, func(pseudo uint16) { m.SetChecksum(^checksum.Checksum(m, pseudo)) })
}
