package tcpcrypt

import (
	"container/list"
	"net/netip"
	"slices"
	"sync"
	"time"

	"innertun/tcpinc/eno"
)

const (
	// DefaultSessions bounds the chains of a SessionCache; about 1,000 octets each.
	DefaultSessions = 10_000
	// DefaultSessionTTL is how long a chain lasts from its fresh key exchange, however often it is used.
	DefaultSessionTTL = 24 * time.Hour

	// maxPerPeer bounds the chains that this host got as an active opener from one address and port.
	maxPerPeer = 4
	// maxMisses is how many offers in a row a peer may decline before the chain is dropped. Those that were out at the same
	// time count as one: the peer knows lookAhead secrets, and of many SYNs that leave at once some overtake others.
	maxMisses = 2
	// maxTickets bounds those of one chain that are out at a time: a peer may name secrets in SYNs that lead to nothing.
	maxTickets = 256
)

// SessionCache keeps, in memory only, the secrets from which sessions are resumed. Its zero value is ready to use, nil
// keeps nothing, and it is safe for concurrent use. A program has one, for its active and its passive openings, as either
// host may resume whoever opened the first connection. Each secret is handed out once: see Ticket. RFC 8548, Section 3.5.
type SessionCache struct {
	Max   int           // chains; 0: DefaultSessions. The one longest unused makes room for a new one
	TTL   time.Duration // 0: DefaultSessionTTL
	Clock Clock         // nil: RealClock

	mu      sync.Mutex
	used    list.List                   // of *chain, most recently used first
	peers   map[netip.AddrPort][]*chain // oldest first
	named   map[half]*chain
	tickets map[*Ticket]struct{} // not used up yet
	sweep   func() bool          // stops the timer that looks for expired chains; nil: none is set
	closed  bool
}

// Session describes what a SessionCache holds of one fresh key exchange.
type Session struct {
	Peer    netip.AddrPort // remote address; port 0: the peer was the active opener
	TEP     eno.TEP
	Cipher  Cipher
	Role    eno.Role // this host's in the fresh key exchange
	Traits  uint8    // see Config.Traits
	Next    uint64   // the number i of the next secret
	Note    any      // see Conn.SetSessionNote
	Born    time.Time
	Expires time.Time
	Misses  int // offers to resume in a row that the peer declined
}

// Take returns a Ticket with which to offer resumption to a peer: of its newest session that want agrees to, one with that
// address and port if there is any, else one in which that address was the active opener. Nil: there is none. want must
// not use the cache; nil agrees to all.
func (s *SessionCache) Take(peer netip.AddrPort, want func(Session) bool) *Ticket {
	if s == nil {
		return nil
	}
	peer = peerKey(peer)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range []netip.AddrPort{peer, netip.AddrPortFrom(peer.Addr(), 0)} {
		for _, c := range slices.Backward(s.peers[key]) {
			if s.usable(c, want) {
				return s.ticket(c)
			}
		}
	}
	return nil
}

// Has reports whether Take would return a Ticket.
func (s *SessionCache) Has(peer netip.AddrPort, want func(Session) bool) bool {
	if s == nil {
		return false
	}
	peer = peerKey(peer)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range []netip.AddrPort{peer, netip.AddrPortFrom(peer.Addr(), 0)} {
		for _, c := range slices.Backward(s.peers[key]) { // in the order of Take
			if s.usable(c, want) {
				return true
			}
		}
	}
	return false
}

// Claim returns a Ticket for the secret that a peer names in the data of a resumption suboption, and erases those before it.
// Nil: it names none, or one that is not wanted: see Take.
func (s *SessionCache) Claim(tep eno.TEP, data []byte, want func(Session) bool) *Ticket {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.find(tep, data, want)
	if c == nil {
		return nil
	}
	for name := half(data); c.named[0] != name; {
		s.step(c)
	}
	return s.ticket(c)
}

// Knows reports whether Claim would return a Ticket.
func (s *SessionCache) Knows(tep eno.TEP, data []byte, want func(Session) bool) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.find(tep, data, want) != nil
}

func (s *SessionCache) find(tep eno.TEP, data []byte, want func(Session) bool) *chain {
	if len(data) < ResumeHalfLen || len(data) > ResumeHalfLen+MaxResumeNonceLen {
		return nil
	}
	c := s.named[half(data)]
	if c == nil || c.tep != tep || !s.usable(c, want) {
		return nil
	}
	return c
}

func (s *SessionCache) usable(c *chain, want func(Session) bool) bool {
	return c.out < maxTickets && len(s.tickets) < max(orDefault(s.Max, DefaultSessions), maxTickets) && s.fresh(c) && (want == nil || want(c.describe()))
}

func (s *SessionCache) fresh(c *chain) bool { return s.clock().Now().Before(c.expires) }

// ticket hands out ss[i] and leaves ss[i+1].
func (s *SessionCache) ticket(c *chain) *Ticket {
	own, peer := c.secret.halves(c.role)
	t := &Ticket{
		cache: s, chain: c, tep: c.tep, cipher: c.cipher, role: c.role, key: c.peer, traits: c.traits, note: c.note,
		own: own, peer: peer, secret: c.secret, live: true, misses: c.misses,
	}
	s.step(c)
	s.used.MoveToFront(c.place)
	if s.tickets == nil {
		s.tickets = make(map[*Ticket]struct{})
	}
	s.tickets[t] = struct{}{}
	c.out++
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stop = s.clock().AfterFunc(ticketTime, t.Erase)
	return t
}

func (s *SessionCache) step(c *chain) {
	gone, come := c.step()
	delete(s.named, gone)
	s.named[come] = c
}

