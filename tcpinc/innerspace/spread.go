package innerspace

import (
	"bytes"
	"fmt"
)

// partSize is how many octets of a message go in one option. A message that may be longer is spread over several options of
// its ExID, in order: all are full but the last, which has fewer octets, none if the message is a multiple of that long. So
// a message that fits in one option is just that, and a message has one encoding. Inner options are delivered in order, and
// none is lost: no part needs a number.
const partSize = MaxBody

// MaxMessage is the longest message in octets that is spread over options. It is also what tcpcrypt takes for an Init message.
const MaxMessage = 4096

// Assembler puts the messages of one ExID together. Its zero value is ready. It holds at most MaxMessage octets, and what
// has come of them.
type Assembler struct {
	buf     []byte
	pending bool
}

// Add takes the contents of the next option, as Option.ExID returns them. When they end a message it returns it: body itself if
// it was the only part, otherwise a slice that is the caller's. Error: ErrMessageTooLong; then all that came is forgotten.
func (a *Assembler) Add(body []byte) (message []byte, whole bool, err error) {
	last := len(body) < partSize
	if len(a.buf)+len(body) > MaxMessage {
		*a = Assembler{}
		return nil, false, fmt.Errorf("%w: above %d octets", ErrMessageTooLong, MaxMessage)
	}
	if last && !a.pending {
		return body, true, nil
	}
	a.buf, a.pending = append(a.buf, body...), true
	if !last {
		return nil, false, nil
	}
	message = a.buf
	*a = Assembler{}
	return message, true, nil
}

// Pending reports whether a message has begun and not ended.
func (a *Assembler) Pending() bool { return a.pending }

// appendSpread appends a message in as many options as it takes.
func appendSpread(dst []byte, id ExID, message []byte) ([]byte, error) {
	if len(message) > MaxMessage {
		return dst, fmt.Errorf("%w: %v of %d octets, at most %d", ErrEncode, id, len(message), MaxMessage)
	}
	for {
		size := min(len(message), partSize)
		dst = append(appendExIDHeader(dst, id, size), message[:size]...)
		if message = message[size:]; size < partSize {
			return dst, nil
		}
	}
}

// parseSpread returns the message whose parts are at the start of b, one right behind the other.
func parseSpread(b []byte, id ExID) (message []byte, n int, err error) {
	var a Assembler
	for {
		body, size, err := parseBody(b[n:], id)
		if err != nil {
			return nil, 0, err
		}
		n += size
		message, whole, err := a.Add(body)
		if err != nil {
			return nil, 0, err
		}
		if whole {
			return message, n, nil
		}
	}
}

// Message returns the message of an ExID that a list of options has, and whether it has one: for the options of a SYN. Other
// options may stand between its parts. Errors: ErrOptions, ErrMessageTooLong; a second message, or one without its end, is ErrSequence.
func Message(options []byte, id ExID) (message []byte, ok bool, err error) {
	var a Assembler
	it := NewIterator(options)
	for o, more := it.Next(); more; o, more = it.Next() {
		got, body, is := o.ExID()
		if !is || got != id || o[0] != KindExperiment {
			continue
		}
		if ok {
			return nil, false, fmt.Errorf("%w: %v twice", ErrSequence, id)
		}
		if message, ok, err = a.Add(body); err != nil {
			return nil, false, err
		}
	}
	switch {
	case it.Err() != nil:
		return nil, false, it.Err()
	case a.Pending():
		return nil, false, fmt.Errorf("%w: %v without its end", ErrSequence, id)
	}
	return bytes.Clone(message), ok, nil
}

// AppendInit appends an Init1 or Init2 message (RFC 8548, Section 4.1), which begins with its own magic number, in as many
// options as it takes: 620 octets, the longest Init1 with a use, take three. On error, which wraps ErrEncode, dst is returned unchanged.
func AppendInit(dst, message []byte) ([]byte, error) { return appendSpread(dst, ExIDInit, message) }

// ParseInit returns the message that AppendInit made, and the octets it took. It may alias b. Errors: ErrTruncated,
// ErrOptions, ErrNotOption, ErrMessageTooLong.
func ParseInit(b []byte) (message []byte, n int, err error) { return parseSpread(b, ExIDInit) }

// AppendProof appends what proves to the peer who the sender is, opaque here, in as many options as it takes. On error,
// which wraps ErrEncode, dst is returned unchanged.
func AppendProof(dst, proof []byte) ([]byte, error) { return appendSpread(dst, ExIDProof, proof) }

// ParseProof returns what AppendProof was given, and the octets it took. Errors and the rest are those of ParseInit.
func ParseProof(b []byte) (proof []byte, n int, err error) { return parseSpread(b, ExIDProof) }
