package tcpinc

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"innertun/tcpinc/eno"
)

// PathInfo is one entry of a PathMemory.
type PathInfo struct {
	Network string         // by which the fault was seen; "" of a destination that had encryption, and if there is one only
	To      netip.AddrPort // zero: the fault is the network's

	// What failed with ENO; NoReason: nothing.
	Fault    eno.Reason
	Failures int       // in a row
	Failed   time.Time // the last time
	Retry    time.Time // from when ENO is tried again

	// That the destination had encryption.
	Encrypted time.Time // the last time; zero: not known
	Ratcheted bool      // it must have it, under Ratchet

	// Whether Inner Space can be used; PathUnknown: it is another matter.
	Inner      PathInner
	InnerSeen  time.Time // the last time
	InnerUntil time.Time // how long it is remembered
}

// List returns what is known: networks first, then destinations by address. Suspected networks are none yet, and faults
// that nobody has met again for MaxTTL are forgotten.
func (m *PathMemory) List(now time.Time) []PathInfo {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old := now.Add(-orDefault(m.MaxTTL, DefaultMaxPathTTL))
	var out []PathInfo
	for name, n := range m.networks.all() {
		if n.why != eno.NoReason && n.until.After(old) {
			out = append(out, n.info(PathInfo{Network: name}))
		}
	}
	for p, f := range m.failed.all() {
		if !f.until.After(old) {
			m.failed.delete(p)
			continue
		}
		out = append(out, f.info(PathInfo{Network: p.network, To: p.to}))
	}
	for to := range m.encrypted.all() {
		if s := m.success(to, now); s != nil {
			out = append(out, PathInfo{To: to, Encrypted: s.at})
		}
	}
	for to, s := range m.ratcheted {
		out = append(out, PathInfo{To: to, Encrypted: s.at, Ratcheted: true})
	}
	for to := range m.upgraded.all() {
		if u := m.upgradedLocked(to, now); u != nil {
			out = append(out, PathInfo{To: to, Inner: PathUpgraded, InnerSeen: u.at, InnerUntil: u.at.Add(orDefault(m.SuccessTTL, DefaultSuccessTTL))})
		}
	}
	for p, f := range m.innerFaults.all() {
		if !f.until.After(old) {
			m.innerFaults.delete(p)
		} else if f.until.After(now) {
			out = append(out, PathInfo{Network: p.network, To: p.to, Inner: f.why, InnerSeen: f.at, InnerUntil: f.until})
		}
	}
	slices.SortFunc(out, func(a, b PathInfo) int {
		return cmp.Or(a.To.Compare(b.To), cmp.Compare(a.Fault, b.Fault), cmp.Compare(a.Inner, b.Inner), strings.Compare(a.Network, b.Network))
	})
	return out
}

func (f *fault) info(i PathInfo) PathInfo {
	i.Fault, i.Failures, i.Failed, i.Retry = f.why, f.count, f.at, f.until
	return i
}

// Flush forgets all faults, so that ENO is tried everywhere again, and returns how many there were. That destinations had
// encryption stays known.
func (m *PathMemory) Flush() int {
	if m == nil {
		return 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.failed.len() + m.innerFaults.len()
	for _, w := range m.networks.all() {
		if w.why != eno.NoReason {
			n++
		}
	}
	m.failed, m.networks = recent[path, fault]{}, recent[string, network]{}
	m.innerFaults = recent[path, innerFault]{}
	return n
}

// FlushDestination forgets everything about a destination, on every network, that it had encryption too, and a fault of
// the network that leads to it now. Port 0 means all ports of the address. It returns how many entries there were.
func (m *PathMemory) FlushDestination(to netip.AddrPort) int {
	if m == nil {
		return 0
	}
	here := m.path(to)
	meant := func(x netip.AddrPort) bool {
		return x.Addr() == here.to.Addr() && (x.Port() == here.to.Port() || here.to.Port() == 0)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for p := range m.failed.all() {
		if meant(p.to) {
			m.failed.delete(p)
			n++
		}
	}
	for x := range m.encrypted.all() {
		if meant(x) {
			m.encrypted.delete(x)
			n++
		}
	}
	for p := range m.innerFaults.all() {
		if meant(p.to) {
			m.innerFaults.delete(p)
			n++
		}
	}
	for x := range m.upgraded.all() {
		if meant(x) {
			m.upgraded.delete(x)
			n++
		}
	}
	for x := range m.ratcheted {
		if meant(x) {
			delete(m.ratcheted, x)
			n++
		}
	}
	if w := m.networks.get(here.network); w != nil {
		if w.why != eno.NoReason {
			n++
		}
		m.networks.delete(here.network)
	}
	return n
}
