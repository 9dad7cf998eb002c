package tcpcrypt

import (
	"bytes"
	"net/netip"
	"slices"
	"sync"
	"time"

	"innertun/tcpinc/eno"
)

// ticketTime is how long a Ticket may lie unused: longer than a TCP connection takes to open, or never does.
const ticketTime = 2 * time.Minute

// Ticket is one session secret ss[i], good for one connection: its cache has gone on to ss[i+1]. It is erased once it is
// used, 2 minutes after it was handed out, or when the cache is closed. It is safe for concurrent use. RFC 8548,
// Section 3.5.
type Ticket struct {
	cache     *SessionCache
	chain     *chain
	tep       eno.TEP
	cipher    Cipher
	role      eno.Role
	key       netip.AddrPort
	traits    uint8
	note      any
	own, peer half
	misses    int // of the chain when it was handed out

	LogEarly bool // have early keys in the key log; set before SealEarly or OpenEarly

	mu     sync.Mutex
	stop   func() bool // the timer that erases it
	secret secret
	live   bool
	early  *earlyLog // nil: early data was neither sealed nor opened
}

func (t *Ticket) TEP() eno.TEP   { return t.tep }
func (t *Ticket) Cipher() Cipher { return t.cipher }

// Role is this host's in the fresh key exchange that the secret comes from.
func (t *Ticket) Role() eno.Role { return t.role }

// Traits is what Config.Traits was in that exchange.
func (t *Ticket) Traits() uint8 { return t.traits }

// Peer is the address that the session is known to be with: where this host opened the connection, what it opened it to;
// else, with port 0, the address of the opener, the one of the latest resumption that worked.
func (t *Ticket) Peer() netip.AddrPort { return t.key }

// Note is what Conn.SetSessionNote has left.
func (t *Ticket) Note() any { return t.note }

// Live reports whether the ticket can still be used.
func (t *Ticket) Live() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.live
}

// Suboption returns the data of this host's resumption suboption: its half of the identifier, then a nonce of at most
// MaxResumeNonceLen octets. RFC 8548, Section 3.5, Figures 2 and 3.
func (t *Ticket) Suboption(nonce []byte) []byte { return slices.Concat(t.own[:], nonce) }

// Match judges the data of the peer's resumption suboption and returns its nonce, which refers to data.
func (t *Ticket) Match(data []byte) (nonce []byte, ok bool) {
	if len(data) < ResumeHalfLen || len(data) > ResumeHalfLen+MaxResumeNonceLen || !bytes.Equal(data[:ResumeHalfLen], t.peer[:]) {
		return nil, false
	}
	return data[ResumeHalfLen:], true
}

// SessionNonce is sn[i], nonce_a | nonce_b by the original roles, of this host's nonce and its peer's.
func (t *Ticket) SessionNonce(own, peer []byte) []byte {
	if t.role == eno.RoleB {
		own, peer = peer, own
	}
	return slices.Concat(own, peer)
}

// Missed says that the peer did not agree to resume. The second time in a row its chain is dropped; tickets that were handed
// out before the first time do not count again.
func (t *Ticket) Missed() { t.cache.missed(t) }

// Doubt says that what the cache holds of the peer seems to be of no use: it is dropped.
func (t *Ticket) Doubt() { t.cache.doubt(t.chain) }

// Erase erases the secret, if it was not used.
func (t *Ticket) Erase() {
	if s, ok := t.redeem(); ok {
		clear(s[:])
		t.mu.Lock()
		t.early.erase()
		t.mu.Unlock()
	}
}

// redeem hands out the secret, once.
func (t *Ticket) redeem() (secret, bool) {
	t.mu.Lock()
	s, ok, stop := t.secret, t.live, t.stop
	clear(t.secret[:])
	t.live = false
	t.mu.Unlock()
	if ok {
		stop()
		t.cache.forget(t)
	}
	return s, ok
}
