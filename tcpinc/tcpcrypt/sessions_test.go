package tcpcrypt

import (
	"bytes"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"innertun/tcpinc/eno"
)

var (
	hostA = netip.MustParseAddrPort("198.18.0.1:80")
	hostB = netip.MustParseAddrPort("198.18.0.2:80")
)

// anyPort is an address as a passive opener knows it.
func anyPort(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), 0) }

// share puts the session with secret ss[0] into the caches of both of its hosts: A opened it.
func share(ss0 secret, atA, atB *SessionCache) (a, b *chain) {
	a = atA.add(&ss0, chain{tep: Curve25519, cipher: AES128GCM, role: eno.RoleA, peer: hostB})
	b = atB.add(&ss0, chain{tep: Curve25519, cipher: AES128GCM, role: eno.RoleB, peer: anyPort(hostA)})
	return a, b
}

func numbered(n int) secret { return secret{byte(n), byte(n >> 8), 1} }

func TestTakeAndClaim(t *testing.T) {
	atA, atB := new(SessionCache), new(SessionCache)
	defer atA.Close()
	defer atB.Close()
	share(numbered(1), atA, atB)
	ss := numbered(1)
	for i := range 20 {
		ss.step() // ss[1], ss[2] ...
		opener, taker, to := atA, atB, hostB
		if i%3 == 2 { // the former passive opener's turn
			opener, taker, to = atB, atA, hostA
		}
		o := opener.Take(to, nil)
		data := o.Suboption([]byte("nonce"))
		if !taker.Knows(Curve25519, data, nil) {
			t.Fatalf("%d is not known", i)
		}
		p := taker.Claim(Curve25519, data, nil)
		if p == nil || taker.Claim(Curve25519, data, nil) != nil || taker.Knows(Curve25519, data, nil) {
			t.Fatalf("%d: claimed %v, or twice", i, p)
		}
		nonce, ok := o.Match(p.Suboption([]byte("other")))
		if !ok || string(nonce) != "other" {
			t.Errorf("%d: %q, %v", i, nonce, ok)
		}
		if _, ok := o.Match(data); ok {
			t.Errorf("%d: a host matches its own half", i)
		}
		x, okX := o.redeem()
		y, okY := p.redeem()
		if !okX || !okY || x != y || x != ss {
			t.Fatalf("%d: secrets differ", i)
		}
		if _, again := o.redeem(); again {
			t.Errorf("%d: used twice", i)
		}
	}
}

// The peer may have lost attempts; what it skips is gone.
func TestLookAhead(t *testing.T) {
	for lost := range lookAhead + 2 {
		atA, atB := new(SessionCache), new(SessionCache)
		share(numbered(1), atA, atB)
		var skipped [][]byte
		for range lost {
			skipped = append(skipped, atA.Take(hostB, nil).Suboption(nil))
		}
		data := atA.Take(hostB, nil).Suboption(nil)
		if got := atB.Claim(Curve25519, data, nil); (got != nil) != (lost < lookAhead) {
			t.Errorf("%d lost: %v", lost, got)
		}
		if lost >= lookAhead {
			continue
		}
		for _, s := range skipped {
			if atB.Knows(Curve25519, s, nil) {
				t.Error("a skipped secret can still be named")
			}
		}
		if n := len(atB.named); n != lookAhead {
			t.Errorf("%d secrets are known by name", n)
		}
	}
}

func TestClaimRefuses(t *testing.T) {
	atA, atB := new(SessionCache), new(SessionCache)
	share(numbered(1), atA, atB)
	data := atA.Take(hostB, nil).Suboption(make([]byte, 8))
	for what, refused := range map[string]*Ticket{
		"another TEP":       atB.Claim(P256, data, nil),
		"8 octets":          atB.Claim(Curve25519, data[:8], nil),
		"18 octets":         atB.Claim(Curve25519, append(bytes.Clone(data), 0), nil),
		"unknown":           atB.Claim(Curve25519, make([]byte, 17), nil),
		"not wanted":        atB.Claim(Curve25519, data, func(Session) bool { return false }),
		"by the wrong host": atA.Claim(Curve25519, data, nil),
		"nil cache":         (*SessionCache)(nil).Claim(Curve25519, data, nil),
	} {
		if refused != nil {
			t.Errorf("%s: claimed", what)
		}
	}
	if atB.Claim(Curve25519, data[:9], nil) == nil {
		t.Error("a refusal has used the secret up")
	}
}

