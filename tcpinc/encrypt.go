package tcpinc

import (
	"context"
	"net"
	"net/netip"
	"time"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
)

// encrypt runs the key exchange of the negotiated TEP on an open connection, or resumes a session in its place. peer is
// what a session is cached under. When it fails the connection was aborted.
func (cfg Config) encrypt(ctx context.Context, t Transport, h *Handshake, peer netip.AddrPort, start time.Time) (*Conn, error) {
	out := h.Outcome()
	ticket, nonce := h.agreed()
	original, sessions := out.Role, cfg.Sessions
	if ticket != nil {
		original = ticket.Role()
	}
	if cfg.NoCache {
		sessions = nil
	}
	defer h.release()
	echoed, err := h.echo(t)
	if err != nil {
		t.Abort()
		return nil, err
	}
	crypt, err := tcpcrypt.New(t, tcpcrypt.Config{
		Role:       out.Role,
		TEP:        out.TEP,
		TEPByte:    out.TEPByte,
		Transcript: out.Transcript,
		Ciphers:    cfg.Ciphers,
		KeyLimits:  cfg.KeyLimits,
		Liveness:   cfg.Liveness,
		Clock:      cfg.Clock,
		Rand:       cfg.Rand,
		KeyPool:    cfg.KeyPool,
		KeyLog:     cfg.keyLog(original, t.LocalAddr(), t.RemoteAddr()),

		Ticket:       ticket,
		SessionNonce: nonce,
		Prepared:     h.prepared(),
		Traits:       h.traits(),
		Sessions:     sessions,
		Peer:         peer,

		SentBefore: uint64(echoed), ReceivedBefore: uint64(h.echoed),
	})
	if err != nil {
		t.Abort()
		return nil, err
	}
	if err := crypt.Handshake(ctx); err != nil {
		return nil, err
	}
	if cfg.NoCache {
		crypt.FlushSession() // of a resumed session
	}
	resets := cfg.guardResets(h, t, crypt)
	note := noteOf(crypt)
	conn := &Conn{stream: crypt, lower: t, crypt: crypt, resets: resets, note: note, state: ConnectionState{
		Encrypted:    true,
		Role:         out.Role,
		TEP:          out.TEP,
		Transcript:   out.Transcript,
		PeerAppAware: out.PeerAppAware,
		SYNsSent:     out.SYNsSent,
	}}
	g, err := cfg.newGreeting(crypt, out, note, resets)
	switch {
	case err != nil:
		crypt.Abort()
	case h.innerSpace():
		err = g.prove(ctx, conn, h)
	default:
		conn.stream, err = g.greet(ctx)
		conn.hello, _ = conn.stream.(*greeted)
	}
	if err != nil {
		return nil, err
	}
	conn.state.HandshakeTime = cfg.Clock.Now().Sub(start)
	return conn, nil
}

// keyLog adds the two ends to what tcpcrypt logs; host A is the one that seals with k_ab.
func (cfg Config) keyLog(role eno.Role, local, remote net.Addr) func(tcpcrypt.KeyLogEntry) {
	if cfg.KeyLog == nil {
		return nil
	}
	a, b := local, remote
	if role == eno.RoleB {
		a, b = b, a
	}
	return func(e tcpcrypt.KeyLogEntry) { cfg.KeyLog(KeyLogEntry{e, a, b}) }
}
