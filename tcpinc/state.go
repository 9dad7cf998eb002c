package tcpinc

import (
	"time"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/hello"
	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt"
)

// ConnectionState describes a connection, plain ones too.
type ConnectionState struct {
	Encrypted      bool
	FallbackReason eno.Reason // why it is plain
	// Downgraded says that the destination had more before: encryption, or Inner Space.
	Downgraded bool
	// InnerSpace says that the stream consists of Inner Space units, so that options can be sent and received.
	InnerSpace bool
	// Options counts those that were sent and received in it.
	Options innerspace.Stats
	// PeerMTU is the largest IP packet, in octets, that the peer's link takes, as it says; 0: it has not said so yet. It is a
	// hint: nothing here makes use of it.
	PeerMTU int
	// EarlyData says that data in the SYN was accepted.
	EarlyData bool

	// Of an encrypted connection only:
	Role       eno.Role
	TEP        eno.TEP
	Cipher     tcpcrypt.Cipher
	SessionID  []byte
	Transcript []byte // RFC 8547, Section 4.8
	Resumed    bool
	// SessionRole is this host's role in the key exchange that the keys come from: Role, unless the session is resumed.
	// Host A's end seals with k_ab.
	SessionRole eno.Role
	Sent        tcpcrypt.Count
	Received    tcpcrypt.Count
	// ResetsRefused counts RSTs that somebody else than the peer must have sent, as it was alive.
	ResetsRefused uint64

	// Whether the peer's SYN segment had a = 1. RFC 8547, Section 4.2.
	PeerAppAware bool
	// PeerIdentity is what the peer has proven to be, PeerCapabilities what it announced. Where no Authenticator asked,
	// that is known from the first Read on. nil: nothing proven.
	PeerIdentity     *PeerIdentity
	PeerCapabilities hello.Capabilities
	// SYNsSent counts the SYN-only segments of the attempt that succeeded, if it carried a Handshake.
	SYNsSent int
	// HandshakeTime is from the call of Dial, or from the third segment, until data could flow.
	HandshakeTime time.Duration
}
