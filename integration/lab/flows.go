package lab

import (
	"container/list"
	"math/rand/v2"
	"net/netip"
	"time"
)

// flow names a connection by its two ends, whichever way a segment goes.
type flow struct{ a, b netip.AddrPort }

// flow is the connection of a segment that travels towards a side.
func (t parts) flow(to End) flow {
	if to == B {
		return flow{t.source, t.destination}
	}
	return flow{t.destination, t.source}
}

// maxStates bounds what an element remembers; the one used longest ago goes.
const maxStates = 4096

// flows is what an element remembers of connections. The zero value is ready and forgets by number only.
type flows[T any] struct {
	timeout time.Duration // unused for so long, a state is forgotten; 0: never
	states  map[flow]*list.Element
	order   list.List // of *state[T], the one used last in front
}

type state[T any] struct {
	key   flow
	value T
	used  time.Time
}

// get returns the state of a connection and marks it as used.
func (f *flows[T]) get(key flow, now time.Time) (value T, ok bool) {
	e := f.states[key]
	if e == nil {
		return value, false
	}
	s := e.Value.(*state[T])
	if f.timeout > 0 && now.Sub(s.used) > f.timeout {
		f.remove(key)
		return value, false
	}
	s.used = now
	f.order.MoveToFront(e)
	return s.value, true
}

// put remembers a state.
func (f *flows[T]) put(key flow, value T, now time.Time) {
	if f.states == nil {
		f.states = make(map[flow]*list.Element)
	}
	if e := f.states[key]; e != nil {
		*e.Value.(*state[T]) = state[T]{key, value, now}
		f.order.MoveToFront(e)
		return
	}
	if len(f.states) >= maxStates {
		f.remove(f.order.Back().Value.(*state[T]).key)
	}
	f.states[key] = f.order.PushFront(&state[T]{key, value, now})
}

func (f *flows[T]) remove(key flow) {
	if e := f.states[key]; e != nil {
		f.order.Remove(e)
		delete(f.states, key)
	}
}

// dice is a seeded source of chance of an element's own.
type dice struct{ *rand.Rand }

func newDice(seed uint64) dice { return dice{rand.New(rand.NewPCG(seed, 0))} }