// Many goroutines at both hosts: no secret is ever handed out twice at a host.
func TestSingleUseUnderRaces(t *testing.T) {
	atA, atB := new(SessionCache), new(SessionCache)
	defer atA.Close()
	defer atB.Close()
	share(numbered(1), atA, atB)
	var mu sync.Mutex
	used := [2]map[secret]bool{{}, {}}
	use := func(host int, k *Ticket) {
		s, ok := k.redeem()
		mu.Lock()
		defer mu.Unlock()
		if !ok || used[host][s] {
			t.Errorf("host %d: a secret was handed out twice", host)
		}
		used[host][s] = true
	}
	var resumed atomic.Int32
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for range 100 {
				from, to, peer, host := atA, atB, hostB, 0
				if g%2 == 1 {
					from, to, peer, host = atB, atA, hostA, 1
				}
				k := from.Take(peer, nil)
				var claims sync.WaitGroup
				for range 2 { // a SYN that arrives twice
					claims.Go(func() {
						if p := to.Claim(Curve25519, k.Suboption(nil), nil); p != nil {
							resumed.Add(1)
							use(1-host, p)
						}
					})
				}
				claims.Wait()
				use(host, k)
			}
		})
	}
	all.Wait()
	if resumed.Load() == 0 {
		t.Error("nothing was resumed")
	}
}

func TestNewestFirst(t *testing.T) {
	var s SessionCache
	defer s.Close()
	for i := range 6 {
		ss := numbered(i)
		s.add(&ss, chain{tep: Curve25519, cipher: AES128GCM, role: eno.RoleA, peer: hostB, note: i})
	}
	ss := numbered(99)
	s.add(&ss, chain{tep: P256, cipher: AES128GCM, role: eno.RoleB, peer: anyPort(hostB), note: 99})
	if n := len(s.Sessions()); n != maxPerPeer+1 {
		t.Errorf("%d sessions", n)
	}
	if k := s.Take(hostB, nil); k.Note() != 5 {
		t.Errorf("took %v", k.Note())
	}
	if k := s.Take(hostB, func(x Session) bool { return x.Note != 5 }); k.Note() != 4 {
		t.Errorf("took %v", k.Note())
	}
	if k := s.Take(hostB, func(x Session) bool { return x.TEP == P256 }); k.Note() != 99 {
		t.Errorf("took %v", k.Note())
	}
	if k := s.Take(netip.AddrPortFrom(hostB.Addr(), 81), nil); k.Note() != 99 {
		t.Errorf("another port: took %v", k.Note())
	}
	mapped := netip.AddrPortFrom(netip.AddrFrom16(hostB.Addr().As16()), 80)
	if k := s.Take(mapped, nil); k.Note() != 5 {
		t.Errorf("IPv4 in IPv6: took %v", k.Note())
	}
	if k := s.Take(hostA, nil); k != nil {
		t.Errorf("a stranger: took %v", k.Note())
	}
}

func TestSessionsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		atA, atB := new(SessionCache), new(SessionCache)
		defer atA.Close()
		defer atB.Close()
		a, b := share(numbered(1), atA, atB)
		for range 23 { // use does not prolong it
			time.Sleep(time.Hour)
			if k := atB.Claim(Curve25519, atA.Take(hostB, nil).Suboption(nil), nil); k == nil {
				t.Fatal("expired too soon")
			}
		}
		time.Sleep(time.Hour - time.Second)
		late := atA.Take(hostB, nil)
		time.Sleep(time.Second)
		if atA.Take(hostB, nil) != nil || atB.Claim(Curve25519, late.Suboption(nil), nil) != nil || len(atA.Sessions()) != 0 {
			t.Error("used after its time")
		}
		if !late.Live() {
			t.Error("a ticket in use expires with the session")
		}
		time.Sleep(2 * time.Second) // nobody has asked: it is erased all the same
		synctest.Wait()
		isErased(t, "A's", a)
		isErased(t, "B's", b)

		atA.TTL = time.Minute
		c, _ := share(numbered(2), atA, atB)
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		isErased(t, "A's second", c)
		if len(atB.Sessions()) != 1 {
			t.Error("B's is gone")
		}
	})
}

