package innerspace

import (
	"bytes"
	"fmt"
)

// A message that may be longer than an option is spread over several of the same ExID, in order:
//
//	+------+--------+----------------+-+-------+--------------------+
//	| 253  | length |      ExID      |M| part  | 0 to 250 octets    |
//	+------+--------+----------------+-+-------+--------------------+
//
// M says that a further part follows. Parts count from 0; all but the last are full. Inner options are delivered in order
// and none is lost, so the number only finds out a sender that is at fault.
const (
	moreParts  = 0x80
	partMask   = 0x7f
	partSize   = MaxBody - 1
	partsLimit = partMask + 1
)

// MaxMessage is the longest message in octets that is spread over options. It is also what tcpcrypt takes for an Init message.
const MaxMessage = 4096

// Assembler puts the messages of one ExID together. Its zero value is ready. It holds at most MaxMessage octets, and what
// has come of them.
type Assembler struct {
	next int // part expected
	buf  []byte
}

// Add takes the contents of the next option, as Option.ExID returns them. When they end a message it returns it: in body if
// it was the only part, otherwise in a slice that is the caller's. Errors: ErrBody, ErrSequence, ErrMessageTooLong; then the
// next option must begin a message.
func (a *Assembler) Add(body []byte) (message []byte, whole bool, err error) {
	defer func() {
		if whole || err != nil {
			*a = Assembler{}
		}
	}()
	if len(body) == 0 {
		return nil, false, fmt.Errorf("%w: a part of a message without its number", ErrBody)
	}
	more, part, data := body[0]&moreParts != 0, int(body[0]&partMask), body[1:]
	switch {
	case part != a.next:
		return nil, false, fmt.Errorf("%w: part %d, want %d", ErrSequence, part, a.next)
	case more && len(data) != partSize:
		return nil, false, fmt.Errorf("%w: part %d has %d octets and is not the last, want %d", ErrBody, part, len(data), partSize)
	case len(a.buf)+len(data) > MaxMessage || more && len(a.buf)+len(data) == MaxMessage:
		return nil, false, fmt.Errorf("%w: above %d octets", ErrMessageTooLong, MaxMessage)
	case !more && part == 0:
		return data, true, nil
	case !more && len(data) == 0:
		return nil, false, fmt.Errorf("%w: part %d is empty", ErrBody, part)
	}
	a.buf = append(a.buf, data...)
	a.next++
	if more {
		return nil, false, nil
	}
	return a.buf, true, nil
}

// Pending reports whether a message has begun and not ended.
func (a *Assembler) Pending() bool { return a.next > 0 }

// appendSpread appends a message in as many options as it takes.
func appendSpread(dst []byte, id ExID, message []byte) ([]byte, error) {
	if len(message) > MaxMessage {
		return dst, fmt.Errorf("%w: %v of %d octets, at most %d", ErrEncode, id, len(message), MaxMessage)
	}
	for part := byte(0); ; part++ {
		size, more := len(message), byte(0)
		if size > partSize {
			size, more = partSize, moreParts
		}
		dst = append(appendExIDHeader(dst, id, 1+size), more|part)
		dst = append(dst, message[:size]...)
		if message = message[size:]; more == 0 {
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
// options may stand between its parts. Errors: ErrOptions, and those of Assembler; a second message, or one without its end,
// is ErrSequence.
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
// ErrOptions, ErrNotOption, ErrBody, ErrSequence, ErrMessageTooLong.
func ParseInit(b []byte) (message []byte, n int, err error) { return parseSpread(b, ExIDInit) }

// AppendProof appends what proves to the peer who the sender is, opaque here, in as many options as it takes. On error,
// which wraps ErrEncode, dst is returned unchanged.
func AppendProof(dst, proof []byte) ([]byte, error) { return appendSpread(dst, ExIDProof, proof) }

// ParseProof returns what AppendProof was given, and the octets it took. Errors and the rest are those of ParseInit.
func ParseProof(b []byte) (proof []byte, n int, err error) { return parseSpread(b, ExIDProof) }
