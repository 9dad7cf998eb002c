package tcpcrypt

import (
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/netip"

	"innertun/tcpinc/eno"
)

// Transport is the byte stream below: one TCP connection on which TCP-ENO has negotiated tcpcrypt, and on which no
// octet of data has been sent or received yet.
//
// It may have a method WaitRead() error as well, which blocks until a Read would not, under the read deadline: a Conn
// then holds no buffer while it is idle. With a method SetKeepAlive(bool) error its keep-alive gives way to a verified one:
// see Liveness.
type Transport interface {
	net.Conn
	CloseWrite() error // sends FIN
	Abort() error      // sends RST; unblocks every call
}

// waiter is the optional part of a Transport, and of a reader given to ReadFrom.
type waiter interface{ WaitRead() error }

// Config says how to encrypt one connection.
type Config struct {
	Role       eno.Role // as TCP-ENO assigned it
	TEP        eno.TEP  // as negotiated, one of TEPs()
	TEPByte    byte     // as host B sent it, "v" bit included; it begins the session ID. 0: the TEP with v = 0
	Transcript []byte   // eno_transcript. RFC 8547, Section 4.8
	Ciphers    []Cipher // preferred first; nil: all. Host A offers them, host B takes its own first match

	// Ticket, if not nil, makes this a resumed session: TCP-ENO has agreed on it, each host having sent its half of the
	// resumption identifier. There are no Init messages then, and the cipher is the ticket's. It is used up by Handshake.
	// RFC 8548, Section 3.5.
	Ticket *Ticket
	// SessionNonce is sn[i] of a resumed session: see Ticket.SessionNonce.
	SessionNonce []byte
	// Prepared, if not nil, is a key exchange that has taken place outside the stream: there are no Init messages in it. It
	// is used up by Handshake.
	Prepared *Prepared
	// Traits is what else the hosts have agreed on in a fresh key exchange, by whatever means: a resumed session inherits it.
	Traits uint8
	// Sessions, if not nil, keeps what a fresh key exchange leaves for later sessions, under Peer: the remote address, with
	// port 0 if this host is the passive opener.
	Sessions *SessionCache
	Peer     netip.AddrPort

	// SentBefore and ReceivedBefore are octets of the TCP streams that are not this connection's, before its first: the
	// offsets of frames count them. RFC 8548, Section 3.6.
	SentBefore, ReceivedBefore uint64

	// MaxFrame is the longest frame sent, in octets with its header, MinFrameLen to MaxFrameLen. 0: DefaultMaxFrame.
	MaxFrame int

	KeyLimits KeyLimits // when keys are replaced; zero: the defaults
	Liveness  Liveness  // when a silent peer is given up; zero: the defaults
	Clock     Clock     // nil: RealClock

	// Rand gives N_A or N_B (32 octets) and then the private key (32 octets, Curve448 56, P-521 66; more if out of range). nil: crypto/rand.
	Rand io.Reader
	// KeyPool may have key pairs ready; nil: each is made when it is needed. Without effect if Rand is set.
	KeyPool *KeyPool

	// KeyLog, if not nil, is called once for each key generation, from whatever goroutine reaches it first. The entry's
	// slices are its own to keep. It must not block or use the Conn.
	KeyLog func(KeyLogEntry)
}

// DefaultMaxFrame is the default length of a bulk frame in octets: 44 full segments of 1,448, so that a frame fits one
// super-segment of a stack with segmentation offload and leaves no runt behind.
const DefaultMaxFrame = 44 * 1448

// KeyLogEntry is the traffic keys of one generation, for decrypting a capture.
type KeyLogEntry struct {
	SessionID  []byte
	Early      bool // keys of early data, of which there is no generation but 0
	First      bool // keys of host B's first message (Prepared.SealFirst), likewise
	Generation uint32
	KAB, KBA   []byte // whole traffic keys: key, then nonce randomizer
	Cipher     Cipher
}

// filled checks the configuration and puts the defaults in.
func (cfg Config) filled() (Config, error) {
	if cfg.Role != eno.RoleA && cfg.Role != eno.RoleB {
		return cfg, fmt.Errorf("%w: role %v", ErrConfig, cfg.Role)
	}
	if _, err := agreementOf(cfg.TEP); err != nil {
		return cfg, err
	}
	if cfg.Ticket != nil && cfg.Ticket.TEP() != cfg.TEP {
		return cfg, fmt.Errorf("%w: TEP %v with a ticket for %v", ErrConfig, cfg.TEP, cfg.Ticket.TEP())
	}
	if cfg.TEPByte == 0 {
		cfg.TEPByte = byte(cfg.TEP)
	}
	if cfg.Ciphers == nil {
		cfg.Ciphers = Ciphers()
	}
	if len(cfg.Ciphers) < 1 || len(cfg.Ciphers) > 255 {
		return cfg, fmt.Errorf("%w: %d ciphers, 1 to 255", ErrConfig, len(cfg.Ciphers))
	}
	for _, c := range cfg.Ciphers {
		if c.KeyLen() == 0 {
			return cfg, fmt.Errorf("%w: unknown %v", ErrConfig, c)
		}
	}
	if cfg.MaxFrame == 0 {
		cfg.MaxFrame = DefaultMaxFrame
	}
	if cfg.MaxFrame <= MinFrameLen || cfg.MaxFrame > MaxFrameLen {
		return cfg, fmt.Errorf("%w: MaxFrame %d, above %d and at most %d", ErrConfig, cfg.MaxFrame, MinFrameLen, MaxFrameLen)
	}
	if cfg.Rand == nil {
		cfg.Rand = Pooled(rand.Reader, cfg.KeyPool)
	}
	if cfg.Clock == nil {
		cfg.Clock = RealClock{}
	}
	cfg.KeyLimits = cfg.KeyLimits.filled()
	var err error
	cfg.Liveness, err = cfg.Liveness.filled()
	return cfg, err
}
