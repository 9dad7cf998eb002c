package lab

import (
	"slices"
	"time"
)

// Answer is what a box does to a segment it does not like.
type Answer uint8

const (
	Drop       Answer = iota // say nothing
	Reset                    // drop it, and send its sender a RST in the name of the other end
	ResetBoth                // a RST to either end
	Prohibited               // drop it, and send ICMP "administratively prohibited"
)

// do does to a segment what the Answer says.
func (a Answer) do(p Packet, t parts, at Place) {
	switch a {
	case Reset, ResetBoth:
		at.Send(t.resetBack().packet(p.To.Other()))
		if a == ResetBoth {
			at.Send(t.resetOnwards().packet(p.To))
		}
	case Prohibited:
		if reply, ok := icmpError(p, AdminProhibited, 0); ok {
			at.Send(reply)
		}
	}
}

// resetBack is what a closed port would answer (RFC 9293, Section 3.10.7.1).
func (t parts) resetBack() parts {
	if t.flags&ACK != 0 {
		return fresh(t.destination, t.source, t.ack, 0, RST)
	}
	return fresh(t.destination, t.source, 0, t.end(), RST|ACK)
}

// resetOnwards is a RST in the sender's name, in the place of the segment.
func (t parts) resetOnwards() parts {
	return fresh(t.source, t.destination, t.seq, t.ack, RST|t.flags&ACK)
}

// BlockSYNData is a firewall that takes a SYN, with or without ACK, that carries data for an attack. TCP Fast Open met
// such boxes (C. Paasch, "Network support for TCP Fast Open", NANOG 67, 2016).
type BlockSYNData struct {
	answer Answer
	acted
}

// NewBlockSYNData blocks SYNs with data.
func NewBlockSYNData(answer Answer) *BlockSYNData { return &BlockSYNData{answer: answer} }

// Packet implements Element.
func (e *BlockSYNData) Packet(p Packet, at Place) {
	t, ok := takeApart(p)
	if !ok || !t.isSYN() || len(t.payload) == 0 {
		at.Send(p)
		return
	}
	e.act()
	e.answer.do(p, t, at)
}

// StripSYNData is a normalizer that cuts data off SYNs, as a SYN proxy does, or a firewall in "normalize" mode.
type StripSYNData struct{ acted }

// Packet implements Element.
func (e *StripSYNData) Packet(p Packet, at Place) {
	t, ok := takeApart(p)
	if !ok || !t.isSYN() || len(t.payload) == 0 {
		at.Send(p)
		return
	}
	e.act()
	t.payload = nil
	at.Send(t.packet(p.To))
}

// DelaySYN holds SYNs, not SYN-ACKs, back: a box that looks a destination up, wakes a radio, or a host that starts on
// demand.
type DelaySYN struct {
	by time.Duration
	acted
}

// NewDelaySYN holds each SYN for a time.
func NewDelaySYN(by time.Duration) *DelaySYN { return &DelaySYN{by: by} }

// Packet implements Element.
func (e *DelaySYN) Packet(p Packet, at Place) {
	if s, ok := ParseSegment(p.Data); ok && s.Flags()&(SYN|ACK) == SYN {
		e.act()
		at.SendAfter(e.by, p)
		return
	}
	at.Send(p)
}

// DuplicateSYN sends every SYN, with or without ACK, again after a time: a load balancer's second path, or a bridge loop.
type DuplicateSYN struct {
	after time.Duration
	acted
}

// NewDuplicateSYN sends copies after a time.
func NewDuplicateSYN(after time.Duration) *DuplicateSYN { return &DuplicateSYN{after: after} }

// Packet implements Element.
func (e *DuplicateSYN) Packet(p Packet, at Place) {
	if s, ok := ParseSegment(p.Data); ok && s.IsSYN() {
		e.act()
		twin := p
		twin.Data = slices.Clone(p.Data)
		at.SendAfter(e.after, twin)
	}
	at.Send(p)
}

// BlockOption is a firewall that answers SYNs that carry certain options: DropSYN with a voice.
type BlockOption struct {
	kinds  Kinds
	answer Answer
	acted
}

// NewBlockOption blocks SYNs, with or without ACK, with an option of one of these kinds.
func NewBlockOption(kinds Kinds, answer Answer) *BlockOption {
	return &BlockOption{kinds: kinds, answer: answer}
}

// Packet implements Element.
func (e *BlockOption) Packet(p Packet, at Place) {
	t, ok := takeApart(p)
	if !ok || !t.isSYN() || !e.kinds.in(t.options) {
		at.Send(p)
		return
	}
	e.act()
	e.answer.do(p, t, at)
}
