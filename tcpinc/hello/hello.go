// Package hello is the first message of an encrypted stream between two hosts that both sent a = 1 (RFC 8547, Section
// 4.2): what a host can do beyond the RFCs, and who it is. This format is the project's own.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+---------------------------------------------------------------+
//	|                      Magic = 0x49544831                       |
//	+-------------------------------+---------------+---------------+
//	|     Length of all items       |     Type      |  Length ...   |
//	+---------------+---------------+---------------+---------------+
//	|  ... of value |  value ...
//	+---------------+
//
// Items follow each other up to the length; one of an unknown type is skipped, so that others can be added.
//
// It is pure: no I/O, clock, randomness or goroutine.
package hello

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// Magic begins a hello.
	Magic uint32 = 0x49544831
	// HeaderLen is the length in octets of the magic number and the length.
	HeaderLen = 6
	// MaxLen is the longest hello in octets, its header included.
	MaxLen = 1024

	itemHeaderLen = 3
)

// Types of items.
const (
	itemCapabilities = 1
	itemIdentity     = 2

	capabilitiesLen = 4
	identityLen     = ed25519.PublicKeySize + ed25519.SignatureSize
)

// Capabilities are what a host can do, a bit each.
type Capabilities uint32

// AuthenticatedResets says "my resets are authenticated, and I check yours".
const AuthenticatedResets Capabilities = 1 << 0

// Has reports whether all of those are there.
func (c Capabilities) Has(all Capabilities) bool { return c&all == all }

// Hello is what a host says of itself. The zero value says nothing.
type Hello struct {
	Capabilities Capabilities
	Identity     *Identity // nil: none
}

// Identity is a claim to be the owner of a key, and its proof: see Sign and Verify.
type Identity struct {
	Key       [ed25519.PublicKeySize]byte
	Signature [ed25519.SignatureSize]byte
}

var (
	// ErrNone says that the octets are not the beginning of a hello: they belong to whoever comes after it.
	ErrNone = errors.New("hello: the stream does not begin with a hello")
	// ErrIncomplete says that the octets are the beginning of a hello, and not all of it.
	ErrIncomplete = errors.New("hello: not all of it is there")
	// ErrMalformed says that the octets begin as a hello and are none; the text says why.
	ErrMalformed = errors.New("hello: malformed")
)

// Append appends a hello.
func Append(dst []byte, h Hello) []byte {
	size := itemHeaderLen + capabilitiesLen
	if h.Identity != nil {
		size += itemHeaderLen + identityLen
	}
	dst = binary.BigEndian.AppendUint32(dst, Magic)
	dst = binary.BigEndian.AppendUint16(dst, uint16(size))
	dst = appendItemHeader(dst, itemCapabilities, capabilitiesLen)
	dst = binary.BigEndian.AppendUint32(dst, uint32(h.Capabilities))
	if h.Identity != nil {
		dst = appendItemHeader(dst, itemIdentity, identityLen)
		dst = append(dst, h.Identity.Key[:]...)
		dst = append(dst, h.Identity.Signature[:]...)
	}
	return dst
}

func appendItemHeader(dst []byte, kind byte, size int) []byte {
	return binary.BigEndian.AppendUint16(append(dst, kind), uint16(size))
}

// length returns how many octets the hello that b begins has, header included, or HeaderLen while that is not known yet.
// Errors: ErrNone, ErrMalformed.
func length(b []byte) (int, error) {
	magic := binary.BigEndian.AppendUint32(nil, Magic)
	if n := min(len(b), len(magic)); !bytes.Equal(b[:n], magic[:n]) {
		return 0, ErrNone
	}
	if len(b) < HeaderLen {
		return HeaderLen, nil
	}
	size := HeaderLen + int(binary.BigEndian.Uint16(b[len(magic):]))
	if size > MaxLen {
		return 0, fmt.Errorf("%w: %d octets, at most %d", ErrMalformed, size, MaxLen)
	}
	return size, nil
}

// Parse reads the hello at the beginning of b and returns its length. Errors: ErrNone, ErrIncomplete, ErrMalformed.
func Parse(b []byte) (h Hello, n int, err error) {
	n, err = length(b)
	if err != nil {
		return Hello{}, 0, err
	}
	if len(b) < n || len(b) < HeaderLen {
		return Hello{}, 0, ErrIncomplete
	}
	seen := make(map[byte]bool)
	for rest := b[HeaderLen:n]; len(rest) > 0; {
		if len(rest) < itemHeaderLen {
			return Hello{}, 0, fmt.Errorf("%w: %d octets after the last item", ErrMalformed, len(rest))
		}
		kind, size := rest[0], int(binary.BigEndian.Uint16(rest[1:]))
		rest = rest[itemHeaderLen:]
		if size > len(rest) {
			return Hello{}, 0, fmt.Errorf("%w: item %d has %d octets, and %d are left", ErrMalformed, kind, size, len(rest))
		}
		if err := h.take(kind, rest[:size], seen); err != nil {
			return Hello{}, 0, err
		}
		rest = rest[size:]
	}
	return h, n, nil
}

// take reads one item.
func (h *Hello) take(kind byte, value []byte, seen map[byte]bool) error {
	want := map[byte]int{itemCapabilities: capabilitiesLen, itemIdentity: identityLen}
	size, known := want[kind]
	switch {
	case !known:
		return nil
	case seen[kind]:
		return fmt.Errorf("%w: item %d is there twice", ErrMalformed, kind)
	case len(value) != size:
		return fmt.Errorf("%w: item %d has %d octets, expected %d", ErrMalformed, kind, len(value), size)
	}
	seen[kind] = true
	switch kind {
	case itemCapabilities:
		h.Capabilities = Capabilities(binary.BigEndian.Uint32(value))
	case itemIdentity:
		h.Identity = new(Identity)
		copy(h.Identity.Signature[:], value[copy(h.Identity.Key[:], value):])
	}
	return nil
}
