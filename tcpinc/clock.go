package tcpinc

import (
	"context"
	"time"

	"innertun/tcpinc/tcpcrypt"
)

// Clock is the time that everything in this package goes by.
type Clock = tcpcrypt.Clock

// withTimeout is context.WithTimeoutCause by a Clock; the cause is what context.Cause returns after d.
func withTimeout(ctx context.Context, clock Clock, d time.Duration, cause error) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := clock.AfterFunc(d, func() { cancel(cause) })
	return ctx, func() {
		stop()
		cancel(context.Canceled)
	}
}

// after is time.NewTimer by a Clock.
func after(clock Clock, d time.Duration) (passed <-chan struct{}, stop func() bool) {
	c := make(chan struct{})
	return c, clock.AfterFunc(d, func() { close(c) })
}
