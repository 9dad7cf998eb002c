package lab

import (
	"slices"
	"sync"
	"testing"
	"time"
)

const rtt = 80 * time.Millisecond

var start = time.Unix(1_000_000, 0)

type arrival struct {
	at   time.Duration
	data string
}

// world is a path on a manual clock that notes what arrives at either end.
type world struct {
	clock *Manual
	path  *Path
	got   [2][]arrival
}

func newWorld(elements ...Element) *world {
	w := &world{clock: NewManual(start)}
	w.path = NewPath(w.clock, elements...)
	note := func(end End) func([]byte) {
		return func(pkt []byte) {
			w.got[end] = append(w.got[end], arrival{w.clock.Now().Sub(start), string(pkt)})
		}
	}
	w.path.Connect(note(A), note(B))
	return w
}

func TestDelayBothWays(t *testing.T) {
	w := newWorld(Delay(rtt/4), Delay(rtt/4))
	a, b := w.path.From(A), w.path.From(B)
	a([]byte("one"))
	w.clock.Advance(10 * time.Millisecond)
	a([]byte("two"))
	b([]byte("back"))
	w.clock.Advance(time.Second)
	want := []arrival{{40 * time.Millisecond, "one"}, {50 * time.Millisecond, "two"}}
	if !slices.Equal(w.got[B], want) {
		t.Errorf("B got %v, want %v", w.got[B], want)
	}
	if want := []arrival{{50 * time.Millisecond, "back"}}; !slices.Equal(w.got[A], want) {
		t.Errorf("A got %v, want %v", w.got[A], want)
	}
}

// An element may answer: the answer takes the elements between it and the sender only.
type refuser struct{}

func (refuser) Packet(p Packet, at Place) { at.Send(Packet{Data: []byte("no"), To: p.To.Other()}) }

func TestAnswerFromThePath(t *testing.T) {
	var behind Tap
	w := newWorld(Delay(10*time.Millisecond), refuser{}, &behind)
	w.path.From(A)([]byte("hello"))
	w.clock.Advance(time.Second)
	if want := []arrival{{20 * time.Millisecond, "no"}}; !slices.Equal(w.got[A], want) {
		t.Errorf("A got %v, want %v", w.got[A], want)
	}
	if len(w.got[B]) != 0 || len(behind.Packets()) != 0 {
		t.Errorf("behind the firewall: %v %v", w.got[B], behind.Packets())
	}
}

func TestTowards(t *testing.T) {
	w := newWorld(Towards(B, Delay(time.Millisecond)))
	w.path.From(A)([]byte("slow"))
	w.path.From(B)([]byte("fast"))
	w.clock.Advance(time.Second)
	if w.got[A][0].at != 0 || w.got[B][0].at != time.Millisecond {
		t.Errorf("arrivals %v", w.got)
	}
}

// batch holds two packets, or one until a timer ends, and sends them as one.
type batch struct {
	held   []byte
	cancel func()
}

func (e *batch) Packet(p Packet, at Place) {
	if e.held == nil {
		e.held = p.Data
		e.cancel = at.After(5*time.Millisecond, func() { at.Send(Packet{Data: e.held, To: p.To}); e.held = nil })
		return
	}
	e.cancel()
	at.Send(Packet{Data: append(e.held, p.Data...), To: p.To})
	e.held = nil
}

func TestElementTimers(t *testing.T) {
	w := newWorld(&batch{})
	for _, s := range []string{"a", "b", "c"} {
		w.path.From(A)([]byte(s))
	}
	w.clock.Advance(time.Second)
	if want := []arrival{{0, "ab"}, {5 * time.Millisecond, "c"}}; !slices.Equal(w.got[B], want) {
		t.Errorf("got %v, want %v", w.got[B], want)
	}
}

