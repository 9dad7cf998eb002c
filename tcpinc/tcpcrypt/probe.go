package tcpcrypt

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// MaxProbe bounds how long a Probe waits.
const MaxProbe = 10 * time.Second

// maxAhead bounds what a probe reads for an application that does not read, in octets. The peer's answer stands behind all
// that it had sent before.
const maxAhead = 4 << 20

// ErrProbePending says that a Probe is under way already.
var ErrProbePending = errors.New("tcpcrypt: the peer is being asked already")

// Probe asks the peer whether it is there, by a rekey that nobody else can answer: when something from outside, a RST,
// says that the connection is over. RFC 8548, Section 3.9.
type Probe struct {
	// Beyond is how many octets of the peer's stream may have been sent before the question arose, Init messages
	// and frame headers included. A frame that ends beyond them is an answer as good as one to the rekey.
	Beyond uint64
	// Limit is how long the peer has to answer, at most MaxProbe. The question may stand behind much that was written
	// before: while a method Progress() uint64 of the transport shows that this goes on to leave, Limit counts anew, up to
	// MaxProbe in all.
	Limit time.Duration
	// Done is told the result, once, in a goroutine of its own; not when the connection ends before, nor when Close is
	// called. It is false, too, when either stream ends meanwhile, as rekeys end with them.
	Done func(alive bool)
}

// progresser is the optional part of a Transport that returns a number which grows as octets leave for the first time.
type progresser interface{ Progress() uint64 }

// probing is the probe under way.
type probing struct {
	on      atomic.Bool
	reading atomic.Bool // readAhead runs

	mu     sync.Mutex // guards the rest, and all changes of on
	probe  Probe
	answer uint32 // the generation that answers
	began  time.Time
	since  time.Time // Limit counts from here
	left   uint64    // the transport's progress, at the last look
	stop   func() bool
}

// Probe begins to ask. A rekey that is unanswered serves, so that there is no second one (RFC 8548, Section 3.8).
//
// Answers are noticed by reading. Where nobody reads, the probe does: up to 4 MiB are kept for the application.
//
// Errors: ErrProbePending; ErrNoSession; ErrWriteClosed or io.EOF when one of the streams has ended; what ended the connection.
func (c *Conn) Probe(p Probe) error {
	b := &c.probe
	b.mu.Lock() // before the look: who ends the connection cancels after it
	defer b.mu.Unlock()
	switch e := c.ended.Load(); {
	case e != nil:
		return e.err
	case !c.ready.Load():
		return ErrNoSession
	case c.out.finished.Load():
		return ErrWriteClosed
	case c.in.finished.Load():
		return io.EOF
	}
	if b.on.Load() {
		return ErrProbePending
	}
	now := c.cfg.Clock.Now()
	b.probe, b.began, b.since = p, now, now
	b.answer = c.in.counters.generation.Load() + 1
	b.left = c.progress()
	b.on.Store(true)
	if after := c.out.counters.generation.Load(); c.unanswered() <= 0 {
		c.wantRekey(after)
	}
	c.probeAgain()
	return nil
}

// Open reports whether frames go both ways: keys are ready, and neither stream has ended.
func (c *Conn) Open() bool { return c.phase() == PhaseOpen }

// ReceivedOctets is how much of the peer's stream has been authenticated, in octets, Init messages and frame headers
// included.
func (c *Conn) ReceivedOctets() uint64 { return c.in.counters.octets.Load() }

// probeLooks is how many times within Limit it is looked how things stand.
const probeLooks = 8

// probeAgain sets the timer, and sees to it that somebody reads. The caller holds probe.mu.
func (c *Conn) probeAgain() {
	b := &c.probe
	b.stop = c.cfg.Clock.AfterFunc(max(b.probe.Limit/probeLooks, time.Millisecond), c.lookAtProbe)
	go c.readAhead()
}

func (c *Conn) lookAtProbe() {
	b := &c.probe
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.on.Load() {
		return
	}
	now := c.cfg.Clock.Now()
	if left := c.progress(); left > b.left {
		b.since, b.left = now, left
	}
	over := now.Sub(b.since) >= b.probe.Limit || now.Sub(b.began) >= MaxProbe
	if over || c.out.finished.Load() || c.in.finished.Load() {
		c.endProbe(false)
		return
	}
	c.probeAgain()
}

func (c *Conn) progress() uint64 {
	if p, ok := c.lower.(progresser); ok {
		return p.Progress()
	}
	return 0
}

// heard is called for each frame that was opened while a probe is under way.
func (c *Conn) heard() {
	b := &c.probe
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.on.Load() && (c.in.counters.octets.Load() > b.probe.Beyond || c.in.counters.generation.Load() >= b.answer) {
		c.endProbe(true)
	}
}

// endProbe tells the result. The caller holds probe.mu.
func (c *Conn) endProbe(alive bool) {
	b := &c.probe
	b.on.Store(false)
	b.stop()
	done := b.probe.Done
	b.probe.Done = nil
	go done(alive)
}

// cancel ends a probe without a result.
func (b *probing) cancel() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.on.Load() {
		b.on.Store(false)
		b.stop()
		b.probe.Done = nil
	}
}
