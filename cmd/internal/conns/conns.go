// Package conns keeps the connections of the daemon as `innertun conns` and `innertun status` show them.
package conns

import (
	"encoding/hex"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// How long, and how many, connections are kept once they have ended.
const (
	KeepFor = 60 * time.Second
	KeepMax = 1024
)

// State is how far a connection has come.
type State string

const (
	Opening State = "opening"
	Open    State = "open"
	Closing State = "closing"
	Closed  State = "closed"
	Failed  State = "failed"
)

// Role of this host in a connection.
type Role string

const (
	Client Role = "client"
	Server Role = "server"
)

// Established is what the opening of a connection came to.
type Established struct {
	Local, Remote  netip.AddrPort
	Encrypted      bool
	TEP, Cipher    string // the configuration's names; "" if plain
	SessionID      []byte
	Resumed        bool
	InnerSpace     bool
	EarlyData      bool
	AppAware       bool
	Peer           string // proven identity
	FallbackReason string // why it is plain
	Downgraded     bool   // it is plain although the destination had encryption before
	Handshake      time.Duration
}

// Registry holds all connections that are there, and the last that were. It may be used from any goroutine.
type Registry struct {
	now func() time.Time

	mu     sync.Mutex
	lastID uint64
	active map[uint64]*Conn
	ended  []*Conn // in the order they ended, at most KeepMax
	totals Totals
}

// New returns an empty registry. The clock may be nil for the real one.
func New(now func() time.Time) *Registry {
	if now == nil {
		now = time.Now
	}
	return &Registry{now: now, active: map[uint64]*Conn{}, totals: newTotals()}
}

// Conn is one connection. Its methods may be called from any goroutine.
type Conn struct {
	// BytesIn and BytesOut count application octets from and to the wire. Relays add to them directly.
	BytesIn, BytesOut atomic.Uint64

	reg  *Registry
	id   uint64
	role Role
	born time.Time

	// Guarded by reg.mu.
	state State
	est   Established
	err   string
	ended time.Time
	live  func() Live
	last  Live // when it ended
}

// Live is what changes while a connection is there.
type Live struct {
	RTT    time.Duration // smoothed; 0: not known
	Rekeys uint64        // key generations beyond the first

	Options Options // of Inner Space
	PeerMTU int     // as the peer tells, in octets; 0: it has not
	Resets  uint64  // resets that the peer has shown to be none of its own
	Peer    string  // proven identity, which may be known some time after the opening only
}

// Options counts those of a connection with Inner Space.
type Options struct {
	Sent, Received  uint64
	Unknown, Missed uint64 // of those received: of no known kind, and dropped as nobody took them
}

// Add registers a connection that is about to be opened. Whoever adds it calls End or Fail in the end.
func (r *Registry) Add(role Role, local, remote netip.AddrPort) *Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastID++
	c := &Conn{reg: r, id: r.lastID, role: role, born: r.now(), state: Opening,
		est: Established{Local: local, Remote: remote}}
	r.active[c.id] = c
	return c
}

// ID is the connection's number. Numbers ascend.
func (c *Conn) ID() uint64 { return c.id }

// SetLive hands in how to learn what changes. It is called while the connection is there, and by a Snapshot that began then
// perhaps a moment later.
func (c *Conn) SetLive(live func() Live) {
	c.reg.mu.Lock()
	defer c.reg.mu.Unlock()
	c.live = live
}

// Established notes that octets can flow, and counts the outcome once. An invalid address in e leaves what Add said.
func (c *Conn) Established(e Established) {
	c.reg.mu.Lock()
	defer c.reg.mu.Unlock()
	if c.state != Opening {
		return
	}
	if !e.Local.IsValid() {
		e.Local = c.est.Local
	}
	if !e.Remote.IsValid() {
		e.Remote = c.est.Remote
	}
	c.est, c.state = e, Open
	if e.Encrypted {
		c.reg.totals.Encrypted++
	} else {
		c.reg.totals.count(c.reg.totals.Plain, e.FallbackReason)
	}
}

// Closing notes that one direction has ended.
func (c *Conn) Closing() {
	c.reg.mu.Lock()
	defer c.reg.mu.Unlock()
	if c.state == Open {
		c.state = Closing
	}
}

// Downgraded notes that the connection is refused because the destination had encryption before and has none now.
func (c *Conn) Downgraded() {
	c.reg.mu.Lock()
	defer c.reg.mu.Unlock()
	c.est.Downgraded = true
}

// End notes a clean end of both directions.
func (c *Conn) End() { c.end(Closed, "", nil, "") }

// Fail notes that the connection failed, in its opening or later. The kind is one word for `status`, such as
// "refused", "unreachable", "timeout", "require", "reset" or "integrity"; reason is the fallback reason, if encryption
// was required and did not come about, else "".
func (c *Conn) Fail(kind, reason string, err error) { c.end(Failed, kind, err, reason) }

func (c *Conn) end(state State, kind string, err error, reason string) {
	// Outside the lock: the callback may take locks of its own.
	c.reg.mu.Lock()
	live := c.live
	c.reg.mu.Unlock()
	var last Live
	if live != nil {
		last = live()
	}
	r := c.reg
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.state == Closed || c.state == Failed {
		return
	}
	c.state, c.ended, c.last, c.live = state, r.now(), last, nil
	if err != nil {
		c.err = err.Error()
	}
	if reason != "" {
		c.est.FallbackReason = reason
	}
	if state == Failed {
		r.totals.count(r.totals.Failed, kind)
	}
	delete(r.active, c.id)
	r.ended = append(r.ended, c)
	r.expire()
}

// expire drops ended connections that are too old or too many. The lock is held.
func (r *Registry) expire() {
	old := r.now().Add(-KeepFor)
	n := max(0, len(r.ended)-KeepMax)
	for n < len(r.ended) && r.ended[n].ended.Before(old) {
		n++
	}
	clear(r.ended[:n]) // or the array keeps them
	r.ended = r.ended[n:]
}

// Active is how many connections are there.
func (r *Registry) Active() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.active)
}

func hexOf(b []byte) string { return hex.EncodeToString(b) }
