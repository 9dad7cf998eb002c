// Package eno implements TCP-ENO, the TCP Encryption Negotiation Option
// (RFC 8547): the codec of the option and the negotiation of one connection.
//
// It is pure: no I/O, no clock, no goroutine, no randomness. Whoever drives the
// TCP handshake asks for the octets of an outgoing segment and hands over the
// options of an incoming one.
package eno

import "fmt"

// Kind is the TCP option kind of ENO. RFC 8547, Section 11.
const Kind = 69

// Segment is the kind of a TCP segment as ENO tells them apart. RFC 8547,
// Section 3. The values are those of the seam to the TCP stack.
type Segment uint8

const (
	SYN    Segment = iota + 1 // SYN set, ACK clear
	SYNACK                    // SYN and ACK set
	NonSYN                    // SYN clear: the third segment and all later ones
)

func (s Segment) String() string {
	switch s {
	case SYN:
		return "SYN"
	case SYNACK:
		return "SYN-ACK"
	case NonSYN:
		return "non-SYN"
	}
	return fmt.Sprintf("segment(%d)", uint8(s))
}

// Role is the part a host plays, whoever opened the connection. RFC 8547,
// Section 4.3.
type Role uint8

const (
	RoleA Role = iota + 1 // sent b = 0; by default the active opener
	RoleB                 // sent b = 1; always so for a passive opener
)

func (r Role) String() string {
	switch r {
	case RoleA:
		return "A"
	case RoleB:
		return "B"
	}
	return fmt.Sprintf("role(%d)", uint8(r))
}

// TEP identifies a TCP encryption protocol, without the "v" bit: 0x20 to 0x7f.
// RFC 8547, Sections 4.1 and 11.
type TEP uint8

const (
	Experimental TEP = 0x20 // never negotiated here; RFC 8547, Section 11

	minTEP      TEP = 0x20
	minReserved TEP = 0x70 // reserved for extended values
	maxTEP      TEP = 0x7f
)

// Negotiable reports whether the identifier may govern a connection: it is in
// range, not the experimental one and not reserved for extended values.
func (t TEP) Negotiable() bool { return t > Experimental && t < minReserved }

func (t TEP) String() string { return fmt.Sprintf("0x%02x", uint8(t)) }

// Suboption is an offer to use one TEP. RFC 8547, Section 4.1.
type Suboption struct {
	TEP  TEP
	V    bool   // the "v" bit: suboption data follows, possibly none when last
	Data []byte // at most 32 octets unless last
}

// Byte returns the initial suboption byte: the TEP identifier with its "v" bit.
func (s Suboption) Byte() byte {
	if s.V {
		return byte(s.TEP) | bitV
	}
	return byte(s.TEP)
}

// Option is the contents of a SYN-form ENO option. RFC 8547, Section 4.1.
type Option struct {
	Global         Global      // the first global suboption; zero when there was none
	ExplicitGlobal bool        // whether the global suboption was, or is to be, present as an octet
	Suboptions     []Suboption // in wire order: least preferred first
}

// Vacuous reports whether the option names no TEP. RFC 8547, Section 4.6.
func (o Option) Vacuous() bool { return len(o.Suboptions) == 0 }

// Global is the global suboption. RFC 8547, Section 4.2.
type Global uint8

const (
	PassiveRole Global = 1 << 0 // "b"
	AppAware    Global = 1 << 1 // "a"
)

const bitV = 0x80
