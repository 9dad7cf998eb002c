package lab

import (
	"container/heap"
	"io"
	"sync"
	"time"
)

// Path joins two ends through a row of elements.
type Path struct {
	clock    Clock
	elements []Element

	mu      sync.Mutex
	idle    sync.Cond
	deliver [2]func(pkt []byte)
	settle  func()
	queue   events
	seq     uint64
	timer   Timer
	wake    time.Time // when timer fires; zero: not set
	running bool      // one goroutine at a time runs events
	closed  bool
}

// NewPath returns a path with these elements, the first nearest to end A. A nil clock is the real one.
func NewPath(clock Clock, elements ...Element) *Path {
	if clock == nil {
		clock = Real()
	}
	p := &Path{clock: clock, elements: elements}
	p.idle.L = &p.mu
	return p
}

// Connect says where packets go that arrive at the two ends. The functions own what they are given, are called one at
// a time, and never from within a function From returned. Packets that arrive before Connect are lost.
func (p *Path) Connect(a, b func(pkt []byte)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deliver = [2]func([]byte){A: a, B: b}
}

// Settle sets a function that is called after each delivery to an end and returns when what the delivery has set off is
// over. Without it packets that arrive at one time come one close upon the other, and which of a host's goroutines is
// first is a matter of luck: on a manual clock a run with it repeats.
func (p *Path) Settle(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settle = f
}

// From returns the function that sends a packet into the path at one end. The path owns pkt from then on. The function
// returns at once and may be called from any goroutine, under any lock.
func (p *Path) From(end End) func(pkt []byte) {
	to := end.Other()
	first := 0
	if end == B {
		first = len(p.elements) - 1
	}
	return func(pkt []byte) {
		in := Packet{Data: pkt, To: to}
		p.schedule(0, func() { p.pass(first, in) })
	}
}

// Inject is From for a packet whose checksum may be partial. It goes towards pkt.To.
func (p *Path) Inject(pkt Packet) {
	first := 0
	if pkt.To == A {
		first = len(p.elements) - 1
	}
	p.schedule(0, func() { p.pass(first, pkt) })
}

// Waiting is the number of packets and timers that are under way.
func (p *Path) Waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.queue)
}

// Close ends the path: what is still under way is lost. It returns when no delivery runs any more, so it must not be
// called from one. Elements that are io.Closers are closed last.
func (p *Path) Close() {
	p.stop()
	for _, e := range p.elements {
		if c, ok := e.(io.Closer); ok {
			c.Close()
		}
	}
}

func (p *Path) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.queue = nil
	if p.timer != nil {
		p.timer.Stop()
	}
	for p.running {
		p.idle.Wait()
	}
}

// pass hands a packet to element i, or to the end it has reached.
func (p *Path) pass(i int, pkt Packet) {
	if i >= 0 && i < len(p.elements) {
		p.elements[i].Packet(pkt, place{p, i})
		return
	}
	p.mu.Lock()
	deliver, settle := p.deliver[pkt.To], p.settle
	if p.closed {
		deliver = nil
	}
	p.mu.Unlock()
	if deliver == nil {
		return
	}
	deliver(Complete(pkt).Data)
	if settle != nil {
		settle()
	}
}

// schedule puts f in the queue, d from now.
func (p *Path) schedule(d time.Duration, f func()) *event {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := &event{at: p.clock.Now().Add(d), seq: p.seq, run: f}
	if p.closed {
		return e
	}
	p.seq++
	heap.Push(&p.queue, e)
	p.arm()
	return e
}

// arm sets the timer for the first event. The caller holds mu.
func (p *Path) arm() {
	if p.running || p.closed || len(p.queue) == 0 {
		return
	}
	first := p.queue[0].at
	if !p.wake.IsZero() && !first.Before(p.wake) {
		return
	}
	p.wake = first
	d := max(first.Sub(p.clock.Now()), 0)
	if p.timer == nil {
		p.timer = p.clock.AfterFunc(d, p.drain)
	} else {
		p.timer.Reset(d)
	}
}

// drain runs what is due, in the order of time, then of scheduling.
func (p *Path) drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running {
		return // that goroutine arms the timer anew
	}
	p.running, p.wake = true, time.Time{}
	for len(p.queue) > 0 && !p.queue[0].at.After(p.clock.Now()) {
		e := heap.Pop(&p.queue).(*event)
		if e.cancelled {
			continue
		}
		p.mu.Unlock()
		e.run()
		p.mu.Lock()
	}
	p.running = false
	p.idle.Broadcast()
	p.arm()
}

// place is element i's view of its path.
type place struct {
	path *Path
	i    int
}

func (a place) Now() time.Time { return a.path.clock.Now() }

func (a place) Send(p Packet) {
	if p.To == B {
		a.path.pass(a.i+1, p)
	} else {
		a.path.pass(a.i-1, p)
	}
}

func (a place) SendAfter(d time.Duration, p Packet) {
	a.path.schedule(d, func() { a.Send(p) })
}

func (a place) After(d time.Duration, f func()) (cancel func()) {
	e := a.path.schedule(d, f)
	return func() {
		a.path.mu.Lock()
		defer a.path.mu.Unlock()
		e.cancelled = true
	}
}

type event struct {
	at        time.Time
	seq       uint64
	run       func()
	cancelled bool
}

// events is a heap by time, then by order of scheduling.
type events []*event

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	if !q[i].at.Equal(q[j].at) {
		return q[i].at.Before(q[j].at)
	}
	return q[i].seq < q[j].seq
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(x any)   { *q = append(*q, x.(*event)) }
func (q *events) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return e
}
