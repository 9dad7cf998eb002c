package lab

import (
	"sync/atomic"
)

// Segments is a choice of TCP segments.
type Segments uint8

const (
	SYNs    Segments = 1 << iota // SYN and SYN-ACK
	NonSYNs                      // all others
	All     = SYNs | NonSYNs
)

func (c Segments) match(syn bool) bool {
	if syn {
		return c&SYNs != 0
	}
	return c&NonSYNs != 0
}

// StripOption is a middlebox that takes TCP options away: by overwriting them with NOPs, as iptables' TCPOPTSTRIP and most
// normalizing firewalls do, or by removing them and shortening the header, as boxes do that write headers anew.
type StripOption struct {
	kinds    Kinds
	from     Segments
	remove   bool
	stripped atomic.Int64
	acted
}

// NewStripOption overwrites options of this kind in these segments, of both directions.
func NewStripOption(kind uint8, from Segments) *StripOption {
	return NewStripOptions(KindsOf(kind), from, false)
}

// NewStripOptions is NewStripOption for several kinds; with remove, the header is shortened.
func NewStripOptions(kinds Kinds, from Segments, remove bool) *StripOption {
	return &StripOption{kinds: kinds, from: from, remove: remove}
}

// Stripped is the number of options taken away so far.
func (e *StripOption) Stripped() int64 { return e.stripped.Load() }

// Packet implements Element.
func (e *StripOption) Packet(p Packet, at Place) {
	s, ok := ParseSegment(p.Data)
	if !ok || !e.from.match(s.IsSYN()) || !e.kinds.in(s.Options()) {
		at.Send(p)
		return
	}
	e.act()
	if e.remove {
		t, _ := takeApart(p)
		var n int
		t.options, n = without(t.options, e.kinds)
		e.stripped.Add(int64(n))
		at.Send(t.packet(p.To))
		return
	}
	s.change(s.Options(), p.Partial, func() {
		for kind, option := range s.EachOption() {
			if !e.kinds.Has(kind) {
				continue
			}
			e.stripped.Add(1)
			for i := range option {
				option[i] = 1
			}
		}
	})
	at.Send(p)
}

// DropSYN is a firewall that drops SYNs, without or with ACK, that carry a TCP option of certain kinds.
type DropSYN struct {
	kinds Kinds
	acted
}

// NewDropSYN drops SYNs that carry an option of this kind.
func NewDropSYN(kind uint8) *DropSYN { return NewDropSYNs(KindsOf(kind)) }

// NewDropSYNs drops SYNs that carry an option of one of these kinds.
func NewDropSYNs(kinds Kinds) *DropSYN { return &DropSYN{kinds: kinds} }

// Dropped is the number of SYNs dropped so far.
func (e *DropSYN) Dropped() int64 { return e.Acted() }

// Packet implements Element.
func (e *DropSYN) Packet(p Packet, at Place) {
	if s, ok := ParseSegment(p.Data); ok && s.IsSYN() && e.kinds.in(s.Options()) {
		e.act()
		return
	}
	at.Send(p)
}

// EchoOptions is a server, or a box that answers SYNs for one, that copies options it does not know from the SYN into its
// SYN-ACK. Honda et al. saw such hosts; RFC 8547, Section 4.1, has bit b against them.
type EchoOptions struct {
	kinds Kinds
	flows flows[[]byte]
	acted
}

// NewEchoOptions copies options of these kinds from each SYN into its SYN-ACK, in place of those it has, as far as there
// is room.
func NewEchoOptions(kinds Kinds) *EchoOptions { return &EchoOptions{kinds: kinds} }

// Packet implements Element.
func (e *EchoOptions) Packet(p Packet, at Place) {
	t, ok := takeApart(p)
	if !ok || !t.isSYN() {
		at.Send(p)
		return
	}
	key := t.flow(p.To)
	if t.flags&ACK == 0 {
		e.flows.put(key, append([]byte(nil), pick(t.options, e.kinds)...), at.Now())
		at.Send(p)
		return
	}
	echo, ok := e.flows.get(key, at.Now())
	if !ok || len(echo) == 0 {
		at.Send(p)
		return
	}
	own, _ := without(t.options, e.kinds)
	t.options = packed(own)
	if len(echo) > t.room() {
		at.Send(p)
		return
	}
	e.act()
	t.options = append(t.options, echo...)
	at.Send(t.packet(p.To))
}

// CorruptOption is a box with a fault, or one that means to spoil a negotiation unseen: it turns over one bit in the
// content of an option, with a right checksum.
type CorruptOption struct {
	kinds Kinds
	from  Segments
	dice  dice
	acted
}

// NewCorruptOption spoils options of these kinds in these segments. An option without content is left alone.
func NewCorruptOption(kinds Kinds, from Segments, seed uint64) *CorruptOption {
	return &CorruptOption{kinds: kinds, from: from, dice: newDice(seed)}
}

// Packet implements Element.
func (e *CorruptOption) Packet(p Packet, at Place) {
	if s, ok := ParseSegment(p.Data); ok && e.from.match(s.IsSYN()) {
		s.change(s.Options(), p.Partial, func() {
			for kind, option := range s.EachOption() {
				if e.kinds.Has(kind) && len(option) > 2 {
					e.act()
					bit := e.dice.IntN((len(option) - 2) * 8)
					option[2+bit/8] ^= 1 << (bit % 8)
				}
			}
		})
	}
	at.Send(p)
}
