package stack

import "innertun/stack/shim"

// The seam to the protocols above. The types are those of package shim, which does the work; see there.
type (
	// Flow names one TCP connection by its two ends, seen from this host. A zero Local address or port is chosen
	// by Dial.
	Flow = shim.Flow
	// Segment is the kind of a segment in the opening of a connection.
	Segment = shim.Segment
	// Handshake takes part in the opening of one TCP connection.
	Handshake = shim.Handshake
	// Decliner may be implemented by a Handshake too, to hear that the peer has not taken the payload of the SYN.
	Decliner = shim.Decliner
	// Gate may be implemented by a Handshake too, to put off the third segment.
	Gate = shim.Gate
	// Opener may be implemented by a Handshake too, to be open before the third segment has come.
	Opener = shim.Opener
	// Fleeting may be implemented by a Handshake too, to answer a SYN without being kept.
	Fleeting = shim.Fleeting
	// Guard may be implemented by a Handshake too, to judge segments that could kill the connection (RST).
	Guard = shim.Guard
	// Signer may be implemented by a Guard too, to mark outgoing RSTs.
	Signer = shim.Signer
	// Header is what a Guard may see of an incoming segment.
	Header = shim.Header
	// Verdict is a Guard's judgement of one incoming segment.
	Verdict = shim.Verdict
)

const (
	SYN    = shim.SYN    // a SYN-only segment
	SYNACK = shim.SYNACK // a segment with both SYN and ACK
	NonSYN = shim.NonSYN // every segment without SYN

	Deliver = shim.Deliver // pass the segment on
	Hold    = shim.Hold    // keep it back until the Guard asks for it or the connection ends
	Drop    = shim.Drop    // forget it
)
