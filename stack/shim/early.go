package shim

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	tcpipstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// early is what an Entry needs to be open before the third segment has come, or later than the SYN-ACK.
type early struct {
	opened  bool   // passive: the netstack has been handed a third segment
	claimed bool   // under the table's lock: accepted, but the third segment is still to come
	closed  bool   // likewise: closed by who has accepted it, but the third segment is still to come
	ip      []byte // the IP header of the peer's SYN
	options []byte // and its TCP options
	window  uint16

	waiting bool                       // active: the SYN-ACK waits at the gate
	synAck  *tcpipstack.PacketBuffer   // the latest one
	behind  []*tcpipstack.PacketBuffer // what has come after it
}

// maxBehind bounds the segments that wait behind a SYN-ACK; later ones are lost, and sent again.
const maxBehind = 64

// remember keeps what a third segment of the peer's would be made of.
func (y *early) remember(r received) {
	y.ip = append(y.ip[:0], r.ip...)
	y.options = append(y.options[:0], r.options()...)
	y.window = r.tcp.WindowSize()
}

// opensEarly tells, after a SYN-ACK has left, whether the netstack is to take the connection as open now.
func (e *Entry) opensEarly() bool {
	o, ok := e.hs.(Opener)
	return ok && !e.active && !e.brief && !e.early.opened && !e.received[NonSYN] && e.early.ip != nil && o.EarlyOpen()
}

// openEarly hands the netstack the third segment that it would get, for an acknowledgement of the SYN-ACK alone. It must
// not run under the netstack's locks.
func (s *Shim) openEarly(e *Entry) {
	e.mu.Lock()
	if e.early.opened || e.received[NonSYN] || e.synAck == nil || e.isGone() { // perhaps refused since, and aborted
		e.mu.Unlock()
		return
	}
	e.early.opened = true
	pkt := e.third()
	e.mu.Unlock()
	s.table.keep(e)
	s.Endpoint.DeliverNetworkPacket(pkt.NetworkProtocolNumber, pkt)
	pkt.DecRef()
}

// assumedRTT is the round-trip time that the netstack is led to assume of a connection which opens before there was one to
// measure, in milliseconds: its retransmission timeout, three times that at first, is then the second of RFC 6298, Section
// 2.1, rather than the least there is, which a longer path would take for losses.
const assumedRTT = 1000 / 3

// third makes the segment that completes the handshake at this end.
func (e *Entry) third() *tcpipstack.PacketBuffer {
	ipLen := len(e.early.ip)
	var options []byte
	if peer, ok := timestamp(e.early.options); ok {
		own, _ := timestamp(e.synAck[header.TCPMinimumSize:])
		options = []byte{header.TCPOptionNOP, header.TCPOptionNOP, header.TCPOptionTS, header.TCPOptionTSLength}
		options = binary.BigEndian.AppendUint32(options, peer)
		options = binary.BigEndian.AppendUint32(options, own-assumedRTT)
	}
	window := e.early.window // of a SYN, which is not scaled: RFC 7323, Section 2.2
	if hasOption(e.synAck[header.TCPMinimumSize:], header.TCPOptionWS) {
		window >>= windowScale(e.early.options)
	}
	b := make([]byte, ipLen+header.TCPMinimumSize+len(options))
	copy(b, e.early.ip)
	t := header.TCP(b[ipLen:])
	t.Encode(&header.TCPFields{
		SrcPort: e.flow.Remote.Port(), DstPort: e.flow.Local.Port(),
		SeqNum: uint32(e.irs) + 1 + uint32(e.taken), AckNum: uint32(e.iss) + 1,
		DataOffset: uint8(len(t)), Flags: header.TCPFlagAck, WindowSize: window,
	})
	copy(t[header.TCPMinimumSize:], options)
	proto := tcpip.NetworkProtocolNumber(header.IPv4ProtocolNumber)
	if e.flow.Remote.Addr().Is6() {
		proto = header.IPv6ProtocolNumber
	}
	setLength(proto, b[:ipLen], len(b))
	t.SetChecksum(^checksum.Checksum(t, pseudoHeader(proto, b[:ipLen], len(t))))
	pkt := tcpipstack.NewPacketBuffer(tcpipstack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
	pkt.NetworkProtocolNumber = proto
	pkt.RXChecksumValidated = true
	return pkt
}

// timestamp returns TSval of a segment's options. RFC 7323, Section 3.2.
func timestamp(options []byte) (value uint32, ok bool) {
	for o, rest, more := nextOption(options); more; o, rest, more = nextOption(rest) {
		if o[0] == header.TCPOptionTS && len(o) == header.TCPOptionTSLength {
			return binary.BigEndian.Uint32(o[2:]), true
		}
	}
	return 0, false
}

// awaitsThird tells whether the connection was opened early and the third segment is still to come.
func (e *Entry) awaitsThird() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.early.opened && !e.received[NonSYN]
}

// gate tells what the SYN-ACK that was shown to the Handshake has to wait for; nil: nothing.
func (e *Entry) gate() <-chan struct{} {
	g, ok := e.hs.(Gate)
	if !ok {
		return nil
	}
	c := g.Gate()
	if c == nil {
		return nil
	}
	select {
	case <-c:
		return nil
	default:
		return c
	}
}

// hold keeps a SYN-ACK, or the repetition of one, until the gate opens.
func (s *Shim) hold(e *Entry, gate <-chan struct{}, pkt *tcpipstack.PacketBuffer, ack uint32) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.early.synAck != nil {
		e.early.synAck.DecRef()
	}
	e.early.synAck = pkt
	if e.early.waiting {
		return
	}
	e.early.waiting = true
	s.gates.Go(func() {
		open := false
		select {
		case <-gate:
			open = true
		case <-e.failed:
		case <-e.gone:
		}
		if !open {
			s.worker.reset(e.flow, ack, 0, uint8(header.TCPFlagRst))
		}
		for pkt := e.takeWaiting(); pkt != nil; pkt = e.takeWaiting() {
			if open {
				s.Endpoint.DeliverNetworkPacket(pkt.NetworkProtocolNumber, pkt)
			}
			pkt.DecRef()
		}
	})
}

// takeWaiting returns the next segment that has waited, the SYN-ACK first. nil: there is none, and from now on none waits.
func (e *Entry) takeWaiting() *tcpipstack.PacketBuffer {
	e.mu.Lock()
	defer e.mu.Unlock()
	y := &e.early
	switch {
	case y.synAck != nil:
		pkt := y.synAck
		y.synAck = nil
		return pkt
	case len(y.behind) > 0:
		pkt := y.behind[0]
		y.behind = y.behind[1:]
		return pkt
	}
	y.waiting = false
	return nil
}

// holdBehind keeps a segment that has come while the SYN-ACK waits: the netstack would not know what it is. The caller
// holds e.mu.
func (e *Entry) holdBehind(r received) {
	if len(e.early.behind) >= maxBehind {
		return
	}
	pkt := r.pkt.Clone()
	pkt.NetworkProtocolNumber = r.proto
	e.early.behind = append(e.early.behind, pkt)
}
