package tcpcrypt

import (
	"fmt"
	"sync"
	"time"
)

// Defaults of Liveness.
const (
	DefaultIdle   = 5 * time.Minute
	DefaultAnswer = 5 * time.Minute
)

// Liveness says when a silent peer is asked whether it is alive, and how long it has to answer. It is asked by a rekey,
// whose answer nobody else can give, in place of TCP's keep-alive. RFC 8548, Sections 3.9 and 8.2.
//
// A host hears only what it reads, so silence counts only while somebody reads. For the same reason a host on which nobody
// reads cannot see that it is asked: it says in time, by an empty frame, that it is there. Then, and once either stream
// has ended, TCP's keep-alive stands in on this side, if the transport has a method SetKeepAlive(bool) error.
type Liveness struct {
	// Idle is how long nothing may come before the peer is asked; up to a quarter more may pass. 0: DefaultIdle;
	// negative: it is never asked, and TCP's keep-alive is left as it is.
	Idle time.Duration
	// Answer is how long the peer may be silent after that; a peer that sends data, but no answer, has four times as
	// long. Then the connection ends in ErrPeerSilent. 0: DefaultAnswer.
	Answer time.Duration
}

func (l Liveness) filled() (Liveness, error) {
	if l.Answer < 0 {
		return l, fmt.Errorf("%w: Liveness.Answer %v", ErrConfig, l.Answer)
	}
	if l.Idle == 0 {
		l.Idle = DefaultIdle
	}
	if l.Answer == 0 {
		l.Answer = DefaultAnswer
	}
	return l, nil
}

const (
	looks    = 4 // how many times in a period it is looked whether it has passed
	tolerate = 4 // times Answer: how long data may hold up an answer
)

// keepAliver is the optional part of a Transport that switches TCP's keep-alive.
type keepAliver interface{ SetKeepAlive(on bool) error }

// watch looks at the connection now and then, by a timer: there is no goroutine while nothing happens, and nothing is
// noted down for it while data flows.
type watch struct {
	mu   sync.Mutex // guards stop and over
	stop func() bool
	over bool

	// Of the looks alone, which never overlap.
	tcp    bool      // TCP's keep-alive is on
	frames uint64    // received, at the last look
	sent   uint64    // frames sent
	reads  uint64    // of in.reads
	heard  time.Time // when frames last was other than before, or silence meant nothing
	spoke  time.Time // the same of sent
	asked  time.Time // zero: the peer is not being asked
	answer uint32    // the generation that answers
}

// startWatch begins to look, once keys are ready.
func (c *Conn) startWatch() {
	now := c.cfg.Clock.Now()
	w := &c.watch
	w.heard, w.spoke, w.tcp = now, now, true
	c.born.at.Store(now.UnixNano())
	if c.cfg.Liveness.Idle > 0 {
		c.keepAlive(false)
	}
	c.lookAgain(now)
}

// lookAgain sets the timer.
func (c *Conn) lookAgain(now time.Time) {
	wait := time.Duration(-1)
	sooner := func(d time.Duration) {
		if wait < 0 || d < wait {
			wait = d
		}
	}
	w := &c.watch
	if l := c.cfg.Liveness; l.Idle > 0 {
		sooner(l.Idle / looks)
		if !w.asked.IsZero() {
			sooner(l.Answer / looks)
		}
	}
	if limit := c.cfg.KeyLimits.Time; limit > 0 {
		if left := limit - c.keyAge(now); left > 0 {
			sooner(left)
		} else {
			sooner(limit / looks)
		}
	}
	if wait < 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		w.stop = c.cfg.Clock.AfterFunc(max(wait, time.Millisecond), c.look)
	}
}

// end stops the timer for good.
func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	if w.stop != nil {
		w.stop()
	}
}

