package innerspace

import (
	"encoding/binary"
	"fmt"
)

// DefaultQueue is how many octets of options wait to be sent at most, unless an Encoder says otherwise.
const DefaultQueue = 16 << 10

// Encoder makes the units of one direction. Its payload is not copied: whoever has it leaves room before it. A single
// instance is used for one direction only; it is not safe for concurrent use. Its zero value is ready.
type Encoder struct {
	// Limit is how many octets of options may wait. 0: DefaultQueue.
	Limit int

	queue []byte // whole options
}

// Queue takes one option, which leaves with the next units that have room. The option is copied. Errors: ErrQueueFull, and
// ErrEncode if o is not one whole option, or padding.
func (e *Encoder) Queue(o Option) error {
	if _, n, err := ParseOption(o); err != nil || n != len(o) || n == 1 {
		return fmt.Errorf("%w: not one whole option: %d octets", ErrEncode, len(o))
	}
	limit := e.Limit
	if limit == 0 {
		limit = DefaultQueue
	}
	if len(e.queue)+len(o) > limit {
		return fmt.Errorf("%w: %d octets", ErrQueueFull, len(e.queue))
	}
	e.queue = append(e.queue, o...)
	return nil
}

// Waiting returns how many octets of options wait.
func (e *Encoder) Waiting() int { return len(e.queue) }

// Room returns how many octets are to be left before the payload of the next unit, so that all options that wait can leave
// with it. HeaderLen is the least.
func (e *Encoder) Room() int {
	n := min(len(e.queue), MaxOptions)
	return HeaderLen + n + Padding(n)
}

// Unit makes a unit of the n octets of payload at b[room:], room at least HeaderLen: it puts header and options right
// before them, as many options as there is room for, and returns the part of b that is the unit. n may be 0. On error, which
// wraps ErrEncode, nothing has changed.
func (e *Encoder) Unit(b []byte, room, n int) ([]byte, error) {
	if n < 0 || n > MaxPayload || room < HeaderLen || room > len(b)-n {
		return nil, fmt.Errorf("%w: unit of %d octets with room for %d, in a buffer of %d", ErrEncode, n, room, len(b))
	}
	h := Header{Payload: n}
	if len(e.queue) > 0 && room > HeaderLen {
		h.Options = e.take(b[HeaderLen:room])
	}
	start := room - h.Options - HeaderLen
	binary.BigEndian.PutUint32(b[start:], h.bits())
	return b[start : room+n], nil
}

// take moves options from the queue to the end of b and returns how many octets they are with their padding.
func (e *Encoder) take(b []byte) int {
	room := min(len(b)&^(wordLen-1), MaxOptions)
	n := len(e.queue)
	if n > room {
		n = wholeOptions(e.queue, room)
	}
	size := n + Padding(n)
	at := b[len(b)-size:]
	copy(at, e.queue[:n])
	appendPadding(at[:n], 0)
	e.queue = e.queue[:copy(e.queue, e.queue[n:])]
	return size
}

// wholeOptions returns how many octets of the options in b are whole within its first room octets.
func wholeOptions(b []byte, room int) int {
	n := 0
	for n < len(b) {
		size, err := optionLen(b[n:])
		if err != nil || size == 0 || n+size > room {
			break
		}
		n += size
	}
	return n
}
