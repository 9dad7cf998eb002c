package demo

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"innertun/integration/lab"
	"innertun/stack"
	"innertun/stack/virtual"
)

const (
	stillWork = time.Minute // real time, for what is to be done at one moment of the clock
	stillTime = time.Minute // the clock's time, for all transfers: they take seconds
)

var (
	errRestless = errors.New("the demo does not come to rest: the machine is too busy, try again later")
	errStuck    = errors.New("the transfers do not come to an end")
)

// stillClock is a virtual clock as the path knows it.
type stillClock struct{ *virtual.Clock }

func (c stillClock) AfterFunc(d time.Duration, f func()) lab.Timer { return c.Clock.AfterFunc(d, f) }

// still makes the transfers in a world whose clock stands still while anybody in it has something to do, so that all that
// takes time is the path, however busy the machine is.
func (o Options) still(ctx context.Context, text io.Writer) (Report, error) {
	clock := virtual.New(time.Now())
	w, err := newWorld(setup{rtt: o.RTT, log: o.Logger, clock: stillClock{clock}, tune: func(c *stack.Config) { c.Clock = clock }})
	if err != nil {
		return Report{}, err
	}
	var running sync.WaitGroup
	defer running.Wait() // it writes to text
	defer w.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	type outcome struct {
		report Report
		err    error
	}
	done := make(chan outcome, 1)
	running.Go(func() {
		r, err := w.transfers(ctx, o.Size, func(t Transfer) { printTransfer(text, t, o.RTT) })
		done <- outcome{r, err}
	})
	for until := clock.Now().Add(stillTime); ; {
		if !virtual.Settled(stillWork) {
			return Report{}, errRestless
		}
		select {
		case out := <-done:
			return out.report, out.err
		default:
		}
		if !clock.Step(until) {
			return Report{}, errStuck
		}
	}
}
