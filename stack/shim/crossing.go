package shim

import (
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	tcpipstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A simultaneous open, RFC 9293, Section 3.5, Figure 7: SYNs cross, and each end answers with a SYN-ACK.
//
//	           SYN  --->  <---  SYN
//	SYN-RCVD                          SYN-RCVD
//	       SYN-ACK  --->  <---  SYN-ACK
//	    open                          open
//
// The netstack does its part up to SYN-RCVD. There it finds the sequence number of a SYN-ACK outside its window and
// answers with a bare ACK; it never compares the acknowledgement with what it sent; and a SYN with a number in the window
// starts it anew. So the shim judges what comes in that state, and hands it the SYN-ACK as the ACK that it also is.

// half tells whether the own end is in SYN-RCVD after its own SYN.
func (e *Entry) half() bool {
	return e.active && e.received[SYN] && !e.received[SYNACK] && !e.received[NonSYN]
}

// receiveCrossing shows the Handshake a SYN that has crossed the own one. own is the MSS that the own MTU allows.
func (e *Entry) receiveCrossing(r received, own int) (*tcpipstack.PacketBuffer, outcome) {
	seq := seqnum.Value(r.tcp.SequenceNumber())
	switch {
	case !e.issKnown, e.received[SYNACK], e.received[NonSYN]:
		return nil, pass // nothing was sent to cross it, or it comes too late
	case e.received[SYN] && seq != e.irs:
		return nil, swallow
	}
	first := !e.received[SYN]
	e.irs = seq
	if err := e.showSYN(r); err != nil {
		return nil, refuse
	}
	if first {
		e.shift = windowScale(r.options())
	}
	taken := e.taken
	return r.edit(true, func(t header.TCP) {
		t.SetSequenceNumber(t.SequenceNumber() + uint32(taken))
		lowerMSS(t[header.TCPMinimumSize:], own)
	}), replace
}

// receiveCrossed shows the Handshake the SYN-ACK that follows a SYN, and makes an ACK of it for the netstack. Of a
// repetition the netstack makes what TCP wants: the peer has yet to hear that the connection is open.
func (e *Entry) receiveCrossed(r received) (*tcpipstack.PacketBuffer, outcome) {
	if !e.half() {
		return nil, pass
	}
	if seqnum.Value(r.tcp.SequenceNumber()) != e.irs || seqnum.Value(r.tcp.AckNumber()) != e.iss+1 {
		return nil, swallow
	}
	if err := e.show(SYNACK, r.options(), nil); err != nil {
		return nil, refuse
	}
	next, window := uint32(e.irs)+1+uint32(e.taken), r.tcp.WindowSize()>>e.shift
	return r.edit(true, func(t header.TCP) {
		t.SetFlags(uint8(header.TCPFlagAck))
		t.SetSequenceNumber(next)
		t.SetWindowSize(window) // that of a SYN-ACK is not scaled. RFC 7323, Section 2.2
	}), replace
}

// receiveHalf shows the Handshake a segment without SYN that opens the connection, as the SYN-ACK was lost. All others
// go no further.
func (e *Entry) receiveHalf(r received) outcome {
	seq, ack := seqnum.Value(r.tcp.SequenceNumber()), seqnum.Value(r.tcp.AckNumber())
	if e.declines(ack) {
		return kill
	}
	if ack != e.iss+1 || !seq.InWindow(e.irs+1+seqnum.Value(e.taken), maxWindow) {
		return swallow
	}
	if err := e.show(NonSYN, r.options(), nil); err != nil {
		return kill
	}
	return pass
}
