package tcpcrypt

import (
	"container/list"
	"net/netip"
	"time"

	"innertun/tcpinc/eno"
)

const (
	// ResumeHalfLen is the length in octets of half a resumption identifier, which names a session secret. RFC 8548,
	// Section 3.5.
	ResumeHalfLen = 9
	// MaxResumeNonceLen is the longest nonce after it, and the length to be used by default. RFC 8548, Section 3.5.
	MaxResumeNonceLen = 8

	// lookAhead is how many secrets in a row the peer may name: its attempts that never arrived have used up some.
	lookAhead = 8
)

// half is half a resumption identifier.
type half [ResumeHalfLen]byte

// chain is what one fresh key exchange leaves to later sessions: ss[i] of the lowest i that was not used yet, from which
// all later ones follow. It belongs to a SessionCache, whose lock guards it.
type chain struct {
	tep     eno.TEP
	cipher  Cipher
	role    eno.Role // this host's in the fresh key exchange
	traits  uint8
	peer    netip.AddrPort
	note    any
	born    time.Time
	expires time.Time
	misses  int // offers in a row that the peer has not agreed to
	out     int // tickets that hold a secret

	next   uint64 // i
	secret secret // ss[i]
	tip    secret // ss[i+lookAhead]
	named  []half // what the peer sends to name ss[i], ss[i+1], ..., lookAhead of them

	place *list.Element // nil: no longer in the cache
}

// newChain begins a chain with ss[1].
func newChain(ss0 *secret, c chain) *chain {
	c.secret = *ss0
	c.secret.step()
	c.next = 1
	c.tip = c.secret
	for range lookAhead {
		c.extend()
	}
	return &c
}

// extend makes one more secret known by name.
func (c *chain) extend() {
	_, peer := c.tip.halves(c.role)
	c.named = append(c.named, peer)
	c.tip.step()
}

// step erases ss[i] and goes on to ss[i+1]. It returns the name that is no longer known and the one that is now.
func (c *chain) step() (gone, come half) {
	gone = c.named[0]
	copy(c.named, c.named[1:])
	c.named = c.named[:lookAhead-1]
	c.extend()
	c.secret.step()
	c.next++
	return gone, c.named[lookAhead-1]
}

// erase forgets all secrets.
func (c *chain) erase() {
	clear(c.secret[:])
	clear(c.tip[:])
	clear(c.named)
}

func (c *chain) describe() Session {
	return Session{Peer: c.peer, TEP: c.tep, Cipher: c.cipher, Role: c.role, Traits: c.traits, Next: c.next, Note: c.note, Born: c.born, Expires: c.expires, Misses: c.misses}
}
