package daemon

import (
	"net/netip"
	"time"

	"innertun/cmd/internal/control"
	"innertun/tcpinc"
	"innertun/tcpinc/tcpcrypt"
)

// sessions is what could be resumed, for `innertun sessions`.
func (d *daemon) sessions() []control.Session {
	now := time.Now()
	all := d.tcpinc.Sessions.Sessions()
	out := make([]control.Session, len(all))
	for i, s := range all {
		out[i] = sessionOf(s, now)
	}
	return out
}

func sessionOf(s tcpcrypt.Session, now time.Time) control.Session {
	peer := s.Peer.String()
	if s.Peer.Port() == 0 { // it opened the connection, from a port that says nothing
		peer = s.Peer.Addr().String()
	}
	return control.Session{
		Peer: peer, TEP: tcpinc.TEPName(s.TEP), Cipher: s.Cipher.String(), Role: s.Role.String(), Next: s.Next, Misses: s.Misses,
		Age: milliseconds(now.Sub(s.Born)), ExpiresIn: milliseconds(s.Expires.Sub(now)),
	}
}

func (d *daemon) flushSessions(to netip.AddrPort) int {
	cache := d.tcpinc.Sessions
	n := 0
	if to.Addr().IsValid() {
		n = cache.Flush(to)
		d.log.Info("dropped the sessions of a peer", "peer", to, "sessions", n)
	} else {
		n = cache.FlushAll()
		d.log.Info("dropped all sessions", "sessions", n)
	}
	return n
}
