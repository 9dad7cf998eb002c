package tcpcrypt

import "innertun/tcpinc/eno"

// Phase is where a Conn is in its life.
//
//	            Handshake        keys ready
//	PhaseNew ---------------> PhaseHandshake ---------------> PhaseOpen
//	                                                          |       |
//	                                       FINp sent          |       |          FINp received
//	                             PhaseWriteClosed <-----------+       +-----------> PhaseReadClosed
//	                                       |     FINp received         FINp sent      |
//	                                       +------------> PhaseDone <-----------------+
//
//	any -- Close --> PhaseClosed          any -- Abort, or an error that ends the connection --> PhaseFailed
type Phase uint8

const (
	PhaseNew         Phase = iota // nothing sent or received
	PhaseHandshake                // Init1 and Init2 under way
	PhaseOpen                     // frames both ways
	PhaseWriteClosed              // this host has sent its last frame
	PhaseReadClosed               // the peer has sent its last frame
	PhaseDone                     // both ends of stream exchanged
	PhaseClosed                   // Close was called
	PhaseFailed                   // aborted
)

func (p Phase) String() string {
	names := [...]string{"new", "handshake", "open", "write-closed", "read-closed", "done", "closed", "failed"}
	if int(p) < len(names) {
		return names[p]
	}
	return "unknown"
}

// State describes a Conn.
type State struct {
	Phase     Phase
	Role      eno.Role
	TEP       eno.TEP
	Cipher    Cipher // 0 until the handshake is complete
	SessionID []byte // nil until the handshake is complete; the caller's own copy
	Resumed   bool   // keys come from a cached secret
	// SessionRole is this host's role in the key exchange that the keys come from: that host A seals with k_ab. It differs
	// from Role where the former host B opens the resumed connection.
	SessionRole eno.Role
	Sent        Count
	Received    Count
	Err         error // what ended the connection, in PhaseFailed
}

// Count is what one direction has carried.
type Count struct {
	Generation uint32 // of the keys in use: how many rekeys there were
	Octets     uint64 // on the wire, Init messages and frame headers included
	Frames     uint64
	Data       uint64 // application octets
}
