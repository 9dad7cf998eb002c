package stacktest

import (
	"bytes"
	"slices"
	"sync"

	"innertun/stack"
)

// Handshake is a stack.Handshake that sends what it is told to and remembers what it was shown.
type Handshake struct {
	// Options and Payload are what goes into segments of each kind.
	Options map[stack.Segment][]byte
	Payload map[stack.Segment][]byte
	// OnlyIfOffered sends SYN-ACK options only in answer to a SYN with an option of the same kind.
	OnlyIfOffered bool
	// Take tells that payload of a SYN or SYN-ACK is taken.
	Take bool
	// Refuse is returned for segments of the kind.
	Refuse map[stack.Segment]error
	// Verdict judges RSTs.
	Verdict stack.Verdict

	mu     sync.Mutex
	seen   []Seen
	asked  map[stack.Segment]int
	resets []stack.Header
}

// Seen is one call of Receive.
type Seen struct {
	Kind    stack.Segment
	Options []byte
	Payload []byte
}

var (
	_ stack.Handshake = (*Handshake)(nil)
	_ stack.Guard     = (*Handshake)(nil)
)

// AppendOptions implements stack.Handshake.
func (h *Handshake) AppendOptions(dst []byte, k stack.Segment, room int) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.asked == nil {
		h.asked = make(map[stack.Segment]int)
	}
	h.asked[k]++
	o := h.Options[k]
	if len(o) > room || len(o) == 0 {
		return dst
	}
	if k == stack.SYNACK && h.OnlyIfOffered && !h.offeredLocked(o[0]) {
		return dst
	}
	return append(dst, o...)
}

func (h *Handshake) offeredLocked(kind uint8) bool {
	for _, s := range h.seen {
		if s.Kind == stack.SYN {
			_, ok := Option(s.Options, kind)
			return ok
		}
	}
	return false
}

// AppendPayload implements stack.Handshake.
func (h *Handshake) AppendPayload(dst []byte, k stack.Segment, room int) []byte {
	p := h.Payload[k]
	return append(dst, p[:min(len(p), room)]...)
}

// Receive implements stack.Handshake.
func (h *Handshake) Receive(k stack.Segment, options, payload []byte) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen = append(h.seen, Seen{k, bytes.Clone(options), bytes.Clone(payload)})
	return h.Take && len(payload) > 0, h.Refuse[k]
}

// Incoming implements stack.Guard.
func (h *Handshake) Incoming(seg stack.Header) stack.Verdict {
	h.mu.Lock()
	defer h.mu.Unlock()
	seg.Options = bytes.Clone(seg.Options)
	h.resets = append(h.resets, seg)
	return h.Verdict
}

// Seen returns all calls of Receive.
func (h *Handshake) Seen() []Seen {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.seen)
}

// Resets returns all calls of Incoming.
func (h *Handshake) Resets() []stack.Header {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.resets)
}

// Saw returns what it was shown for a kind, and how often.
func (h *Handshake) Saw(k stack.Segment) (first Seen, times int) {
	for _, s := range h.Seen() {
		if s.Kind == k {
			if times == 0 {
				first = s
			}
			times++
		}
	}
	return first, times
}