// look is what the timer calls. It must not wait for anything.
func (c *Conn) look() {
	if c.ended.Load() != nil || c.out.finished.Load() && c.in.finished.Load() {
		return
	}
	now := c.cfg.Clock.Now()
	c.lookAtKey(now)
	if c.cfg.Liveness.Idle > 0 {
		if err := c.lookAtPeer(now); err != nil {
			c.fail(err)
			return
		}
	}
	c.lookAgain(now)
}

// lookAtKey retires keys that have served for too long. Both directions' are of the same age: each is the answer to
// the other.
func (c *Conn) lookAtKey(now time.Time) {
	limit, after := c.cfg.KeyLimits.Time, c.out.counters.generation.Load()
	if limit > 0 && c.keyAge(now) >= limit && c.dataSoFar() != c.born.data.Load() {
		c.rekeySoon(after)
	}
}

// rekeySoon is wantRekey, but with a Write under way it is left to that, or to the next look.
func (c *Conn) rekeySoon(after uint32) {
	if c.out.busy.Load() == 0 {
		c.wantRekey(after)
	} else {
		c.out.aim(after)
	}
}

func (c *Conn) keyAge(now time.Time) time.Duration {
	return time.Duration(now.UnixNano() - c.born.at.Load())
}

func (c *Conn) dataSoFar() uint64 {
	return c.in.counters.octetsOfData.Load() + c.out.counters.octetsOfData.Load()
}

func (c *Conn) lookAtPeer(now time.Time) error {
	w := &c.watch
	heard := move(&w.frames, c.in.counters.frames.Load())
	if move(&w.sent, c.out.counters.frames.Load()) {
		w.spoke = now
	}
	reads := c.in.reads.Load()
	reading := move(&w.reads, reads) || reads%2 == 1
	open := !c.in.finished.Load() && !c.out.finished.Load()

	c.keepAlive(!open || !reading)
	if heard || !open || !reading {
		w.heard = now
	}
	switch {
	case !open:
		w.asked = time.Time{}
	case !reading:
		w.asked = time.Time{}
		if now.Sub(w.spoke) >= c.cfg.Liveness.Idle/2 && c.out.busy.Load() == 0 {
			c.out.speak.Store(true)
			c.sendLater()
		}
	case w.asked.IsZero():
		if now.Sub(w.heard) >= c.cfg.Liveness.Idle {
			c.ask(now)
		}
	default:
		return c.await(now)
	}
	return nil
}

// move sets *at and reports whether it was another before.
func move(at *uint64, to uint64) bool {
	moved := *at != to
	*at = to
	return moved
}

// ask asks the peer, unless a rekey is unanswered anyway, whose answer will do.
func (c *Conn) ask(now time.Time) {
	c.watch.asked = now
	c.watch.answer = c.in.counters.generation.Load() + 1
	if after := c.out.counters.generation.Load(); c.unanswered() <= 0 {
		c.rekeySoon(after)
	}
}

// await looks whether the peer has answered.
func (c *Conn) await(now time.Time) error {
	w, limit := &c.watch, c.cfg.Liveness.Answer
	switch {
	case c.in.counters.generation.Load() >= w.answer:
		w.asked, w.heard = time.Time{}, now
	case c.out.told.Load() < w.answer:
		c.ask(now) // it has not left: TCP has no room, and watches over what it has
	case now.Sub(w.asked) >= limit && now.Sub(w.heard) >= limit, now.Sub(w.asked) >= tolerate*limit:
		return fmt.Errorf("%w: nothing for %v, no answer for %v", ErrPeerSilent,
			now.Sub(w.heard).Round(time.Second), now.Sub(w.asked).Round(time.Second))
	}
	return nil
}

// keepAlive switches TCP's keep-alive, if it is not so already.
func (c *Conn) keepAlive(on bool) {
	k, ok := c.lower.(keepAliver)
	if ok && c.watch.tcp != on && k.SetKeepAlive(on) == nil {
		c.watch.tcp = on
	}
}
