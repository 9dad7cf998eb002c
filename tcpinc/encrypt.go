package tcpinc

import (
	"context"
	"net"
	"time"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
)

// encrypt runs the key exchange of the negotiated TEP on an open connection. When it fails the connection was aborted.
func (cfg Config) encrypt(ctx context.Context, t Transport, out eno.Outcome, start time.Time) (*Conn, error) {
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
		KeyLog:     cfg.keyLog(out.Role, t.LocalAddr(), t.RemoteAddr()),
	})
	if err != nil {
		t.Abort()
		return nil, err
	}
	if err := crypt.Handshake(ctx); err != nil {
		return nil, err
	}
	return &Conn{stream: crypt, lower: t, crypt: crypt, state: ConnectionState{
		Encrypted:     true,
		Role:          out.Role,
		TEP:           out.TEP,
		Transcript:    out.Transcript,
		PeerAppAware:  out.PeerAppAware,
		SYNsSent:      out.SYNsSent,
		HandshakeTime: cfg.Clock.Now().Sub(start),
	}}, nil
}

// keyLog adds the two ends to what tcpcrypt logs.
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
