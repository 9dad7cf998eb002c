package lab

import (
	"slices"
	"time"
)

// Split cuts data segments into smaller ones, as segmentation offload in a network card or a hypervisor does: each has the
// options of the original (Honda et al., IMC 2011, Section 4.4, found the same), FIN and PSH are on the last. Segments with
// SYN or RST are left alone.
type Split struct {
	size int
	acted
}

// NewSplit cuts segments with more than size octets of data.
func NewSplit(size int) *Split { return &Split{size: max(size, 1)} }

// Packet implements Element.
func (e *Split) Packet(p Packet, at Place) {
	pieces := Pieces(p, e.size)
	if len(pieces) > 1 {
		e.act()
	}
	for _, piece := range pieces {
		at.Send(piece)
	}
}

// Coalesce joins data segments that follow each other, as receive offload in a router or a virtual switch does. The
// options of the first stay, the others are lost. A segment waits for more at most a time; FIN, SYN, RST, segments
// without data and gaps send what waits on first.
type Coalesce struct {
	size  int
	wait  time.Duration
	waits [2]flows[*held]
	acted
}

// held is data that waits for more.
type held struct {
	parts  parts
	cancel func()
}

// NewCoalesce joins segments up to size octets of data, and holds the first for at most wait.
func NewCoalesce(size int, wait time.Duration) *Coalesce {
	return &Coalesce{size: min(size, maxIPv4Packet-ipv4HeaderLen-tcpHeaderLen-maxOptions), wait: wait}
}

// Packet implements Element.
func (e *Coalesce) Packet(p Packet, at Place) {
	t, ok := takeApart(p)
	if !ok {
		at.Send(p)
		return
	}
	key, waits := t.flow(p.To), &e.waits[p.To]
	if h, ok := waits.get(key, at.Now()); ok {
		if e.joins(h, t) {
			e.act()
			h.parts.payload = append(h.parts.payload, t.payload...)
			h.parts.flags |= t.flags & (PSH | FIN)
			h.parts.ack, h.parts.window = t.ack, t.window
			if len(h.parts.payload) == e.size || t.flags&FIN != 0 {
				e.flush(key, p.To, at)
			}
			return
		}
		e.flush(key, p.To, at)
	}
	if len(t.payload) == 0 || len(t.payload) >= e.size || t.flags&(SYN|FIN|RST) != 0 || t.off != 0xffff && !t.partial {
		at.Send(p)
		return
	}
	t.payload = slices.Clone(t.payload)
	h := &held{parts: t}
	h.cancel = at.After(e.wait, func() { e.flush(key, p.To, at) })
	waits.put(key, h, at.Now())
}

func (e *Coalesce) joins(h *held, t parts) bool {
	return t.seq == h.parts.end() && len(t.payload) > 0 && t.flags&(SYN|RST) == 0 && t.partial == h.parts.partial &&
		(t.off == 0xffff || t.partial) && len(h.parts.payload)+len(t.payload) <= e.size
}

// flush sends what waits on.
func (e *Coalesce) flush(key flow, to End, at Place) {
	h, ok := e.waits[to].get(key, at.Now())
	if !ok {
		return
	}
	e.waits[to].remove(key)
	h.cancel()
	at.Send(h.parts.packet(to))
}

// Pieces cuts a TCP segment as Split does: what segmentation offload leaves to the link. What is no TCP segment, and what
// is small enough, comes back as it is.
func Pieces(p Packet, size int) []Packet {
	t, ok := takeApart(p)
	if !ok || t.flags&(SYN|RST) != 0 || len(t.payload) <= size || size < 1 {
		return []Packet{p}
	}
	var all []Packet
	last := t.flags & (FIN | PSH)
	t.flags &^= FIN | PSH
	for rest := t.payload; len(rest) > 0; {
		n := min(len(rest), size)
		t.payload, rest = rest[:n], rest[n:]
		if len(rest) == 0 {
			t.flags |= last
		}
		all = append(all, t.packet(p.To))
		t.seq += uint32(n)
	}
	return all
}
