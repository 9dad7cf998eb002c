// Package virtual is time that passes only when nothing else happens: a clock that jumps from one timer to the next, for
// netstacks, paths and protocols alike, and a way to tell that every goroutine waits for it. A minute of silence costs
// nothing, and what is measured is exact.
package virtual

import (
	"container/heap"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// Clock is a clock for stack.Config that moves by Step and Advance only. Functions that fall due run in the goroutine that
// moves it, one after the other: by time, then by the order in which they were set.
type Clock struct {
	mu    sync.Mutex
	start time.Time
	now   time.Time
	queue timers
	seq   uint64
}

var _ tcpip.Clock = (*Clock)(nil)

// New returns a clock that shows start.
func New(start time.Time) *Clock { return &Clock{start: start, now: start} }

// Now implements tcpip.Clock.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// NowMonotonic implements tcpip.Clock.
func (c *Clock) NowMonotonic() tcpip.MonotonicTime {
	return tcpip.MonotonicTime{}.Add(c.Now().Sub(c.start))
}

// AfterFunc implements tcpip.Clock.
func (c *Clock) AfterFunc(d time.Duration, f func()) tcpip.Timer {
	t := &timer{clock: c, f: f, index: -1}
	t.Reset(d)
	return t
}

// Next is when the first timer falls due that is set; false: none is.
func (c *Clock) Next() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		return time.Time{}, false
	}
	return c.queue[0].at, true
}

// Step moves the clock to the first timer that is set, if that is not after until, and runs it. It reports false, and moves
// the clock to until, if there is none.
func (c *Clock) Step(until time.Time) bool {
	c.mu.Lock()
	if len(c.queue) == 0 || c.queue[0].at.After(until) {
		if until.After(c.now) {
			c.now = until
		}
		c.mu.Unlock()
		return false
	}
	t := heap.Pop(&c.queue).(*timer)
	if t.at.After(c.now) {
		c.now = t.at
	}
	c.mu.Unlock()
	t.f()
	return true
}

// Advance moves the clock by d and runs what falls due on the way, each at its own time.
func (c *Clock) Advance(d time.Duration) {
	for until := c.Now().Add(d); c.Step(until); {
	}
}

type timer struct {
	clock *Clock
	f     func()
	at    time.Time
	seq   uint64
	index int // in the queue; -1: not set
}

func (t *timer) Stop() bool {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	if t.index < 0 {
		return false
	}
	heap.Remove(&t.clock.queue, t.index)
	return true
}

func (t *timer) Reset(d time.Duration) {
	c := t.clock
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.index >= 0 {
		heap.Remove(&c.queue, t.index)
	}
	t.at, t.seq = c.now.Add(max(d, 0)), c.seq
	c.seq++
	heap.Push(&c.queue, t)
}

// timers is a heap by time, then by order of setting.
type timers []*timer

func (q timers) Len() int { return len(q) }
func (q timers) Less(i, j int) bool {
	if !q[i].at.Equal(q[j].at) {
		return q[i].at.Before(q[j].at)
	}
	return q[i].seq < q[j].seq
}
func (q timers) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *timers) Push(x any) {
	t := x.(*timer)
	t.index = len(*q)
	*q = append(*q, t)
}
func (q *timers) Pop() any {
	old := *q
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*q, t.index = old[:len(old)-1], -1
	return t
}
