package lab

import (
	"sync/atomic"
	"time"
)

// Rate is a bottleneck: packets leave one after the other at a rate, and wait their turn in a queue of bounded size.
// The two directions are independent of each other.
type Rate struct {
	bits    int64
	queue   int
	free    [2]time.Time // when the link is done with what it has taken
	dropped atomic.Int64
}

// NewRate returns a bottleneck of bitsPerSecond, counted over IP packets, with room for queue octets of packets that
// wait; what comes in beyond that is dropped.
func NewRate(bitsPerSecond int64, queue int) *Rate {
	return &Rate{bits: max(bitsPerSecond, 1), queue: queue}
}

// Dropped is the number of packets that found the queue full.
func (r *Rate) Dropped() int64 { return r.dropped.Load() }

// Acted implements Actor: it counts the packets that found the queue full.
func (r *Rate) Acted() int64 { return r.dropped.Load() }

// Packet implements Element.
func (r *Rate) Packet(p Packet, at Place) {
	now := at.Now()
	start := r.free[p.To]
	if start.Before(now) {
		start = now
	} else if waiting := int64(start.Sub(now).Seconds() * float64(r.bits) / 8); waiting+int64(len(p.Data)) > int64(r.queue) {
		r.dropped.Add(1)
		return
	}
	took := time.Duration(float64(len(p.Data)*8) / float64(r.bits) * float64(time.Second))
	r.free[p.To] = start.Add(took)
	at.SendAfter(r.free[p.To].Sub(now), p)
}
