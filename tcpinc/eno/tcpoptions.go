package eno

import (
	"errors"
	"fmt"
)

// TCP option kinds without a length octet. RFC 9293, Section 3.1.
const (
	kindEnd = 0
	kindNop = 1
)

// ErrOptions tells that the options of a TCP header do not parse as a list.
var ErrOptions = errors.New("eno: malformed TCP options")

// Iterator walks the options of a TCP header. It never reads past the list: an
// option whose length is below two or runs past the end stops the walk with an
// error. RFC 9293, Section 3.1.
type Iterator struct {
	rest []byte
	kind byte
	err  error
}

// NewIterator returns an Iterator over the options of one TCP header, at most
// 40 octets there, of any length here.
func NewIterator(options []byte) *Iterator { return &Iterator{rest: options} }

// Next returns the next option, from its kind octet to its end. NOP is skipped;
// the end of the list, EOL or an error ends the walk.
func (it *Iterator) Next() (option []byte, ok bool) {
	for len(it.rest) > 0 && it.rest[0] == kindNop {
		it.rest = it.rest[1:]
	}
	if len(it.rest) == 0 || it.rest[0] == kindEnd {
		it.rest = nil
		return nil, false
	}
	it.kind = it.rest[0]
	if len(it.rest) < 2 {
		return it.fail("option of kind %d ends before its length", it.kind)
	}
	n := int(it.rest[1])
	if n < 2 {
		return it.fail("option of kind %d has length %d, below 2", it.kind, n)
	}
	if n > len(it.rest) {
		return it.fail("option of kind %d has length %d, but %d octets are left", it.kind, n, len(it.rest))
	}
	option, it.rest = it.rest[:n:n], it.rest[n:]
	return option, true
}

// Err returns an error that wraps ErrOptions if the walk ended early. Then Kind
// returns the kind of the option at fault.
func (it *Iterator) Err() error { return it.err }

// Kind returns the kind of the option met last.
func (it *Iterator) Kind() byte { return it.kind }

func (it *Iterator) fail(format string, args ...any) ([]byte, bool) {
	it.rest = nil
	it.err = fmt.Errorf("%w: %s", ErrOptions, fmt.Sprintf(format, args...))
	return nil, false
}

// FindSYN returns the ENO option of a SYN segment, nil if there is none. More
// than one count as none (RFC 8547, Section 4.1) and give ErrRepeated; a list
// that does not parse and in which an ENO option was seen gives ErrOptions.
func FindSYN(options []byte) ([]byte, error) {
	var found []byte
	seen := 0
	it := NewIterator(options)
	for option, ok := it.Next(); ok; option, ok = it.Next() {
		if option[0] == Kind {
			found = option
			seen++
		}
	}
	switch {
	case it.Err() != nil && (seen > 0 || it.Kind() == Kind):
		return nil, it.Err()
	case it.Err() != nil:
		return nil, nil
	case seen > 1:
		return nil, fmt.Errorf("%w: %d of them", ErrRepeated, seen)
	}
	return found, nil
}

// HasNonSYN reports whether a non-SYN segment's options hold ENO: presence is
// all that counts, once or more often. RFC 8547, Section 4.1.
func HasNonSYN(options []byte) bool {
	it := NewIterator(options)
	for option, ok := it.Next(); ok; option, ok = it.Next() {
		if option[0] == Kind {
			return true
		}
	}
	return false
}