// isErased looks at the memory of a chain.
func isErased(t *testing.T, what string, c *chain) {
	t.Helper()
	if c.secret != (secret{}) || c.tip != (secret{}) || c.place != nil {
		t.Errorf("%s secrets are in memory", what)
	}
	for _, name := range c.named {
		if name != (half{}) {
			t.Errorf("%s names are in memory", what)
		}
	}
}

func TestSecretsAreErased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		atA, atB := new(SessionCache), new(SessionCache)
		a, b := share(numbered(1), atA, atB)
		first := a.secret

		used, unused, open := atA.Take(hostB, nil), atA.Take(hostB, nil), atB.Take(hostA, nil)
		if a.secret == first || used.secret != first {
			t.Error("the chain has not gone on")
		}
		if s, ok := used.redeem(); !ok || s != first || used.secret != (secret{}) {
			t.Error("a used ticket keeps its secret")
		}
		time.Sleep(ticketTime - time.Second)
		if !unused.Live() {
			t.Error("erased too soon")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if unused.Live() || unused.secret != (secret{}) || len(atA.tickets) != 0 {
			t.Error("an unused ticket keeps its secret")
		}
		_ = open

		held := atA.Take(hostB, nil)
		atA.Close()
		isErased(t, "A's", a)
		if held.Live() || held.secret != (secret{}) {
			t.Error("Close leaves a ticket's secret")
		}
		ss := numbered(2)
		if atA.add(&ss, chain{role: eno.RoleA, peer: hostB}) != nil || len(atA.Sessions()) != 0 {
			t.Error("a closed cache keeps sessions")
		}
		atB.dropChain(b)
		isErased(t, "B's", b)
		if len(atB.named)+len(atB.peers)+atB.used.Len() != 0 {
			t.Error("an empty cache is not empty")
		}
		atB.Close()
	})
}

func TestCacheIsBounded(t *testing.T) {
	s := SessionCache{Max: 100}
	defer s.Close()
	var chains []*chain
	for i := range 250 {
		ss := numbered(i)
		peer := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(i), 1}), uint16(80*(i%2)))
		chains = append(chains, s.add(&ss, chain{tep: P256, cipher: AES128GCM, role: eno.RoleA, peer: peer, note: i}))
		if k := s.Take(netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, 0, 1}), 0), nil); k == nil || k.Note() != 0 { // in use
			t.Fatalf("after %d: the one in use is gone", i)
		}
	}
	if len(s.Sessions()) != 100 || len(s.named) != 100*lookAhead || len(s.peers) != 100 {
		t.Errorf("%d sessions, %d names, %d peers", len(s.Sessions()), len(s.named), len(s.peers))
	}
	isErased(t, "the oldest", chains[1])
}

func TestFlush(t *testing.T) {
	x, y, other := netip.MustParseAddrPort("198.18.0.1:80"), netip.MustParseAddrPort("198.18.0.1:81"), netip.MustParseAddrPort("[fd00::1]:80")
	fill := func() *SessionCache {
		s := new(SessionCache)
		for i, peer := range []netip.AddrPort{x, x, y, anyPort(x), other} {
			ss := numbered(i)
			s.add(&ss, chain{role: eno.RoleA, peer: peer})
		}
		return s
	}
	for _, v := range []struct {
		peer       netip.AddrPort
		gone, left int
	}{{x, 2, 3}, {y, 1, 4}, {anyPort(x), 4, 1}, {other, 1, 4}, {netip.MustParseAddrPort("198.18.0.9:80"), 0, 5}} {
		s := fill()
		if n := s.Flush(v.peer); n != v.gone || len(s.Sessions()) != v.left || s.Flush(v.peer) != 0 {
			t.Errorf("%v: %d flushed, %d left", v.peer, n, len(s.Sessions()))
		}
		s.Close()
	}
	s := fill()
	defer s.Close()
	if n := s.FlushAll(); n != 5 || len(s.Sessions()) != 0 || len(s.named) != 0 {
		t.Errorf("%d flushed", n)
	}
	var none *SessionCache
	if none.FlushAll()+none.Flush(x)+len(none.Sessions()) != 0 || none.Take(x, nil) != nil || none.Knows(P256, nil, nil) || none.Close() != nil {
		t.Error("nil is not empty")
	}
}

