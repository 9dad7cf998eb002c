package stack

import (
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// deadline is a moment after which waiting ends. The channel is closed when it has passed.
type deadline struct {
	mu    sync.Mutex
	timer tcpip.Timer
	ch    chan struct{}
}

// set moves the deadline, also for those who wait already. The zero time takes it away.
func (d *deadline) set(clock tcpip.Clock, t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ch == nil {
		d.ch = make(chan struct{})
	}
	if d.timer != nil && !d.timer.Stop() {
		<-d.ch // the callback has begun: let it end, so that it cannot close the next channel
	}
	d.timer = nil
	passed := false
	select {
	case <-d.ch:
		passed = true
	default:
	}
	if t.IsZero() {
		if passed {
			d.ch = make(chan struct{})
		}
		return
	}
	after := t.Sub(clock.Now())
	if after <= 0 {
		if !passed {
			close(d.ch)
		}
		return
	}
	if passed {
		d.ch = make(chan struct{})
	}
	ch := d.ch
	d.timer = clock.AfterFunc(after, func() { close(ch) })
}

// done is closed when the deadline has passed.
func (d *deadline) done() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ch == nil {
		d.ch = make(chan struct{})
	}
	return d.ch
}

func (d *deadline) passed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case <-d.ch:
		return true
	default:
		return false // also for a nil channel
	}
}

func (d *deadline) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && d.timer.Stop() {
		d.timer = nil
	}
}
