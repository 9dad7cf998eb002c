package lab

import "sync/atomic"

// Segments is a choice of TCP segments.
type Segments uint8

const (
	SYNs    Segments = 1 << iota // SYN and SYN-ACK
	NonSYNs                      // all others
	All     = SYNs | NonSYNs
)

func (c Segments) match(s Segment) bool {
	if s.IsSYN() {
		return c&SYNs != 0
	}
	return c&NonSYNs != 0
}

// StripOption is a middlebox that overwrites TCP options of one kind with NOPs, as iptables' TCPOPTSTRIP does.
type StripOption struct {
	kind     uint8
	from     Segments
	stripped atomic.Int64
}

// NewStripOption strips options of this kind from these segments, of both directions.
func NewStripOption(kind uint8, from Segments) *StripOption {
	return &StripOption{kind: kind, from: from}
}

// Stripped is the number of options overwritten so far.
func (e *StripOption) Stripped() int64 { return e.stripped.Load() }

// Packet implements Element.
func (e *StripOption) Packet(p Packet, at Place) {
	if s, ok := ParseSegment(p.Data); ok && e.from.match(s) {
		s.change(s.Options(), func() {
			for kind, option := range s.EachOption() {
				if kind != e.kind {
					continue
				}
				e.stripped.Add(1)
				for i := range option {
					option[i] = 1
				}
			}
		})
	}
	at.Send(p)
}

// DropSYN is a firewall that drops SYNs, without or with ACK, that carry a TCP option of one kind.
type DropSYN struct {
	kind    uint8
	dropped atomic.Int64
}

// NewDropSYN drops SYNs that carry an option of this kind.
func NewDropSYN(kind uint8) *DropSYN { return &DropSYN{kind: kind} }

// Dropped is the number of SYNs dropped so far.
func (e *DropSYN) Dropped() int64 { return e.dropped.Load() }

// Packet implements Element.
func (e *DropSYN) Packet(p Packet, at Place) {
	if s, ok := ParseSegment(p.Data); ok && s.IsSYN() && s.HasOption(e.kind) {
		e.dropped.Add(1)
		return
	}
	at.Send(p)
}
