package tcpinc

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"innertun/tcpinc/tcpcrypt"
	"innertun/tcpinc/tcpcrypt/crypttest"
)

// stallingClock is that of a process that cannot run when its first timer is due.
type stallingClock struct {
	stall time.Duration
	timer int
}

func (c *stallingClock) Now() time.Time { return time.Now() }

func (c *stallingClock) AfterFunc(d time.Duration, f func()) func() bool {
	if c.timer++; c.timer == 1 {
		d += c.stall
	}
	return time.AfterFunc(d, f).Stop
}

// A process that could not run gives the peer's answer, which may be there already, the time that was missed.
func TestStalled(t *testing.T) {
	for _, c := range []struct{ limit, stall, want time.Duration }{
		{time.Second, 0, time.Second},
		{time.Second, 10 * time.Millisecond, 1010 * time.Millisecond}, // nothing unusual
		{time.Second, 300 * time.Millisecond, 1600 * time.Millisecond},
		{50 * time.Millisecond, 2 * time.Second, 2100 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			passed, stop := after(&stallingClock{stall: c.stall}, c.limit)
			<-passed
			if took := time.Since(start); took != c.want || stop() {
				t.Errorf("%v, stalled for %v: passed after %v, want %v", c.limit, c.stall, took, c.want)
			}
			start = time.Now()
			ctx, cancel := withTimeout(t.Context(), &stallingClock{stall: c.stall}, c.limit, ErrNoAnswer)
			defer cancel()
			<-ctx.Done()
			if took := time.Since(start); took != c.want || !errors.Is(context.Cause(ctx), ErrNoAnswer) {
				t.Errorf("%v, stalled for %v: %v after %v, want %v", c.limit, c.stall, context.Cause(ctx), took, c.want)
			}
		})
	}
}

// Stopped at any time it does not pass any more.
func TestStalledStop(t *testing.T) {
	for _, at := range []time.Duration{100 * time.Millisecond, 1100 * time.Millisecond, 1400 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			passed, stop := after(&stallingClock{stall: 300 * time.Millisecond}, time.Second)
			time.Sleep(at)
			if !stop() || stop() {
				t.Errorf("at %v: not stopped, or twice", at)
			}
			time.Sleep(10 * time.Second)
			select {
			case <-passed:
				t.Errorf("stopped at %v, it passed", at)
			default:
			}
		})
	}
}

// hastyClock fires every timer at once, and tells.
type hastyClock struct {
	Clock
	fired func()
}

func (c hastyClock) AfterFunc(_ time.Duration, f func()) func() bool {
	go func() { f(); c.fired() }()
	return func() bool { return false }
}

// An answer that is there when the time for it is over counts.
func TestAnswerAtTheLimit(t *testing.T) {
	for range 100 { // a select takes any that is ready
		failed, answered := &Handshake{resume: new(resumption)}, new(Handshake)
		failed.mu.Lock() // the race looks at it for as long as its time lasts
		var once sync.Once
		cfg := Config{Clock: hastyClock{tcpcrypt.RealClock{}, func() { once.Do(failed.mu.Unlock) }}}.filled()
		r := &race{attempt: &attempt{Dialer: new(Dialer), cfg: cfg}, ctx: t.Context(), results: make(chan opened, 2), running: 2, withENO: 2}
		r.results <- opened{h: failed, err: syscall.ECONNREFUSED}
		r.results <- opened{h: answered}
		if o := r.grace(opened{err: syscall.ECONNREFUSED}, 0); o.h != answered {
			t.Fatalf("the race: %v", o.err)
		}
	}
	for range 100 {
		upgraded := opened{err: errors.New("the upgraded connection")}
		cfg := Config{Clock: hastyClock{tcpcrypt.RealClock{}, func() {}}}.filled()
		d := &dual{attempt: &attempt{Dialer: new(Dialer), cfg: cfg}, ctx: t.Context()}
		for _, x := range []*tried{&d.upgraded, &d.plain} {
			x.gate, x.cancel, x.result = newGate(), func() {}, make(chan opened, 1)
		}
		d.upgraded.gate.answer()
		d.upgraded.result <- upgraded
		over := make(chan struct{})
		close(over)
		for _, late := range []chan struct{}{nil, over} {
			if o := d.withoutPlain(opened{err: syscall.ECONNREFUSED}, late); o != upgraded {
				t.Fatalf("the ordinary SYN is refused: %v", o.err)
			}
			d.upgraded.result = make(chan opened, 1)
			d.upgraded.result <- upgraded
		}
	}
}

// An upgraded SYN that is answered by the time that a connection without ENO is open beside it, as the ordinary SYN was refused
// for its option, is the one that counts: the process could not run when the answer came.
func TestAnsweredBesidePlain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 100 { // a select takes any that is ready
			upgraded := opened{err: errors.New("the upgraded connection")}
			here, peer := crypttest.Pipe(crypttest.Options{})
			d := &dual{attempt: &attempt{Dialer: new(Dialer), cfg: Config{}.filled()}, ctx: t.Context()}
			for _, x := range []*tried{&d.upgraded, &d.plain} {
				x.gate, x.cancel, x.result = newGate(), func() {}, make(chan opened, 1)
			}
			d.upgraded.gate.answer()
			d.upgraded.result <- upgraded
			d.plain.result <- opened{t: here}
			if o, learnt := d.decide(false); o != upgraded || learnt != PathUnknown {
				t.Fatalf("%v, %v", o.err, learnt)
			}
			if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Fatalf("the plain connection: %v", err)
			}
		}
	})
}

// A caller who gives up ends the connections with ENO. That is no reason to take the plain one, and to remember the path as one
// that drops ENO.
func TestGivenUpInTheGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 100 { // a select takes any that is ready
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			here, peer := crypttest.Pipe(crypttest.Options{})
			d := &Dialer{Connect: func(ctx context.Context, _, _ netip.AddrPort, _ *Handshake) (Transport, error) { return nil, ctx.Err() }}
			r := &race{attempt: &attempt{Dialer: d, cfg: Config{}.filled()}, ctx: ctx, results: make(chan opened, maxOpened), running: 1, withENO: 1}
			r.results <- opened{h: &Handshake{resume: new(resumption)}, err: context.Canceled}
			if o := r.grace(opened{t: here}, 0); o.t != nil || !errors.Is(o.err, context.Canceled) {
				t.Fatalf("%v", o.err)
			}
			if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Fatalf("the plain connection: %v", err)
			}
			synctest.Wait() // the other one with ENO is there by now
		}
	})
}
