package tcpinc

import (
	"context"
	"sync"
	"time"

	"innertun/tcpinc/tcpcrypt"
)

// Clock is the time that everything in this package goes by.
type Clock = tcpcrypt.Clock

// withTimeout is context.WithTimeoutCause by a Clock; the cause is what context.Cause returns after d.
func withTimeout(ctx context.Context, clock Clock, d time.Duration, cause error) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := afterFunc(clock, d, func() { cancel(cause) })
	return ctx, func() {
		stop()
		cancel(context.Canceled)
	}
}

// after is time.NewTimer by a Clock.
func after(clock Clock, d time.Duration) (passed <-chan struct{}, stop func() bool) {
	c := make(chan struct{})
	return c, afterFunc(clock, d, func() { close(c) })
}

// stalled is how late a timer is that says more of this process than of the peer: it could not run.
const stalled = 20 * time.Millisecond

// afterFunc is Clock.AfterFunc for the time that a peer has for its answer. If the process, or the whole machine, could not run
// meanwhile, the answer may have come and not have been looked at yet, or the peer's machine was the one that stood still:
// what was missed is added once, but no more than d.
func afterFunc(clock Clock, d time.Duration, f func()) (stop func() bool) {
	var mu sync.Mutex
	var stopTimer func() bool
	over := false
	due := clock.Now().Add(d)
	fire := func() {
		mu.Lock()
		fires := !over
		over = true
		mu.Unlock()
		if fires {
			f()
		}
	}
	mu.Lock()
	defer mu.Unlock()
	stopTimer = clock.AfterFunc(d, func() {
		late := clock.Now().Sub(due)
		if late < stalled || d <= 0 {
			fire()
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if !over {
			stopTimer = clock.AfterFunc(min(late, d), fire)
		}
	})
	return func() bool {
		mu.Lock()
		defer mu.Unlock()
		stopTimer()
		stopped := !over
		over = true
		return stopped
	}
}
