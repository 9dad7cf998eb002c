// Package shim lets a Handshake take part in the opening of TCP connections. It sits between a netstack and its link,
// adds options and payload to the segments of a handshake on their way out, and shows the Handshake what comes in. All
// other segments pass untouched.
package shim

import "net/netip"

// Flow names one TCP connection by its two ends, seen from this host. A zero Local address or port is chosen by Dial.
type Flow struct{ Local, Remote netip.AddrPort }

// Segment is the kind of a segment in the opening of a connection.
type Segment uint8

const (
	// SYN is a SYN-only segment.
	SYN Segment = iota + 1
	// SYNACK is a segment with both SYN and ACK.
	SYNACK
	// NonSYN is every segment without SYN: the third of a handshake, and all later ones.
	NonSYN
)

func (k Segment) String() string {
	switch k {
	case SYN:
		return "SYN"
	case SYNACK:
		return "SYN-ACK"
	case NonSYN:
		return "non-SYN"
	}
	return "unknown segment"
}

// Handshake takes part in the opening of one TCP connection. Calls for one connection are serialized,
// never block, and never retain the slices.
type Handshake interface {
	// AppendOptions appends TCP options for an outgoing segment of kind k, at most room octets.
	// A retransmission asks again and must get the same octets, or none from then on.
	AppendOptions(dst []byte, k Segment, room int) []byte
	// AppendPayload appends data for the SYN or SYN-ACK itself (none: return dst). Same octets on retransmission.
	AppendPayload(dst []byte, k Segment, room int) []byte
	// Receive hands over the peer's options and SYN payload. It returns whether the payload was taken.
	// An error aborts the connection with RST; Dial returns it, wrapped.
	Receive(k Segment, options, payload []byte) (taken bool, err error)
}

// Header is what a Guard may see of an incoming segment. Options is valid during the call only.
type Header struct {
	Flow       Flow
	Seq, Ack   uint32
	Flags      uint8 // RFC 9293, Section 3.1: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32
	Window     uint16
	Options    []byte
	PayloadLen int
}

// Verdict is a Guard's judgement of one incoming segment.
type Verdict uint8

const (
	// Deliver passes the segment on.
	Deliver Verdict = iota
	// Hold keeps the segment back until the Guard asks for it or the connection ends.
	Hold
	// Drop forgets the segment.
	Drop
)

// Guard may be implemented by a Handshake too, to judge later segments that could kill the connection (RST).
type Guard interface{ Incoming(seg Header) Verdict }
