package shim

import (
	"container/list"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// ErrTooMany is the error of opening one connection more than the table has room for.
var ErrTooMany = errors.New("too many TCP handshakes in progress: raise the bound on flows, or wait")

const (
	// halfOpenTime is how long the netstack goes on repeating a SYN-ACK, and a little more.
	halfOpenTime = 130 * time.Second
	// claimTime is how long an open connection may wait to be accepted.
	claimTime = 5 * time.Minute
	// lingerTime is how long segments of a closed connection are still treated as its own.
	lingerTime = 60 * time.Second
	// evictAge is what an honest handshake takes at the very most, when another wants its place.
	evictAge = 3 * time.Second

	// briefTime is how long an entry stays whose SYN the netstack did not answer.
	briefTime = time.Second
	maxBrief  = 256

	sweepInterval = 10 * time.Second
)

// table holds the connections whose handshakes are in progress, bounded, and those with a Guard.
type table struct {
	clock       tcpip.Clock
	max         int
	maxUpgraded int

	// filter counts the entries by a hash of their ports: a zero answers nearly every segment without a lock.
	filter [4096]atomic.Int32
	size   atomic.Int32 // entries
	guards atomic.Int32
	// signers counts the Guards that mark RSTs.
	signers atomic.Int32

	// unclaimed is told of an open connection that nobody has accepted in time.
	unclaimed func(Flow)

	mu       sync.RWMutex
	entries  map[Flow]*Entry
	guarded  map[Flow]*Entry
	halfOpen list.List // passive entries that still await the third segment, oldest first
	upgraded list.List // a slot for each of them whose SYN had payload, oldest first
	brief    list.List // entries that go with their SYN-ACK, oldest first; beyond max
	sweeper  tcpip.Timer
	closed   bool

	listeners atomic.Pointer[map[netip.AddrPort]func(Flow) Handshake]
}

// slot is the place of a half-open entry whose SYN had payload. One that does not come to be open keeps it until it would have
// had its time: what its SYN has cost was spent, and whoever sends it can have it refused, or take it back with a RST.
type slot struct {
	of    *Entry // nil: it is no more
	since tcpip.MonotonicTime
}

func newTable(clock tcpip.Clock, limit, upgraded int) *table {
	if upgraded == 0 {
		upgraded = limit
	}
	t := &table{clock: clock, max: limit, maxUpgraded: upgraded, entries: make(map[Flow]*Entry), guarded: make(map[Flow]*Entry)}
	t.listeners.Store(&map[netip.AddrPort]func(Flow) Handshake{})
	return t
}

func bucket(local, remote uint16) uint32 {
	return (uint32(local)<<16 | uint32(remote)) * 0x9e3779b1 >> 20
}

func (t *table) mayHave(local, remote uint16) bool {
	return t.filter[bucket(local, remote)].Load() != 0
}

func (t *table) setFiltered(e *Entry, on bool) {
	if e.filtered == on {
		return
	}
	e.filtered = on
	d := int32(1)
	if !on {
		d = -1
	}
	t.filter[bucket(e.flow.Local.Port(), e.flow.Remote.Port())].Add(d)
}

func (t *table) get(f Flow) *Entry {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.entries[f]
}

func (t *table) getGuarded(f Flow) *Entry {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.guarded[f]
}

// add puts in an entry of the own side's, replacing an old one of the same name.
func (t *table) add(e *Entry) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.entries[e.flow]; old != nil {
		t.removeLocked(old)
	}
	if len(t.entries) >= t.max && !t.evictLocked() {
		return ErrTooMany
	}
	t.insertLocked(e)
	return nil
}

// full tells whether an incoming SYN would find no room.
func (t *table) full() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.entries) >= t.max && !t.evictableLocked()
}

// crowded tells whether an incoming SYN with payload would find no room among its like.
func (t *table) crowded() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.upgraded.Len() >= t.maxUpgraded && !t.slotRested()
}

