package tcpinc

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
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
