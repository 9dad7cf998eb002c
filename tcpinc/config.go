package tcpinc

import (
	"crypto"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt"
)

// Config is what Dialer and Listener share. Its zero value is ready to use.
type Config struct {
	TEPs    []eno.TEP         // preferred first; nil: all that are built
	Ciphers []tcpcrypt.Cipher // preferred first; nil: all that are built

	// AppAware sends a = 1, MandatoryAppAware falls back to plain TCP unless the peer does too, which requires that
	// applications know of ENO. RFC 8547, Section 4.2.
	AppAware, MandatoryAppAware bool
	// Identity is this host's Ed25519 key, an ed25519.PrivateKey for instance. It is proven to peers that have one or ask
	// for one, inside the encrypted stream; a = 1 is sent then. nil: none.
	Identity crypto.Signer
	// B makes an active opener play role B (b = 1), for a simultaneous open with a peer that does not. RFC 8547,
	// Section 4.3.
	B bool

	// Vacuous sends an ENO option that names no TEP: "supported but unavailable by configuration". All connections are
	// plain. RFC 8547, Section 4.6.
	Vacuous bool

	// HandshakeTimeout bounds the key exchange of a connection whose ENO negotiation succeeded; 0: 30 s. A Dialer that
	// hears nothing from the peer waits less: see Dialer.Dial.
	HandshakeTimeout time.Duration

	// KeyLimits say when the keys of an encrypted connection are replaced, Liveness when a silent peer is asked and given
	// up: then the connection ends in tcpcrypt.ErrPeerSilent. Zero: the defaults.
	KeyLimits tcpcrypt.KeyLimits
	Liveness  tcpcrypt.Liveness

	// Sessions keeps secrets from which later connections are resumed, a round trip faster than fresh ones; nil: none are
	// kept, offered or accepted. RFC 8548, Section 3.5.
	Sessions *tcpcrypt.SessionCache
	// NoResume makes fresh key exchange necessary: no session is offered or accepted. NoCache has no secrets cached that
	// result from the connections, nor kept of those they are resumed from. RFC 8548, Section 3.5.
	NoResume, NoCache bool
	// Resumable, if not nil, is asked with a session's note whether it may be resumed: see Conn.SetSessionNote. It must
	// return at once.
	Resumable func(note any) bool
	// ResumeNonce is the length in octets of resumption nonces, up to 8; 0: 8; negative: no nonce. Shorter ones are safe
	// only where a secret can never be used twice, by a copy of a virtual machine for instance. RFC 8548, Section 3.5.
	ResumeNonce int

	// RST says what a RST means to an encrypted connection.
	RST ResetMode

	// InnerSpace says when options travel inside the data, and the key exchange with the SYNs.
	InnerSpace InnerSpaceMode
	// Own are options of a user's own in the data of upgraded SYNs and SYN-ACKs, for experiments. RFC 6994.
	Own OwnOptions

	// Cookies lets a Listener with Inner Space be open to upgraded SYNs when there are too many to be kept, by Handshake.Fleeting;
	// nil: they are answered as ordinary ones then.
	Cookies *Cookies

	// EarlyData accepts data in the SYN of a passive opening that resumes a session and comes from the address that the session
	// is with, which Handshake.SetPeer tells. Whoever copies that SYN, and has his copy
	// arrive first, makes the data be delivered to the application twice: it is for what may be done twice.
	EarlyData bool

	Rand io.Reader // nil: crypto/rand
	// KeyPool makes key pairs in advance, if Rand is nil; nil: none are.
	KeyPool *tcpcrypt.KeyPool
	Clock   Clock // nil: the real one; deadlines of the Transports are set by it
	Logger  *slog.Logger
	KeyLog  func(KeyLogEntry) // secrets: for debugging only

	// Of the connection at hand:
	auth   Authenticator
	remote netip.AddrPort // as it was dialled
}

// KeyLogEntry is the traffic keys of one generation with the two ends of the connection.
type KeyLogEntry struct {
	tcpcrypt.KeyLogEntry
	HostA, HostB net.Addr
}

const defaultHandshakeTimeout = 30 * time.Second

