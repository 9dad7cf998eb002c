package lab

import (
	"container/heap"
	"sync"
	"time"
)

// Clock is the time a path runs by.
type Clock interface {
	Now() time.Time
	// AfterFunc calls f after d, not from within AfterFunc or Reset.
	AfterFunc(d time.Duration, f func()) Timer
}

// Timer is one call to come, as with time.AfterFunc.
type Timer interface {
	Stop() bool
	Reset(d time.Duration)
}

// Real returns the clock on the wall.
func Real() Clock { return realClock{} }

type realClock struct{}

func (realClock) Now() time.Time { return time.Now() }
func (realClock) AfterFunc(d time.Duration, f func()) Timer {
	return realTimer{time.AfterFunc(d, f)}
}

type realTimer struct{ *time.Timer }

func (t realTimer) Reset(d time.Duration) { t.Timer.Reset(d) }

// Manual is a clock that moves by Advance only, and runs what falls due in the goroutine that advances it.
type Manual struct {
	mu    sync.Mutex
	now   time.Time
	queue events
	seq   uint64
}

// NewManual returns a clock that shows start.
func NewManual(start time.Time) *Manual { return &Manual{now: start} }

// Now returns the time the clock shows.
func (m *Manual) Now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

// Advance moves the clock by d and runs what falls due on the way, each at its own time.
func (m *Manual) Advance(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	until := m.now.Add(d)
	for len(m.queue) > 0 && !m.queue[0].at.After(until) {
		e := heap.Pop(&m.queue).(*event)
		if e.cancelled {
			continue
		}
		if e.at.After(m.now) {
			m.now = e.at
		}
		m.mu.Unlock()
		e.run()
		m.mu.Lock()
	}
	m.now = until
}

// AfterFunc implements Clock.
func (m *Manual) AfterFunc(d time.Duration, f func()) Timer {
	t := &manualTimer{clock: m, f: f}
	t.Reset(d)
	return t
}

type manualTimer struct {
	clock *Manual
	f     func()
	event *event // nil: not set
}

func (t *manualTimer) Stop() bool {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	return t.stop()
}

func (t *manualTimer) stop() bool {
	if t.event == nil {
		return false
	}
	t.event.cancelled, t.event = true, nil
	return true
}

func (t *manualTimer) Reset(d time.Duration) {
	m := t.clock
	m.mu.Lock()
	defer m.mu.Unlock()
	t.stop()
	e := &event{at: m.now.Add(d), seq: m.seq}
	e.run = func() {
		m.mu.Lock()
		if t.event == e {
			t.event = nil
		}
		m.mu.Unlock()
		t.f()
	}
	m.seq++
	t.event = e
	heap.Push(&m.queue, e)
}
