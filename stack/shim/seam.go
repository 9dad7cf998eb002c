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
	Offset     uint32 // Seq less the sender's initial sequence number, its SYN's; 0: that is not known
	Flags      uint8  // RFC 9293, Section 3.1: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32
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

// Decliner may be implemented by a Handshake too, to hear that the peer's SYN-ACK has not taken the payload of the SYN. An
// error ends the opening: the peer gets a RST, and Dial returns the error, wrapped. Else an ordinary SYN follows, on the
// same ports.
type Decliner interface{ Declined() error }

// Gate may be implemented by a Handshake too, to put off the third segment of a connection of the own side's. Gate is
// asked each time Receive has agreed to the SYN-ACK; until the channel is closed the netstack does not learn of that. nil:
// it learns at once. If the opening is given up meanwhile, the peer gets a RST.
type Gate interface{ Gate() <-chan struct{} }

// Opener may be implemented by a Handshake too, that of a passive opener whose peer has shown by its SYN alone who it is.
// EarlyOpen is asked when the SYN-ACK has left. If it says so, the connection is open at once: data may follow the
// SYN-ACK. The third segment is shown to Receive all the same, and an error then aborts the connection; if none comes in
// time it is aborted too.
type Opener interface{ EarlyOpen() bool }

// Fleeting may be implemented by a Handshake too, that of a passive opener. When there are too many half-open connections
// to keep one more, or one more whose SYN had payload, Fleeting is called first of all for a SYN with payload, and told its
// sequence number; if it agrees, the Handshake is shown that SYN,
// asked once for the SYN-ACK, and forgotten: what it needs later must come back from the peer, in the stream. The accepted
// connection has no Handshake, and is never opened early: an Opener must not count on it. Who accepts it may give it one
// that judges its RSTs: Shim.Guard.
type Fleeting interface{ Fleeting(seq uint32) bool }

// Guard may be implemented by a Handshake too, to judge later segments that could kill the connection (RST).
type Guard interface{ Incoming(seg Header) Verdict }

// Signer may be implemented by a Guard too, to mark the RSTs that leave while the connection is not closed.
type Signer interface {
	// AppendResetOptions appends TCP options for an outgoing RST, at most room octets. It must not block.
	AppendResetOptions(dst []byte, seg Header, room int) []byte
}
