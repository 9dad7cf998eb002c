package tcpinc

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"innertun/tcpinc/eno"
)

const (
	// DefaultPathTTL is how long a path that failed with ENO is spared it: long enough that a user does not wait again and
	// again, short enough that a passing fault does not turn encryption off for a day.
	DefaultPathTTL = 10 * time.Minute
	// DefaultSuccessTTL is how long it is known that a destination had encryption, to notice when it has none any more.
	DefaultSuccessTTL = 24 * time.Hour
	// DefaultPaths bounds the destinations known, about 150 octets each.
	DefaultPaths = 4096
)

// PathMemory knows, per destination address and port, which paths have failed with ENO and which destinations had
// encryption. It forgets after a time, and the destination longest unused when full. Its zero value is ready to use, nil
// remembers nothing, and it is safe for concurrent use. Port by port, as what fails is as often the one server behind an
// address as the path to it.
type PathMemory struct {
	Max        int           // destinations; 0: DefaultPaths
	TTL        time.Duration // 0: DefaultPathTTL
	SuccessTTL time.Duration // 0: DefaultSuccessTTL

	mu    sync.Mutex
	known map[netip.AddrPort]*list.Element
	used  list.List // of *path, most recently used first
}

type path struct {
	to        netip.AddrPort
	failed    eno.Reason
	failedAt  time.Time
	encrypted time.Time // zero: never
	reported  bool      // its downgrade was logged
}

// Failed returns why the path failed with ENO, NoReason if that is not known or too long ago.
func (m *PathMemory) Failed(to netip.AddrPort, now time.Time) eno.Reason {
	p, unlock := m.find(to)
	defer unlock()
	if p == nil || p.failed == eno.NoReason || now.Sub(p.failedAt) >= orDefault(m.TTL, DefaultPathTTL) {
		return eno.NoReason
	}
	return p.failed
}

// Fail remembers that the path failed with ENO.
func (m *PathMemory) Fail(to netip.AddrPort, why eno.Reason, now time.Time) {
	p, unlock := m.make(to)
	defer unlock()
	if p != nil {
		p.failed, p.failedAt = why, now
	}
}

// Succeed remembers that the destination had encryption, and that the path is good.
func (m *PathMemory) Succeed(to netip.AddrPort, now time.Time) {
	p, unlock := m.make(to)
	defer unlock()
	if p != nil {
		*p = path{to: p.to, encrypted: now}
	}
}

// Downgraded reports whether the destination, which has no encryption now, had it before, and whether this is the first
// time since then that this was asked.
func (m *PathMemory) Downgraded(to netip.AddrPort, now time.Time) (downgraded, first bool) {
	p, unlock := m.find(to)
	defer unlock()
	if p == nil || p.encrypted.IsZero() || now.Sub(p.encrypted) >= orDefault(m.SuccessTTL, DefaultSuccessTTL) {
		return false, false
	}
	first = !p.reported
	p.reported = true
	return true, first
}

// Len returns how many destinations are known.
func (m *PathMemory) Len() int {
	if m == nil {
		return 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.known)
}

// find returns what is known of a destination, nil if nothing. The caller must unlock.
func (m *PathMemory) find(to netip.AddrPort) (p *path, unlock func()) {
	if m == nil {
		return nil, func() {}
	}
	m.mu.Lock()
	if e, ok := m.known[to]; ok {
		m.used.MoveToFront(e)
		p = e.Value.(*path)
	}
	return p, m.mu.Unlock
}

func (m *PathMemory) make(to netip.AddrPort) (p *path, unlock func()) {
	if p, unlock = m.find(to); p != nil || m == nil {
		return p, unlock
	}
	if m.known == nil {
		m.known = make(map[netip.AddrPort]*list.Element)
	}
	if len(m.known) >= orDefault(m.Max, DefaultPaths) {
		oldest := m.used.Back()
		delete(m.known, m.used.Remove(oldest).(*path).to)
	}
	p = &path{to: to}
	m.known[to] = m.used.PushFront(p)
	return p, unlock
}

func orDefault[T comparable](v, byDefault T) T {
	var zero T
	if v == zero {
		return byDefault
	}
	return v
}
