package innerspace

import (
	"context"
	"iter"
	"os"
	"sync"
	"time"
)

// Received is an option of the peer.
type Received struct {
	Option   Option
	Position uint64 // octets of payload that came before it
	Missed   uint64 // options dropped since the one before it, as nobody took them
	SYN      bool   // it came in an upgraded SYN or SYN-ACK, in the open: encryption does not vouch for it
}

// Outer returns the option of the TCP header that this one carries whole, if it does: see AppendOuter.
func (r Received) Outer() (Option, bool) {
	o, _, err := ParseOuter(r.Option)
	return o, err == nil
}

// receivedCost is what a waiting option counts besides its octets.
const receivedCost = 32

// received holds options until they are taken.
type received struct {
	limit    int
	deadline deadline // of reads

	mu      sync.Mutex
	list    []Received
	cost    int
	waited  bool // someone waits for options in a goroutine of his own
	missed  uint64
	total   uint64 // missed in all
	err     error  // after the last option
	changed chan struct{}
}

func (q *received) init(limit int, now func() time.Time) {
	q.limit = limit
	if limit == 0 {
		q.limit = DefaultQueue
	}
	q.changed = make(chan struct{})
	q.deadline.now, q.deadline.passed = now, make(chan struct{})
}

// wake tells all who wait that something has changed. q.mu is held.
func (q *received) wake() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// add takes an option. Without room it drops it, or waits if there is someone who will make room. Error:
// os.ErrDeadlineExceeded.
func (q *received) add(r Received) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	cost := len(r.Option) + receivedCost
	for q.cost+cost > q.limit && len(q.list) > 0 && q.err == nil {
		if !q.waited {
			q.missed++
			q.total++
			return nil
		}
		changed := q.changed
		q.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-q.deadline.done():
			err = os.ErrDeadlineExceeded
		}
		q.mu.Lock()
		if err != nil {
			return err
		}
	}
	if q.err != nil {
		return nil
	}
	r.Missed, q.missed = q.missed, 0
	q.list = append(q.list, r)
	q.cost += cost
	q.wake()
	return nil
}

// end says that no more options come.
func (q *received) end(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.err = err
		q.wake()
	}
}

func (q *received) missedInAll() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.total
}

func (q *received) take() (r Received, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.list) == 0 {
		return Received{}, false
	}
	r, q.list[0] = q.list[0], Received{}
	q.list = q.list[1:]
	q.cost -= len(r.Option) + receivedCost
	q.wake()
	return r, true
}

// Options takes the options that have come with what was read so far, in order, without waiting. What Handler has dealt with
// is not among them. If more come than there is room for, later ones are dropped and counted, unless someone uses WaitOption.
func (s *Stream) Options() iter.Seq[Received] {
	return func(yield func(Received) bool) {
		for {
			r, ok := s.taken.take()
			if !ok || !yield(r) {
				return
			}
		}
	}
}

// WaitOption blocks until Options has one, and fails when none will come any more: with io.EOF after the end of the stream, its
// error, or that of ctx. It is for a goroutine beside the one that reads: options come by reading only. Once it has
// been called none is dropped; reading waits until Options has made room, and so, by TCP's flow control, does the peer.
func (s *Stream) WaitOption(ctx context.Context) error {
	q := &s.taken
	for {
		q.mu.Lock()
		q.waited = true
		have, err, changed := len(q.list) > 0, q.err, q.changed
		q.mu.Unlock()
		if have {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// deadline is a time that can be waited for and moved.
type deadline struct {
	now    func() time.Time // what it is a time of
	mu     sync.Mutex
	timer  *time.Timer
	passed chan struct{} // closed when it has
}

func (d *deadline) done() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.passed
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	select {
	case <-d.passed:
		d.passed = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	passed := d.passed
	var timer *time.Timer
	timer = time.AfterFunc(t.Sub(d.now()), func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.timer == timer { // it was not moved meanwhile
			close(passed)
			d.timer = nil
		}
	})
	d.timer = timer
}