// add keeps what a fresh key exchange with secret ss[0] leaves.
func (s *SessionCache) add(ss0 *secret, c chain) *chain {
	if s == nil {
		return nil
	}
	c.peer = peerKey(c.peer)
	c.born = s.clock().Now()
	c.expires = c.born.Add(orDefault(s.TTL, DefaultSessionTTL))
	n := newChain(ss0, c)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		n.erase()
		return nil
	}
	if s.peers == nil {
		s.peers, s.named = make(map[netip.AddrPort][]*chain), make(map[half]*chain)
	}
	if s.used.Len() >= orDefault(s.Max, DefaultSessions) {
		s.drop(s.used.Back().Value.(*chain))
	}
	if same := s.peers[n.peer]; n.peer.Port() != 0 && len(same) >= maxPerPeer {
		s.drop(same[0])
	}
	n.place = s.used.PushFront(n)
	s.peers[n.peer] = append(s.peers[n.peer], n)
	for _, name := range n.named {
		s.named[name] = n
	}
	if s.sweep == nil {
		s.sweepAt(n.expires)
	}
	return n
}

// drop erases a chain, which may have been dropped before.
func (s *SessionCache) drop(c *chain) {
	if c.place == nil {
		return
	}
	s.used.Remove(c.place)
	c.place = nil
	s.detach(c)
	for _, name := range c.named {
		if s.named[name] == c {
			delete(s.named, name)
		}
	}
	c.erase()
}

// detach takes a chain off its peer.
func (s *SessionCache) detach(c *chain) {
	same := s.peers[c.peer]
	if i := slices.Index(same, c); i >= 0 {
		same = slices.Delete(same, i, i+1)
	}
	if len(same) == 0 {
		delete(s.peers, c.peer)
		return
	}
	s.peers[c.peer] = same
}

// sweepAt sets the timer that erases expired chains.
func (s *SessionCache) sweepAt(at time.Time) {
	s.sweep = s.clock().AfterFunc(max(at.Sub(s.clock().Now()), time.Second), s.dropExpired)
}

func (s *SessionCache) dropExpired() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock().Now()
	s.sweep = nil
	var soonest time.Time
	for _, c := range s.all() {
		if !now.Before(c.expires) {
			s.drop(c)
		} else if soonest.IsZero() || c.expires.Before(soonest) {
			soonest = c.expires
		}
	}
	if !soonest.IsZero() && !s.closed {
		s.sweepAt(soonest)
	}
}

// all is the chains, most recently used first.
func (s *SessionCache) all() []*chain {
	all := make([]*chain, 0, s.used.Len())
	for e := s.used.Front(); e != nil; e = e.Next() {
		all = append(all, e.Value.(*chain))
	}
	return all
}

// Sessions describes what is in the cache, most recently used first.
func (s *SessionCache) Sessions() []Session {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Session
	for _, c := range s.all() {
		if s.fresh(c) {
			list = append(list, c.describe())
		}
	}
	return list
}

// Flush drops the sessions with a peer and returns how many there were. With port 0 it is all those with the address,
// else those got by opening connections to that port.
func (s *SessionCache) Flush(peer netip.AddrPort) int {
	peer = peerKey(peer)
	return s.flush(func(c *chain) bool { return c.peer == peer || peer.Port() == 0 && c.peer.Addr() == peer.Addr() })
}

// FlushAll drops all sessions and returns how many there were.
func (s *SessionCache) FlushAll() int { return s.flush(func(*chain) bool { return true }) }

func (s *SessionCache) flush(which func(*chain) bool) int {
	if s == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.all() {
		if which(c) {
			s.drop(c)
			n++
		}
	}
	return n
}

// Close erases all, Tickets handed out included. The cache keeps nothing from then on. It always returns nil.
func (s *SessionCache) Close() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	s.closed = true
	for _, c := range s.all() {
		s.drop(c)
	}
	if s.sweep != nil {
		s.sweep()
	}
	out := make([]*Ticket, 0, len(s.tickets))
	for t := range s.tickets {
		out = append(out, t)
	}
	s.mu.Unlock()
	for _, t := range out {
		t.Erase()
	}
	return nil
}

// forget is told that a ticket holds no secret any more.
func (s *SessionCache) forget(t *Ticket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tickets, t)
	t.chain.out--
}

// dropChain drops one chain; nil does nothing.
func (s *SessionCache) dropChain(c *chain) {
	if s == nil || c == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(c)
}

// doubt drops what a chain that did not work came from: all of the destination, if this host opened to it.
func (s *SessionCache) doubt(c *chain) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(c)
	if c.peer.Port() == 0 {
		return // other hosts may share the address
	}
	for _, other := range slices.Clone(s.peers[c.peer]) {
		s.drop(other)
	}
}

// missed notes that the peer did not agree to resume with a ticket.
func (s *SessionCache) missed(t *Ticket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := t.chain
	if t.misses < c.misses {
		return // it was out when another one was declined
	}
	if c.misses++; c.misses >= maxMisses {
		s.drop(c)
	}
}

// confirm notes that a session resumed from a chain works. A client is known by the address that it has now.
func (s *SessionCache) confirm(c *chain, peer netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.misses = 0
	peer = peerKey(peer)
	if c.place == nil || c.peer.Port() != 0 || peer.Port() != 0 || !peer.IsValid() || peer == c.peer {
		return
	}
	s.detach(c)
	c.peer = peer
	s.peers[peer] = append(s.peers[peer], c)
}

// annotate sets the note of a chain; nil does nothing.
func (s *SessionCache) annotate(c *chain, note any) {
	if s == nil || c == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.note = note
}

func (s *SessionCache) clock() Clock {
	if s.Clock == nil {
		return RealClock{}
	}
	return s.Clock
}

// peerKey is the one form in which an address is remembered.
func peerKey(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

func orDefault[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}
