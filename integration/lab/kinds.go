package lab

import "sync/atomic"

// Kinds is a set of TCP option kinds.
type Kinds struct{ has [4]uint64 }

// KindsOf is the set of these kinds.
func KindsOf(kinds ...uint8) Kinds {
	var s Kinds
	for _, k := range kinds {
		s.has[k/64] |= 1 << (k % 64)
	}
	return s
}

// UnknownKinds is what a box does not know that was built when TCP had RFC 793, RFC 2018 and RFC 7323 and no more: all but
// end of list, NOP, MSS (2), window scale (3), SACK (4 and 5) and timestamps (8).
func UnknownKinds() Kinds {
	s := everyKind()
	for _, k := range []uint8{0, 1, 2, 3, 4, 5, 8} {
		s.has[k/64] &^= 1 << (k % 64)
	}
	return s
}

func everyKind() Kinds { return Kinds{[4]uint64{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}} }

// Has reports whether a kind is in the set.
func (s Kinds) Has(kind uint8) bool { return s.has[kind/64]&(1<<(kind%64)) != 0 }

// in reports whether any of the options is in the set.
func (s Kinds) in(options []byte) bool {
	for kind := range eachOption(options) {
		if s.Has(kind) {
			return true
		}
	}
	return false
}

// Actor is an element that counts the packets it did something to. It may be asked from any goroutine. All elements but
// taps and plain delays are one.
type Actor interface {
	Acted() int64
}

// acted is the count of an Actor.
type acted struct{ n atomic.Int64 }

// Acted is the number of packets this element did something to.
func (a *acted) Acted() int64 { return a.n.Load() }

func (a *acted) act() { a.n.Add(1) }
