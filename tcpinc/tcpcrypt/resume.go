package tcpcrypt

import (
	"errors"

	"innertun/tcpinc/eno"
)

// resume is the key exchange of a resumed session: there is none. RFC 8548, Section 3.5.
func (c *Conn) resume() (session, error) {
	t := c.cfg.Ticket
	s, ok := t.redeem()
	if !ok {
		return session{}, ErrTicketUsed
	}
	return session{secret: s, nonce: c.cfg.SessionNonce, role: t.role, cipher: t.cipher}, nil
}

// keepSession notes what a session came from, or caches what a fresh one leaves.
func (c *Conn) keepSession(s *session) {
	if c.cfg.Ticket != nil {
		c.chain = c.cfg.Ticket.chain
		return
	}
	c.chain = c.cfg.Sessions.add(&s.secret, chain{tep: c.cfg.TEP, cipher: s.cipher, role: s.role, traits: c.cfg.Traits, peer: c.cfg.Peer})
}

// sessions is the cache that c.chain is in.
func (c *Conn) sessions() *SessionCache {
	if c.cfg.Ticket != nil {
		return c.cfg.Ticket.cache
	}
	return c.cfg.Sessions
}

func (c *Conn) originalRole() eno.Role {
	if c.cfg.Ticket != nil {
		return c.cfg.Ticket.role
	}
	return c.cfg.Role
}

// confirmSession is called when the first frame of a resumed session has opened.
func (c *Conn) confirmSession() { c.sessions().confirm(c.chain, c.cfg.Peer) }

// doubtSession is called when the connection has failed. If the peer never showed that it has the keys of a resumed session,
// the next one is to be a fresh one. A passive opener goes by what it received: peers open connections in advance, and reset
// those that they have no use for.
func (c *Conn) doubtSession(err error) {
	if c.cfg.Ticket == nil || !c.ready.Load() || c.in.counters.frames.Load() > 0 {
		return
	}
	if c.cfg.Peer.Port() == 0 && !errors.Is(err, ErrIntegrity) && !errors.Is(err, ErrMalformedFrame) {
		return
	}
	c.cfg.Ticket.Doubt()
}

// FlushSession drops from the session cache what was used for this connection or has resulted from it. RFC 8548,
// Section 3.5.
func (c *Conn) FlushSession() {
	if c.ready.Load() {
		c.sessions().dropChain(c.chain)
	}
}

// SetSessionNote keeps a value of the caller's with the cached session, for the connections that are resumed from it later:
// what was proven of the peer, for instance. It does nothing if there is none.
func (c *Conn) SetSessionNote(note any) {
	if c.ready.Load() {
		c.sessions().annotate(c.chain, note)
	}
}

// SessionNote is what SetSessionNote had left when this session was resumed; nil for a fresh one.
func (c *Conn) SessionNote() any {
	if c.cfg.Ticket == nil {
		return nil
	}
	return c.cfg.Ticket.note
}
