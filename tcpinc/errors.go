package tcpinc

import (
	"errors"
	"fmt"
	"net/netip"

	"innertun/tcpinc/eno"
)

var (
	// ErrEncryptionRequired says that policy wants encryption and there is none. It comes as a *RequiredError.
	ErrEncryptionRequired = errors.New("encryption is required, but not to be had")

	// ErrNoMemory says that Ratchet has no PathMemory to know successes by.
	ErrNoMemory = errors.New("tcpinc: policy ratchet needs Dialer.Paths, to remember which destinations had encryption")

	// ErrNoDestination says that a Listener cannot ratchet: a client is known by its address only, which other hosts may
	// share with it.
	ErrNoDestination = errors.New("tcpinc: policy ratchet is for destinations: accept connections under opportunistic or require")

	// ErrNoSession says that there is no session ID because the connection is plain. RFC 8547, Section 5.1.
	ErrNoSession = errors.New("tcpinc: no session ID: the connection is not encrypted")

	// ErrInitInPlain says that the stream of a connection whose ENO was stripped begins with Init1, or with a frame of the
	// session that was to be resumed: the peer believes that it is encrypted, so it was aborted and nothing of it delivered.
	ErrInitInPlain = errors.New("tcpinc: peer encrypts, but its ENO option did not arrive")

	// ErrNoAnswer says that after a successful negotiation the peer's key exchange message did not come in time.
	ErrNoAnswer = errors.New("tcpinc: no key exchange message from the peer in time")

	// ErrNotConfirmed says that a connection was open before its ENO negotiation had ended, because the stack did not hand
	// over the peer's first ACK: whether the peer encrypts is not known, so it was aborted.
	ErrNotConfirmed = errors.New("tcpinc: the connection opened before its ENO negotiation ended")

	// ErrNoRandomness says that there is no source of randomness, so that ENO must not be offered. RFC 8547, Section 10.
	ErrNoRandomness = errors.New("tcpinc: no randomness for keys")

	// ErrCrowded says that a handshake was given up as the oldest of too many at once.
	ErrCrowded = errors.New("tcpinc: too many handshakes at once")
)

// RequiredError is a connection that policy forbids because it would be plain. errors.Is with ErrEncryptionRequired
// holds.
type RequiredError struct {
	Remote netip.AddrPort
	Reason eno.Reason
	Err    error // more about the reason, if known
	// Downgraded says that the destination had encryption before.
	Downgraded bool
}

func (e *RequiredError) Error() string {
	text := fmt.Sprintf("%v: %v (%v)", e.Remote, ErrEncryptionRequired, e.Reason)
	if e.Downgraded {
		text += ", though the destination had it before"
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *RequiredError) Is(target error) bool { return target == ErrEncryptionRequired }
func (e *RequiredError) Unwrap() error        { return e.Err }
