package socks

import (
	"errors"
	"fmt"
)

// Version is the first octet of every SOCKS5 message (RFC 1928, Section 3).
const Version = 5

// Method is a way to authenticate (RFC 1928, Section 3).
type Method byte

const (
	NoAuth       Method = 0x00
	UserPassword Method = 0x02
	NoAcceptable Method = 0xff
)

// Command is what a client asks for (RFC 1928, Section 4).
type Command byte

const (
	Connect      Command = 0x01
	Bind         Command = 0x02
	UDPAssociate Command = 0x03
)

func (c Command) String() string {
	switch c {
	case Connect:
		return "CONNECT"
	case Bind:
		return "BIND"
	case UDPAssociate:
		return "UDP ASSOCIATE"
	}
	return fmt.Sprintf("command %#02x", byte(c))
}

// ErrMalformed is the class of every message that breaks the protocol. It is never returned alone.
var ErrMalformed = errors.New("malformed SOCKS message")

// TruncatedError says that a message is not complete yet. Missing is a lower bound, in octets: whoever reads that many
// more never reads beyond the message.
type TruncatedError struct{ Missing int }

func (e *TruncatedError) Error() string {
	return fmt.Sprintf("SOCKS message lacks at least %d octets", e.Missing)
}

// Is makes a truncated message a malformed one too, for a caller that has all the octets there are.
func (e *TruncatedError) Is(target error) bool { return target == ErrMalformed }

// VersionError says that a message does not start with the version it should.
type VersionError struct{ Got, Want byte }

func (e *VersionError) Error() string { return fmt.Sprintf("version %d, want %d", e.Got, e.Want) }

// Is makes the error one of ErrMalformed.
func (e *VersionError) Is(target error) bool { return target == ErrMalformed }

// AddressTypeError says that an address is of a type that RFC 1928, Section 5, does not know.
type AddressTypeError struct{ Type byte }

func (e *AddressTypeError) Error() string { return fmt.Sprintf("unknown address type %#02x", e.Type) }

// Is makes the error one of ErrMalformed.
func (e *AddressTypeError) Is(target error) bool { return target == ErrMalformed }

// need returns a *TruncatedError unless b has n octets.
func need(b []byte, n int) error {
	if len(b) < n {
		return &TruncatedError{Missing: n - len(b)}
	}
	return nil
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}