func TestMissesAndDoubt(t *testing.T) {
	atA, atB := new(SessionCache), new(SessionCache)
	defer atA.Close()
	defer atB.Close()
	share(numbered(1), atA, atB)
	atA.Take(hostB, nil).Missed()
	k := atA.Take(hostB, nil)
	atA.confirm(k.chain, hostB)
	k.Missed()
	if len(atA.Sessions()) != 1 || atA.Sessions()[0].Misses != 1 {
		t.Errorf("after one miss: %+v", atA.Sessions())
	}
	k.Missed()
	if len(atA.Sessions()) != 0 {
		t.Error("kept after two misses in a row")
	}
	share(numbered(2), atA, atB)
	share(numbered(3), atA, atB)
	atA.Take(hostB, nil).Doubt()
	if len(atA.Sessions()) != 0 {
		t.Error("kept the destination's other sessions")
	}
	atB.Take(hostA, nil).Doubt()
	if n := len(atB.Sessions()); n != 2 { // of three clients behind one address
		t.Errorf("%d left", n)
	}
}

func BenchmarkSessionCacheAdd(b *testing.B) {
	var s SessionCache
	defer s.Close()
	ss := numbered(1)
	for b.Loop() {
		ss.step()
		s.add(&ss, chain{tep: P256, cipher: AES128GCM, role: eno.RoleB, peer: hostB})
	}
}

// A peer that has one session can name its secrets one after the other, in SYNs that lead to nothing.
func TestTicketsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		atA, atB := &SessionCache{Max: 3}, &SessionCache{Max: 3}
		defer atA.Close()
		defer atB.Close()
		share(numbered(1), atA, atB)
		share(numbered(2), atA, atB)
		claimed := 0
		for i := range 3 * maxTickets {
			o := atA.Take(hostB, nil)
			if o == nil {
				t.Fatal("nothing to offer")
			}
			data := o.Suboption(nil)
			o.Erase()
			p := atB.Claim(Curve25519, data, nil)
			if (p != nil) != atB.knew(p) {
				t.Fatal(i)
			}
			if p != nil {
				claimed++
			}
		}
		if atB.out() > maxTickets || claimed != atB.out() {
			t.Errorf("%d tickets are out, %d claimed, expected %d at most", atB.out(), claimed, maxTickets)
		}
		if n := atA.out(); n != 0 {
			t.Errorf("%d erased tickets are kept", n)
		}
		time.Sleep(ticketTime + time.Second)
		synctest.Wait()
		if atB.out() != 0 {
			t.Errorf("%d expired tickets are kept", atB.out())
		}
	})
}

// out is how many tickets are out.
func (s *SessionCache) out() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.tickets)
}

// knew reports whether a ticket is accounted for.
func (s *SessionCache) knew(t *Ticket) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.tickets[t]
	return ok
}

// TestMissesAtOnce has offers that leave at the same time overtake each other: that some are declined says little.
func TestMissesAtOnce(t *testing.T) {
	s := new(SessionCache)
	defer s.Close()
	share(numbered(1), s, nil)
	var out []*Ticket
	for range 10 {
		out = append(out, s.Take(hostB, nil))
	}
	for _, k := range out {
		k.Missed()
	}
	if all := s.Sessions(); len(all) != 1 || all[0].Misses != 1 {
		t.Fatalf("after ten misses at once: %+v", all)
	}
	s.Take(hostB, nil).Missed()
	if len(s.Sessions()) != 0 {
		t.Error("kept after a miss of an offer that was made later")
	}
}