// addPassive puts in an entry for an incoming SYN; when there is one already, it returns that. nil: no room.
func (t *table) addPassive(e *Entry, payload bool) *Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.entries[e.flow]; old != nil {
		return old
	}
	if t.closed || len(t.entries) >= t.max && !t.evictLocked() {
		return nil
	}
	e.expires = e.since.Add(halfOpenTime)
	t.insertLocked(e)
	e.element = t.halfOpen.PushBack(e)
	if payload {
		if t.upgraded.Len() >= t.maxUpgraded && t.slotRested() {
			if old := t.upgraded.Remove(t.upgraded.Front()).(*slot).of; old != nil {
				old.ofUpgraded = nil
				t.removeLocked(old)
			}
		}
		e.ofUpgraded = t.upgraded.PushBack(&slot{e, e.since})
	}
	return e
}

// addBrief puts in an entry for the time between a SYN and the SYN-ACK, which the netstack needs without delay. There are
// few of these: the oldest makes room.
func (t *table) addBrief(e *Entry) *Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.entries[e.flow]; old != nil {
		return old
	}
	if t.closed {
		return nil
	}
	if t.brief.Len() >= maxBrief {
		t.removeLocked(t.brief.Front().Value.(*Entry))
	}
	e.expires = e.since.Add(briefTime)
	t.insertLocked(e)
	e.element = t.brief.PushBack(e)
	return e
}

func (t *table) insertLocked(e *Entry) {
	if t.closed {
		return
	}
	t.entries[e.flow] = e
	t.size.Add(1)
	t.setFiltered(e, true)
	if e.active {
		t.guardLocked(e)
	}
	if t.sweeper == nil {
		t.sweeper = t.clock.AfterFunc(sweepInterval, t.sweep)
	}
}

// evictLocked makes room at the cost of the oldest half-open entry, if that has had its time.
func (t *table) evictLocked() bool {
	if !t.evictableLocked() {
		return false
	}
	t.removeLocked(t.halfOpen.Front().Value.(*Entry))
	return true
}

func (t *table) evictableLocked() bool {
	el := t.halfOpen.Front()
	return el != nil && t.rested(el.Value.(*Entry).since)
}

func (t *table) slotRested() bool {
	el := t.upgraded.Front()
	return el != nil && t.rested(el.Value.(*slot).since)
}

// rested tells whether what has come then has had its time.
func (t *table) rested(since tcpip.MonotonicTime) bool {
	return t.clock.NowMonotonic().Sub(since) >= evictAge
}

// open marks a passive entry whose third segment has come: it only waits to be accepted.
func (t *table) open(e *Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.entries[e.flow] != e {
		return
	}
	if e.early.closed {
		t.removeLocked(e)
		return
	}
	t.guardLocked(e)
	if e.early.claimed {
		t.retireLocked(e)
		return
	}
	t.setFiltered(e, false)
	t.unlistLocked(e)
	e.expires = t.clock.NowMonotonic().Add(claimTime)
}

// keep makes a passive entry one that is not evicted: its connection is open although the third segment is still to come.
func (t *table) keep(e *Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unlistLocked(e)
	if t.entries[e.flow] == e {
		t.guardLocked(e)
	}
}

// guardLocked lets the Guard of an entry judge from now on. That of a passive one waits until its connection is open: before,
// a SYN with a forged source would take the place of the Guard of an open connection.
func (t *table) guardLocked(e *Entry) {
	old := t.guarded[e.flow]
	if e.guard == nil || old == e {
		return
	}
	if old != nil {
		t.unguardLocked(old)
	}
	t.guarded[e.flow] = e
	t.guards.Add(1)
	if e.signer != nil {
		t.signers.Add(1)
	}
}

// retire takes out an entry whose handshake is over; its Guard stays.
func (t *table) retire(e *Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.retireLocked(e)
}

func (t *table) retireLocked(e *Entry) {
	t.setFiltered(e, false)
	t.unlistLocked(e)
	if t.entries[e.flow] == e {
		delete(t.entries, e.flow)
		t.size.Add(-1)
	}
}

