package tcpinc

import (
	"fmt"
	"net/netip"
	"time"
)

// PathInner is what is known of a destination, or the path to it, with regard to Inner Space.
type PathInner uint8

const (
	PathUnknown     PathInner = iota
	PathUpgraded              // the destination speaks Inner Space
	PathLegacy                // it answers upgraded SYNs as ordinary ones
	PathEatsSYNData           // upgraded SYNs go unanswered, or are reset
)

func (p PathInner) String() string {
	switch p {
	case PathUnknown:
		return ""
	case PathUpgraded:
		return "upgraded"
	case PathLegacy:
		return "legacy"
	case PathEatsSYNData:
		return "eats-syn-data"
	}
	return fmt.Sprintf("path(%d)", uint8(p))
}

// upgraded is a destination that has spoken Inner Space.
type upgraded struct {
	at       time.Time
	reported bool // that it does no more was logged
}

// innerFault is why no upgraded SYN is sent on a path.
type innerFault struct {
	why   PathInner
	count int
	at    time.Time
	until time.Time
}

// innerSpace returns what is known for the next connection: a path that does not carry upgraded SYNs is spared them for a
// time that grows as for those that fail with ENO, then the destination is what it was before.
func (m *PathMemory) innerSpace(p path, now time.Time) PathInner {
	if m == nil {
		return PathUnknown
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.innerFaults.get(p); f != nil && now.Before(f.until) {
		return f.why
	}
	if m.upgradedLocked(p.to, now) != nil {
		return PathUpgraded
	}
	return PathUnknown
}

func (m *PathMemory) upgradedLocked(to netip.AddrPort, now time.Time) *upgraded {
	u := m.upgraded.get(plainAddr(to))
	if u != nil && now.Sub(u.at) >= orDefault(m.SuccessTTL, DefaultSuccessTTL) {
		m.upgraded.delete(plainAddr(to))
		return nil
	}
	return u
}

// innerSucceeded notes that a destination speaks Inner Space.
func (m *PathMemory) innerSucceeded(p path, now time.Time) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	*m.upgraded.make(p.to, orDefault(m.Max, DefaultPaths)) = upgraded{at: now}
}

// innerWorked notes that a path has carried a connection with an upgraded SYN.
func (m *PathMemory) innerWorked(p path) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.innerFaults.delete(p)
}

// innerFailed notes that an upgraded SYN came to nothing where an ordinary one did. Those that were under way together count once.
func (m *PathMemory) innerFailed(p path, why PathInner, now time.Time) {
	if m == nil || m.path(p.to) != p {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.innerFaults.make(p, orDefault(m.Max, DefaultPaths))
	limit := orDefault(m.MaxTTL, DefaultMaxPathTTL)
	switch {
	case f.why != PathUnknown && now.Before(f.until):
		return
	case now.Sub(f.until) >= limit:
		f.count = 0
	}
	f.count++
	f.why, f.at, f.until = why, now, now.Add(growing(orDefault(m.TTL, DefaultPathTTL), limit, f.count))
}

// innerMissing reports whether a destination that a connection without Inner Space has reached is known to speak it, and
// whether that has not been reported since it last did.
func (m *PathMemory) innerMissing(to netip.AddrPort, now time.Time) (missing, first bool) {
	if m == nil {
		return false, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	u := m.upgradedLocked(to, now)
	if u == nil {
		return false, false
	}
	first = !u.reported
	u.reported = true
	return true, first
}
