package stacktest

import (
	"slices"
	"sync"
	"testing"
	"time"

	"innertun/stack/link"
)

// Direction tells the two ways of a path apart.
type Direction int

const (
	AtoB Direction = iota
	BtoA
)

// Tap sees every packet on its way and says what goes on: nothing, the packet, several. It may rewrite the packet in
// place. It runs in the path's goroutine of that direction; packets of one direction come one after the other.
type Tap func(d Direction, p Packet) [][]byte

// Pass is the Tap that lets everything through.
func Pass(_ Direction, p Packet) [][]byte { return [][]byte{p.Raw} }

// Path joins two stacks. Each packet on it must be whole, with right checksums; the test fails otherwise.
type Path struct {
	A, B  *link.Wire
	t     testing.TB
	delay time.Duration
	lanes [2]lane
	wg    sync.WaitGroup

	mu       sync.Mutex
	tap      Tap
	captured []Captured
	capture  bool
}

// Captured is a packet as it was sent, before the Tap.
type Captured struct {
	Direction Direction
	Packet
}

type lane struct {
	mu    sync.Mutex
	cond  *sync.Cond
	queue []queued
	done  bool
}

type queued struct {
	pkt []byte
	due time.Time
}

// NewPath makes a path with one-way delay (real time) between two wires. It is taken down at the end of the test.
func NewPath(t testing.TB, mtu int, delay time.Duration) *Path {
	p := &Path{t: t, delay: delay, tap: Pass}
	for i := range p.lanes {
		p.lanes[i].cond = sync.NewCond(&p.lanes[i].mu)
	}
	p.A = link.NewWire(mtu, func(pkt []byte) { p.lanes[AtoB].put(pkt, p.delay) })
	p.B = link.NewWire(mtu, func(pkt []byte) { p.lanes[BtoA].put(pkt, p.delay) })
	p.wg.Add(2)
	go p.run(AtoB, p.B)
	go p.run(BtoA, p.A)
	t.Cleanup(p.Close)
	return p
}

// Close stops the path; what is on it is lost.
func (p *Path) Close() {
	for i := range p.lanes {
		l := &p.lanes[i]
		l.mu.Lock()
		l.done = true
		l.mu.Unlock()
		l.cond.Broadcast()
	}
	p.wg.Wait()
}

// SetTap replaces the Tap.
func (p *Path) SetTap(t Tap) {
	p.mu.Lock()
	p.tap = t
	p.mu.Unlock()
}

// Capture starts to keep packets.
func (p *Path) Capture() {
	p.mu.Lock()
	p.capture = true
	p.captured = nil
	p.mu.Unlock()
}

// Packets returns what was captured so far.
func (p *Path) Packets() []Captured {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.captured)
}

func (l *lane) put(pkt []byte, delay time.Duration) {
	q := queued{pkt: pkt}
	if delay > 0 {
		q.due = time.Now().Add(delay)
	}
	l.mu.Lock()
	l.queue = append(l.queue, q)
	l.mu.Unlock()
	l.cond.Signal()
}

func (l *lane) take(into []queued) ([]queued, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.queue) == 0 && !l.done {
		l.cond.Wait()
	}
	if l.done {
		return nil, false
	}
	into, l.queue = l.queue, into[:0]
	return into, true
}

func (p *Path) run(d Direction, to *link.Wire) {
	defer p.wg.Done()
	var batch []queued
	for {
		var ok bool
		if batch, ok = p.lanes[d].take(batch); !ok {
			return
		}
		for i, q := range batch {
			if !q.due.IsZero() {
				time.Sleep(time.Until(q.due))
			}
			p.forward(d, q.pkt, to)
			batch[i] = queued{}
		}
	}
}

func (p *Path) forward(d Direction, raw []byte, to *link.Wire) {
	pkt, err := Parse(raw)
	if err != nil {
		p.t.Errorf("stacktest: on the path, direction %d: %v: % x", d, err, raw[:min(len(raw), 80)])
	}
	p.mu.Lock()
	tap := p.tap
	if p.capture {
		kept, _ := Parse(slices.Clone(raw))
		p.captured = append(p.captured, Captured{Direction: d, Packet: kept})
	}
	p.mu.Unlock()
	for _, out := range tap(d, pkt) {
		to.Inject(out)
	}
}
