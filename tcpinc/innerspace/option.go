package innerspace

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Kinds with a meaning of their own here. RFC 9293, Section 3.1; RFC 6994, Section 3.
const (
	KindEnd         = 0   // EOL: nothing counts after it
	KindNop         = 1   // padding
	KindExperiment  = 253 // with an ExID; all of the project's own options
	KindExperiment2 = 254
)

// MaxOption is the longest option in octets, with its kind and length.
const MaxOption = 255

const (
	optionHeader = 2 // kind and length octets
	exIDHeader   = 4 // and the ExID. RFC 6994, Section 3
	wordLen      = 4
)

// Option is one option, from its kind octet to its end; of NOP and EOL the kind octet is all. Its zero value is no option.
type Option []byte

// Kind returns the option's kind.
func (o Option) Kind() byte { return o[0] }

// Data returns what follows kind and length, 0 to 253 octets.
func (o Option) Data() []byte {
	if len(o) < optionHeader {
		return nil
	}
	return o[optionHeader:]
}

// ExID returns the 16-bit experiment identifier of an option of kind 253 or 254 and what follows it. RFC 6994, Section 3.
func (o Option) ExID() (id ExID, body []byte, ok bool) {
	if len(o) < exIDHeader || o[0] != KindExperiment && o[0] != KindExperiment2 {
		return 0, nil, false
	}
	return ExID(binary.BigEndian.Uint16(o[optionHeader:])), o[exIDHeader:], true
}

// Known reports whether the registry lists the option.
func (o Option) Known() bool {
	id, _, ok := o.ExID()
	return ok && o[0] == KindExperiment && id.Known()
}

// String names the option for logs, without its contents: they may be secret.
func (o Option) String() string {
	if len(o) == 0 {
		return "no option"
	}
	if id, body, ok := o.ExID(); ok {
		return fmt.Sprintf("kind %d %v (%d octets)", o[0], id, len(body))
	}
	return fmt.Sprintf("kind %d (%d octets)", o[0], len(o.Data()))
}

// ParseOption returns the option at the start of b, which it aliases, and the octets it took. Errors: ErrTruncated when b
// ends within it, ErrOptions when it is none.
func ParseOption(b []byte) (Option, int, error) {
	n, err := optionLen(b)
	if err != nil {
		return nil, 0, err
	}
	if n == 0 || len(b) < n {
		return nil, 0, fmt.Errorf("%w: %d octets of an option", ErrTruncated, len(b))
	}
	return Option(b[:n:n]), n, nil
}

// optionLen returns the length of the option at the start of b, or 0 when more octets are needed to tell.
func optionLen(b []byte) (int, error) {
	switch {
	case len(b) == 0:
		return 0, nil
	case b[0] == KindEnd || b[0] == KindNop:
		return 1, nil
	case len(b) < optionHeader:
		return 0, nil
	case b[1] < optionHeader:
		return 0, fmt.Errorf("%w: kind %d has length %d, below 2", ErrOptions, b[0], b[1])
	}
	return int(b[1]), nil
}

// AppendOption appends an option of any kind but EOL and NOP, with at most 253 octets of data. On error, which wraps
// ErrEncode, dst is returned unchanged.
func AppendOption(dst []byte, kind byte, data []byte) ([]byte, error) {
	if kind == KindEnd || kind == KindNop {
		return dst, fmt.Errorf("%w: kind %d has no data: padding is put in by itself", ErrEncode, kind)
	}
	if len(data) > MaxOption-optionHeader {
		return dst, fmt.Errorf("%w: %d octets in an option of kind %d, at most %d", ErrEncode, len(data), kind, MaxOption-optionHeader)
	}
	dst = append(dst, kind, byte(optionHeader+len(data)))
	return append(dst, data...), nil
}

// Padding returns how many octets fill n octets up to whole words, 0 to 3.
func Padding(n int) int { return -n & (wordLen - 1) }

// appendPadding appends NOPs up to whole words of 4 octets, counted from start, so that more options can follow.
func appendPadding(dst []byte, start int) []byte {
	for range Padding(len(dst) - start) {
		dst = append(dst, KindNop)
	}
	return dst
}

// Iterator walks a list of options: those of a SYN, of a unit, of a TCP header. It never reads past the list.
type Iterator struct {
	rest []byte
	err  error
}

// NewIterator returns an Iterator over options.
func NewIterator(options []byte) *Iterator { return &Iterator{rest: options} }

// Next returns the next option. NOP is skipped; the end of the list, EOL or an error ends the walk.
func (it *Iterator) Next() (o Option, ok bool) {
	for len(it.rest) > 0 && it.err == nil {
		o, n, err := ParseOption(it.rest)
		switch {
		case err != nil:
			it.err = asOptions(err)
		case o[0] == KindEnd:
			it.rest = nil
		default:
			it.rest = it.rest[n:]
			if o[0] != KindNop {
				return o, true
			}
		}
	}
	return nil, false
}

// asOptions makes the end of a list within an option what it is: a list that does not parse.
func asOptions(err error) error {
	if !errors.Is(err, ErrOptions) {
		err = fmt.Errorf("%w: %v", ErrOptions, err)
	}
	return err
}

// Err returns an error that wraps ErrOptions if the list does not parse.
func (it *Iterator) Err() error { return it.err }

// CheckOptions returns an error that wraps ErrOptions unless b parses as a list of options.
func CheckOptions(b []byte) error {
	it := Iterator{rest: b}
	for _, ok := it.Next(); ok; _, ok = it.Next() {
	}
	return it.err
}
