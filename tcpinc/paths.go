package tcpinc

import (
	"net/netip"
	"sync"
	"time"

	"innertun/tcpinc/eno"
)

const (
	// DefaultPathTTL is how long a path that failed with ENO is spared it at first: long enough that a user does not wait
	// again and again, short enough that a passing fault does not turn encryption off for a day.
	DefaultPathTTL = 10 * time.Minute
	// DefaultMaxPathTTL is what that time grows to, doubled by each failure in a row.
	DefaultMaxPathTTL = 24 * time.Hour
	// DefaultSuccessTTL is how long it is known that a destination had encryption, to notice when it has none any more.
	// What is known for Ratchet is kept for good.
	DefaultSuccessTTL = 24 * time.Hour
	// DefaultPaths bounds the paths known that failed, and the destinations that had encryption; 200 octets each.
	DefaultPaths = 4096
	// DefaultRatcheted bounds the destinations that Ratchet wants encryption of; 150 octets each.
	DefaultRatcheted = 65536
	// DefaultSuspects is how many addresses on a network must fail in the same way for the fault to be the network's.
	// Each costs a user some seconds; an answer to any SYN with ENO meanwhile is proof of the contrary.
	DefaultSuspects = 2

	// suspicion is how long a failed address counts, and a network's fault that nobody has tried again.
	suspicion   = time.Hour
	maxNetworks = 64
)

// PathMemory knows which paths have failed with ENO, and which destinations had encryption. Its zero value is ready to
// use, nil remembers nothing, and it is safe for concurrent use. It is bounded and lasts as long as the process.
//
// A failed path is a destination, address and port, as reached by one network: port by port, as what fails is as often the
// one server behind an address as the path to it. It is spared ENO for a time that doubles with each failure in a row;
// then one connection tries again while others stay plain. A success resets it.
//
// When several addresses fail in the same way, with no proof of the contrary between, the fault is taken to be the network's,
// and all destinations on it are spared at once, likewise. Destinations known to have had encryption are still tried:
// nobody turns their encryption off by making connections to other addresses fail.
//
// Destinations that had encryption are known apart from failures, whatever the network. Only a success makes an entry
// there, and those of Ratchet are never dropped for others: when full, new ones do not get in.
type PathMemory struct {
	// Network names the network by which an address is reached; nil: there is one only. It must return at once.
	Network func(to netip.Addr) string

	Max          int           // paths that failed, and destinations that had encryption; 0: DefaultPaths
	MaxRatcheted int           // 0: DefaultRatcheted
	TTL          time.Duration // 0: DefaultPathTTL
	MaxTTL       time.Duration // 0: DefaultMaxPathTTL
	SuccessTTL   time.Duration // 0: DefaultSuccessTTL
	Suspects     int           // 0: DefaultSuspects

	mu        sync.Mutex
	failed    recent[path, fault]
	networks  recent[string, network]
	encrypted recent[netip.AddrPort, success]
	ratcheted map[netip.AddrPort]*success

	upgraded    recent[netip.AddrPort, upgraded]
	innerFaults recent[path, innerFault]
}

// path is a destination as reached by one network.
type path struct {
	network string
	to      netip.AddrPort
}

// network is what is known of a network as a whole.
type network struct {
	fault
	suspected eno.Reason // what the suspects failed with
	suspects  map[netip.Addr]time.Time
}

// success is a destination that had encryption.
type success struct {
	at       time.Time
	reported bool // its downgrade since then was logged
}

// path returns how a destination is reached now.
func (m *PathMemory) path(to netip.AddrPort) path {
	p := path{to: plainAddr(to)}
	if m != nil && m.Network != nil {
		p.network = m.Network(p.to.Addr())
	}
	return p
}

// plainAddr is the one form in which an address is remembered.
func plainAddr(to netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
}

// Failed returns why a destination is spared ENO on the network that leads to it now, NoReason if it is not.
func (m *PathMemory) Failed(to netip.AddrPort, now time.Time) eno.Reason {
	if m == nil {
		return eno.NoReason
	}
	p := m.path(to)
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.spared(p, now)
}

func (m *PathMemory) spared(p path, now time.Time) eno.Reason {
	if f := m.failed.get(p); f != nil && f.spared(now) {
		return f.why
	}
	if n := m.networks.get(p.network); n != nil && n.spared(now) && m.success(p.to, now) == nil {
		return n.why
	}
	return eno.NoReason
}

