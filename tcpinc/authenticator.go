package tcpinc

import (
	"errors"
	"fmt"
	"net/netip"

	"innertun/tcpinc/hello"
	"innertun/tcpinc/identity"
)

// Authenticator judges who the other end of a connection is. identity.Pinned and identity.FirstUse are such.
type Authenticator interface {
	// Authenticate is called once a peer has proven that it owns key, before any data of the application goes either way.
	// The name is how the peer is to be called, "": by its key. An error refuses the connection. It may be called from several
	// goroutines, and blocks the connection, no other. A verdict that comes after the time for the handshake is too late: see
	// Dialer.Dial and Config.HandshakeTimeout.
	Authenticate(remote netip.AddrPort, key identity.PublicKey) (name string, err error)
}

// Recognizer is what an Authenticator may be too. Early data leaves before the peer can be judged: it is for a peer that had
// proven, when the keys of the session were exchanged, to be one that the Authenticator recognizes. Without this
// method there is no early data to peers that are to be authenticated.
type Recognizer interface {
	// Recognizes reports whether Authenticate would take the key, as one that was known before. It changes nothing.
	Recognizes(remote netip.AddrPort, key identity.PublicKey) bool
}

// trusts reports whether data may go out to the peer of a session before it is judged.
func (cfg Config) trusts(note any) bool {
	if cfg.auth == nil {
		return true
	}
	n, _ := note.(*sessionNote)
	said, _ := n.read()
	r, ok := cfg.auth.(Recognizer)
	return ok && said != nil && said.identity != nil && r.Recognizes(cfg.remote, said.identity.Key)
}

// PeerIdentity is what a peer has proven to be.
type PeerIdentity struct {
	Key  identity.PublicKey
	Name string // from the Authenticator, "" if there was none or it knows none
}

// String is the name, else the key.
func (p PeerIdentity) String() string { return orDefault(p.Name, p.Key.String()) }

var (
	// ErrPeerIdentity says that a connection was refused because of who the peer is, or because it did not prove that. It
	// comes as an *IdentityError.
	ErrPeerIdentity = errors.New("the peer is not proven to be the one that is meant")

	// ErrNoIdentity says that a peer from which an identity is required has not proven any.
	ErrNoIdentity = errors.New("it proved no identity: it has none ([identity] in its configuration), or somebody in the middle keeps it back")

	// ErrHello says that the hellos could not be exchanged, or that the peer's is wrong. Keys were exchanged before, so
	// it is no sign that ENO was stripped.
	ErrHello = errors.New("tcpinc: exchange of hellos failed")
)

// IdentityError is a connection that was aborted because of who the peer is: errors.Is with ErrPeerIdentity holds. Err is
// ErrNoIdentity, hello.ErrProof, or what the Authenticator said, as *identity.ChangedError or *identity.UnknownKeyError.
type IdentityError struct {
	Remote netip.AddrPort
	Key    *identity.PublicKey // what the peer proved, or with hello.ErrProof claimed, to be; nil: nothing
	Err    error
}

func (e *IdentityError) Error() string {
	return fmt.Sprintf("%v: %v: %v", e.Remote, ErrPeerIdentity, e.Err)
}

func (e *IdentityError) Is(target error) bool { return target == ErrPeerIdentity }
func (e *IdentityError) Unwrap() error        { return e.Err }

// appAware reports whether a = 1 is sent: the hello is for those who both do. RFC 8547, Section 4.2.
func (cfg Config) appAware() bool { return cfg.AppAware || cfg.MandatoryAppAware || cfg.greets() }

// greets reports whether this host has something to say in a hello, or to learn from the peer's. One that sends a = 1 for
// reasons of its application only sends none: the stream is the application's then.
func (cfg Config) greets() bool {
	return cfg.Identity != nil || cfg.capabilities() != 0 || cfg.auth != nil
}

// capabilities are those that this host announces.
func (cfg Config) capabilities() hello.Capabilities {
	if cfg.RST == AuthenticateResets {
		return hello.AuthenticatedResets
	}
	return 0
}

// checkIdentity returns an error for an identity that cannot be used.
func (cfg Config) checkIdentity() error {
	if cfg.Identity == nil {
		return nil
	}
	if _, err := identity.PublicOf(cfg.Identity); err != nil {
		return fmt.Errorf("tcpinc: Config.Identity: %w", err)
	}
	return nil
}