func (t *table) unlistLocked(e *Entry) {
	if e.element == nil {
		return
	}
	if e.brief {
		t.brief.Remove(e.element)
	} else {
		t.halfOpen.Remove(e.element)
	}
	e.element = nil
	if e.ofUpgraded != nil {
		t.upgraded.Remove(e.ofUpgraded)
		e.ofUpgraded = nil
	}
}

// remove takes out all of an entry.
func (t *table) remove(e *Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.removeLocked(e)
}

func (t *table) removeLocked(e *Entry) {
	if e.ofUpgraded != nil {
		e.ofUpgraded.Value.(*slot).of = nil
		e.ofUpgraded = nil
	}
	t.retireLocked(e)
	t.unguardLocked(e)
	if !e.isGone() {
		close(e.gone)
	}
}

func (t *table) unguardLocked(e *Entry) {
	if t.guarded[e.flow] == e {
		delete(t.guarded, e.flow)
		t.guards.Add(-1)
		if e.signer != nil {
			t.signers.Add(-1)
		}
		e.dropHeld()
	}
}

// release is for the end of the connection: the Guard goes, and the rest when the last segments have passed. If it was
// opened early and the third segment is still to come, the peer may not have the SYN-ACK yet: it may ask for it again.
func (t *table) release(e *Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unguardLocked(e)
	if e.restored {
		t.retireLocked(e)
		return
	}
	if e.early.claimed && t.entries[e.flow] == e {
		e.early.closed = true
		e.expires = t.clock.NowMonotonic().Add(lingerTime)
		return
	}
	if t.entries[e.flow] == e && e.expires == (tcpip.MonotonicTime{}) {
		e.expires = t.clock.NowMonotonic().Add(lingerTime)
	}
}

// closedEarly tells whether the connection of an entry was closed before the third segment has come.
func (t *table) closedEarly(e *Entry) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return e.early.closed
}

// claim hands a passive entry to who accepts its connection.
func (t *table) claim(f Flow) *Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[f]
	if e == nil || e.active {
		return nil
	}
	if e.awaitsThird() {
		e.early.claimed = true
		return e
	}
	t.retireLocked(e)
	return e
}

func (t *table) sweep() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock.NowMonotonic()
	for _, e := range t.entries {
		if e.expires == (tcpip.MonotonicTime{}) || !e.expires.Before(now) {
			continue
		}
		open := !e.active && e.element == nil && !e.early.closed
		t.removeLocked(e)
		if open {
			t.unclaimed(e.flow)
		}
	}
	t.sweeper = nil
	if len(t.entries) > 0 && !t.closed {
		t.sweeper = t.clock.AfterFunc(sweepInterval, t.sweep)
	}
}

func (t *table) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	if t.sweeper != nil {
		t.sweeper.Stop()
	}
	for _, e := range t.entries {
		t.removeLocked(e)
	}
	for _, e := range t.guarded {
		t.removeLocked(e)
	}
}

func (t *table) count() (all, halfOpen int) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.entries), t.halfOpen.Len()
}

// listen sets who answers at an address, nil: nobody any more.
func (t *table) listen(at netip.AddrPort, newHandshake func(Flow) Handshake) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := make(map[netip.AddrPort]func(Flow) Handshake)
	for k, v := range *t.listeners.Load() {
		next[k] = v
	}
	if newHandshake == nil {
		delete(next, at)
	} else {
		next[at] = newHandshake
	}
	t.listeners.Store(&next)
}

// listener finds who answers at an address.
func (t *table) listener(at netip.AddrPort) func(Flow) Handshake {
	m := *t.listeners.Load()
	if len(m) == 0 {
		return nil
	}
	if h := m[at]; h != nil {
		return h
	}
	unspecified := netip.IPv6Unspecified()
	if at.Addr().Is4() {
		unspecified = netip.IPv4Unspecified()
	}
	return m[netip.AddrPortFrom(unspecified, at.Port())]
}