// try is Failed for an attempt that will go by the answer: if it tries ENO where there was a fault, others do not until it
// has found out.
func (m *PathMemory) try(p path, now time.Time) eno.Reason {
	if m == nil {
		return eno.NoReason
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	why := m.spared(p, now)
	if why != eno.NoReason {
		return why
	}
	if f := m.failed.get(p); f != nil {
		f.try(now)
	}
	if n := m.networks.get(p.network); n != nil && !n.spared(now) {
		n.try(now)
	}
	return eno.NoReason
}

// fail remembers that a path failed with ENO, and returns whether the network is now taken to be at fault.
func (m *PathMemory) fail(p path, why eno.Reason, now time.Time) (network bool) {
	if m == nil || m.path(p.to) != p { // it has changed on the way: whose fault it was is not known
		return false
	}
	first, limit := orDefault(m.TTL, DefaultPathTTL), orDefault(m.MaxTTL, DefaultMaxPathTTL)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failed.make(p, orDefault(m.Max, DefaultPaths)).fail(why, now, first, limit)
	n := m.networks.make(p.network, maxNetworks)
	if n.why != eno.NoReason && now.Before(n.until) || !n.suspect(p.to.Addr(), why, now, orDefault(m.Suspects, DefaultSuspects)) {
		return false
	}
	n.fail(why, now, first, limit)
	return true
}

// suspect notes that an address failed, and returns whether the network is to blame. If it just was, one more is enough.
func (n *network) suspect(a netip.Addr, why eno.Reason, now time.Time, enough int) bool {
	if n.suspected != why {
		n.suspected, n.suspects = why, nil
	}
	for a, at := range n.suspects {
		if now.Sub(at) >= suspicion {
			delete(n.suspects, a)
		}
	}
	if n.suspects == nil {
		n.suspects = make(map[netip.Addr]time.Time)
	}
	if _, known := n.suspects[a]; known || len(n.suspects) < enough {
		n.suspects[a] = now
	}
	return n.why == why && now.Sub(n.until) < suspicion || len(n.suspects) >= enough
}

// answered notes that a SYN with ENO was answered: nothing drops these.
func (m *PathMemory) answered(p path) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.failed.get(p); f != nil && f.why == eno.SYNENODropped {
		m.failed.delete(p)
	}
	n := m.networks.get(p.network)
	if n != nil && n.suspected == eno.SYNENODropped {
		n.suspected, n.suspects = eno.NoReason, nil
	}
	if n != nil && n.why == eno.SYNENODropped {
		n.fault = fault{}
	}
}

// succeed remembers that a destination has encryption, that the path is good, and that so is the network. It returns
// false if the destination should be ratcheted and there is no room for that.
func (m *PathMemory) succeed(p path, ratchet bool, now time.Time) bool {
	if m == nil {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failed.delete(p)
	m.networks.delete(p.network)
	s := m.ratcheted[p.to]
	if s == nil {
		s = m.encrypted.make(p.to, orDefault(m.Max, DefaultPaths))
	}
	*s = success{at: now}
	return !ratchet || m.ratchet(p.to, *s)
}

// ratchet keeps a success for good; false: there is no room.
func (m *PathMemory) ratchet(to netip.AddrPort, s success) bool {
	switch {
	case m.ratcheted[to] != nil:
		return true
	case len(m.ratcheted) >= orDefault(m.MaxRatcheted, DefaultRatcheted):
		return false
	case m.ratcheted == nil:
		m.ratcheted = make(map[netip.AddrPort]*success)
	}
	m.encrypted.delete(to)
	m.ratcheted[to] = &s
	return true
}

// MustEncrypt reports whether Ratchet wants encryption of a destination: it had it, under whatever policy.
func (m *PathMemory) MustEncrypt(to netip.AddrPort, now time.Time) bool {
	if m == nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	to = plainAddr(to)
	s := m.success(to, now)
	if s != nil {
		m.ratchet(to, *s)
	}
	return s != nil
}

// success returns what is known of the encryption a destination had, nil if nothing.
func (m *PathMemory) success(to netip.AddrPort, now time.Time) *success {
	if s := m.ratcheted[to]; s != nil {
		return s
	}
	s := m.encrypted.get(to)
	if s == nil || now.Sub(s.at) >= orDefault(m.SuccessTTL, DefaultSuccessTTL) {
		return nil
	}
	return s
}

// downgraded reports whether the destination, which has no encryption now, had it before, and whether this is the first
// time since then that this was asked.
func (m *PathMemory) downgraded(to netip.AddrPort, now time.Time) (downgraded, first bool) {
	if m == nil {
		return false, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.success(plainAddr(to), now)
	if s == nil {
		return false, false
	}
	first = !s.reported
	s.reported = true
	return true, first
}

// Len returns how many paths that failed and destinations that had encryption are known.
func (m *PathMemory) Len() int {
	if m == nil {
		return 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failed.len() + m.encrypted.len() + len(m.ratcheted)
}

func orDefault[T comparable](v, byDefault T) T {
	var zero T
	if v == zero {
		return byDefault
	}
	return v
}