func TestRate(t *testing.T) {
	r := NewRate(8000, 250) // 1000 octets a second
	w := newWorld(r)
	for range 4 {
		w.path.From(A)(make([]byte, 100))
	}
	w.path.From(B)(make([]byte, 50)) // the other direction has a queue of its own
	w.clock.Advance(time.Minute)
	var at []time.Duration
	for _, a := range w.got[B] {
		at = append(at, a.at)
	}
	// One in service with 100 octets left to go, then those that fit 250 octets behind it.
	if want := []time.Duration{100 * time.Millisecond, 200 * time.Millisecond}; !slices.Equal(at, want) || r.Dropped() != 2 {
		t.Errorf("left at %v with %d dropped, want %v and 2", at, r.Dropped(), want)
	}
	if w.got[A][0].at != 50*time.Millisecond {
		t.Errorf("other direction %v", w.got[A])
	}
}

// The same seed has the same fate; what is lost, held or copied is what was counted.
func TestChanceIsSeeded(t *testing.T) {
	const packets = 2000
	run := func() ([]arrival, int64, int64, int64) {
		loss, reorder, dup := NewLoss(0.1, 1), NewReorder(0.2, 3*time.Millisecond, 2), NewDuplicate(0.05, time.Millisecond, 3)
		w := newWorld(loss, reorder, dup)
		for i := range packets {
			w.path.From(A)([]byte{byte(i >> 8), byte(i)})
			w.clock.Advance(time.Millisecond)
		}
		w.clock.Advance(time.Second)
		return w.got[B], loss.Dropped(), reorder.Held(), dup.Copied()
	}
	got, lost, held, copied := run()
	again, _, _, _ := run()
	if !slices.Equal(got, again) {
		t.Error("two runs with the same seeds differ")
	}
	if lost < 100 || lost > 300 || held < 200 || copied < 20 {
		t.Errorf("lost %d, held %d, copied %d of %d", lost, held, copied, packets)
	}
	if int64(len(got)) != packets-lost+copied {
		t.Errorf("%d arrived, want %d-%d+%d", len(got), packets, lost, copied)
	}
	if slices.IsSortedFunc(got, func(a, b arrival) int { return int(a.data[0])<<8 + int(a.data[1]) - int(b.data[0])<<8 - int(b.data[1]) }) {
		t.Error("nothing was overtaken")
	}
}

func TestClose(t *testing.T) {
	w := newWorld(Delay(time.Millisecond))
	w.path.From(A)([]byte("late"))
	w.path.Close()
	w.path.From(A)([]byte("later"))
	w.clock.Advance(time.Second)
	if len(w.got[B]) != 0 {
		t.Errorf("delivered after Close: %v", w.got[B])
	}
}

// On the real clock, order holds and delivery never runs in the sender's call.
func TestRealClock(t *testing.T) {
	path := NewPath(nil, Delay(5*time.Millisecond))
	var mu sync.Mutex // held while sending, taken in delivery: a synchronous call back would never return
	var got []byte
	done := make(chan struct{})
	const packets = 100
	path.Connect(nil, func(pkt []byte) {
		mu.Lock()
		defer mu.Unlock()
		if got = append(got, pkt...); len(got) == packets {
			close(done)
		}
	})
	begin := time.Now()
	mu.Lock()
	for i := range packets {
		path.From(A)([]byte{byte(i)})
	}
	mu.Unlock()
	<-done
	path.Close()
	if took := time.Since(begin); took < 5*time.Millisecond {
		t.Errorf("took %v", took)
	}
	if !slices.IsSorted(got) {
		t.Errorf("out of order: %v", got)
	}
}

func TestManualTimers(t *testing.T) {
	c := NewManual(start)
	var ran []string
	c.AfterFunc(2*time.Second, func() { ran = append(ran, "b") })
	stopped := c.AfterFunc(time.Second, func() { ran = append(ran, "never") })
	moved := c.AfterFunc(time.Second, func() { ran = append(ran, "c") })
	c.AfterFunc(2*time.Second, func() { ran = append(ran, "b2") })
	moved.Reset(3 * time.Second)
	if !stopped.Stop() || stopped.Stop() {
		t.Error("Stop reports the wrong thing")
	}
	c.Advance(1999 * time.Millisecond)
	if len(ran) != 0 {
		t.Fatalf("early: %v", ran)
	}
	c.Advance(2 * time.Second)
	if !slices.Equal(ran, []string{"b", "b2", "c"}) {
		t.Errorf("ran %v", ran)
	}
	if got := c.Now().Sub(start); got != 3999*time.Millisecond {
		t.Errorf("clock shows %v", got)
	}
}