// filled puts the defaults in.
func (cfg Config) filled() Config {
	if cfg.TEPs == nil {
		cfg.TEPs = tcpcrypt.TEPs()
	}
	if cfg.Ciphers == nil {
		cfg.Ciphers = tcpcrypt.Ciphers()
	}
	if cfg.HandshakeTimeout == 0 {
		cfg.HandshakeTimeout = defaultHandshakeTimeout
	}
	if cfg.Clock == nil {
		cfg.Clock = tcpcrypt.RealClock{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return cfg
}

// tepNames are the configuration's names of the TEPs of tcpcrypt. RFC 8548, Section 7, Table 4.
var tepNames = []struct {
	tep  eno.TEP
	name string
}{
	{tcpcrypt.Curve25519, "curve25519"},
	{tcpcrypt.Curve448, "curve448"},
	{tcpcrypt.P256, "p256"},
	{tcpcrypt.P521, "p521"},
}

// TEPName returns the configuration's name of a TEP, "" for none.
func TEPName(tep eno.TEP) string {
	for _, t := range tepNames {
		if t.tep == tep {
			return t.name
		}
	}
	if tep == 0 {
		return ""
	}
	return tep.String()
}

// ParseTEP returns the TEP of that name.
func ParseTEP(name string) (eno.TEP, error) {
	for _, t := range tepNames {
		if t.name == name {
			return t.tep, nil
		}
	}
	return 0, fmt.Errorf("unknown tep %q (known: curve25519, curve448, p256, p521)", name)
}

// NewActive returns the Handshake of a connection to be opened. Errors: those of eno.New, ErrNoRandomness, ErrConfig of
// tcpcrypt, identity.ErrNotEd25519.
func (cfg Config) NewActive() (*Handshake, error) {
	cfg.NoResume = true // with whom is not known
	return cfg.newHandshake(eno.Config{RoleB: cfg.B}, netip.AddrPort{})
}

// NewPassive returns the Handshake of a connection to be accepted. Errors: those of NewActive.
func (cfg Config) NewPassive() (*Handshake, error) {
	return cfg.newHandshake(eno.Config{Passive: true}, netip.AddrPort{})
}

func (cfg Config) newHandshake(e eno.Config, to netip.AddrPort) (*Handshake, error) {
	return cfg.handshake(e, to, false)
}

// handshake makes a Handshake for a connection to an address, with an upgraded SYN if upgraded.
func (cfg Config) handshake(e eno.Config, to netip.AddrPort, upgraded bool) (*Handshake, error) {
	cfg = cfg.filled()
	if cfg.ResumeNonce > tcpcrypt.MaxResumeNonceLen {
		return nil, fmt.Errorf("tcpinc: ResumeNonce %d, at most %d", cfg.ResumeNonce, tcpcrypt.MaxResumeNonceLen)
	}
	if err := cfg.checkIdentity(); err != nil {
		return nil, err
	}
	e.AppAware, e.MandatoryAppAware = cfg.appAware(), cfg.MandatoryAppAware
	if e.Vacuous = cfg.Vacuous; e.Vacuous {
		cfg.TEPs, cfg.NoResume = nil, true
	}
	resume := &resumption{cfg: cfg, active: !e.Passive}
	for _, tep := range cfg.TEPs {
		o := freshOffer(tep, e.Passive || e.RoleB)
		if e.Passive {
			o = resume.answer(o)
		}
		e.Offers = append(e.Offers, o)
	}
	if cfg.Rand == nil {
		// Before any ENO option: this waits until the system's generator is seeded. RFC 8547, Section 10.
		if _, err := io.ReadFull(rand.Reader, make([]byte, 1)); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoRandomness, err)
		}
	}
	if !e.Passive {
		var err error
		if e.Offers, err = resume.offer(to, e.Offers, e.RoleB); err != nil {
			return nil, err
		}
	}
	if mark := innerspace.Mark(); cfg.InnerSpace != InnerSpaceOff && !upgraded && !e.Vacuous && resume.ticket == nil {
		e.Mark = &mark
	}
	h := &Handshake{cfg: cfg, resume: resume, passive: e.Passive}
	var err error
	if h.negotiation, err = eno.New(e); err == nil {
		err = cfg.checkLists()
	}
	if err == nil && upgraded {
		err = cfg.newUpgraded(h)
	}
	if err != nil {
		resume.release()
		return nil, err
	}
	return h, nil
}

// freshOffer offers a TEP of tcpcrypt by fresh key exchange only. RFC 8548, Sections 3.2 and 3.5.
func freshOffer(tep eno.TEP, roleB bool) eno.Offer {
	return eno.Offer{TEP: tep, Valid: func(peer eno.Suboption) bool { return freshValid(peer, roleB) }}
}

// freshValid judges the suboption of a peer with which no session is to be resumed.
func freshValid(peer eno.Suboption, roleB bool) bool {
	if roleB {
		// Host A's offer to resume is one of fresh key exchange as well, also when it is too short to name a session.
		return len(peer.Data) <= tcpcrypt.ResumeHalfLen+tcpcrypt.MaxResumeNonceLen
	}
	return !peer.V // host B resumes a session that was not offered
}
