package tcpcrypt

import (
	"errors"
	"fmt"
)

// A protocol above that can carry a request has the peer begin the next generation itself, where RFC 8548 knows only the way
// of going ahead and being followed. RFC 8548, Section 3.8.

// ErrRekeyRequest says that a peer has asked for a generation it cannot have a reason to ask for.
var ErrRekeyRequest = errors.New("tcpcrypt: request for a key generation too far ahead")

// impatience is how many times its limits a peer's key may serve before this host does not wait for what it has asked for.
const impatience = 3

// SetAsk hands in how the peer is asked to seal under that generation, without waiting; false: it cannot be asked now. It is
// used once the peer's key is past twice its limits, at most once a generation. It may be called while data flows.
func (c *Conn) SetAsk(ask func(generation uint32) bool) { c.asker.Store(&ask) }

// asks reports whether the peer of an overdue key has been asked for the next one, and has some time left.
func (c *Conn) asks() bool {
	ask, d, l := c.asker.Load(), c.in.dir, &c.cfg.KeyLimits
	if ask == nil || d.keyFrames >= impatience*l.Frames || d.keyOctets >= impatience*l.Octets {
		return false
	}
	if next := uint64(d.generation) + 1; c.in.asked < next {
		if next > 1<<32-1 || !(*ask)(uint32(next)) {
			return false
		}
		c.in.asked = next
	}
	return true
}

// Asked takes the peer's request that this host seal under that generation, at once or with data under way. What it has
// reached already is no news. Error: ErrRekeyRequest.
func (c *Conn) Asked(generation uint32) error {
	have := c.out.counters.generation.Load()
	switch {
	case generation <= have:
		return nil
	case generation-have > 1: // it has seen none of those in between
		return fmt.Errorf("%w: %d, this host is at %d", ErrRekeyRequest, generation, have)
	}
	c.rekeySoon(have)
	return nil
}
