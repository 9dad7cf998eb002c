package lab

import (
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"
)

// chance is a seeded coin: the same seed gives the same fate to the same sequence of packets.
type chance struct {
	probability float64
	rand        *rand.Rand
	hits        atomic.Int64
}

func newChance(probability float64, seed uint64) chance {
	return chance{probability: probability, rand: rand.New(rand.NewPCG(seed, 0))}
}

func (c *chance) hit() bool {
	if c.rand.Float64() >= c.probability {
		return false
	}
	c.hits.Add(1)
	return true
}

// Acted implements Actor.
func (c *chance) Acted() int64 { return c.hits.Load() }

// Loss drops packets at random.
type Loss struct{ chance }

// NewLoss drops each packet with a probability in [0, 1].
func NewLoss(probability float64, seed uint64) *Loss { return &Loss{newChance(probability, seed)} }

// Dropped is the number of packets lost so far.
func (l *Loss) Dropped() int64 { return l.hits.Load() }

// Packet implements Element.
func (l *Loss) Packet(p Packet, at Place) {
	if !l.hit() {
		at.Send(p)
	}
}

// Reorder holds packets back at random, so that later ones overtake them.
type Reorder struct {
	chance
	by time.Duration
}

// NewReorder holds each packet back by a time, with a probability in [0, 1].
func NewReorder(probability float64, by time.Duration, seed uint64) *Reorder {
	return &Reorder{newChance(probability, seed), by}
}

// Held is the number of packets held back so far.
func (r *Reorder) Held() int64 { return r.hits.Load() }

// Packet implements Element.
func (r *Reorder) Packet(p Packet, at Place) {
	if r.hit() {
		at.SendAfter(r.by, p)
		return
	}
	at.Send(p)
}

func copyOf(p Packet) Packet {
	p.Data = slices.Clone(p.Data)
	return p
}

// Duplicate sends packets twice at random.
type Duplicate struct {
	chance
	after time.Duration
}

// NewDuplicate sends a copy of a packet some time after it, with a probability in [0, 1].
func NewDuplicate(probability float64, after time.Duration, seed uint64) *Duplicate {
	return &Duplicate{newChance(probability, seed), after}
}

// Copied is the number of packets sent twice so far.
func (d *Duplicate) Copied() int64 { return d.hits.Load() }

// Packet implements Element.
func (d *Duplicate) Packet(p Packet, at Place) {
	if d.hit() {
		at.SendAfter(d.after, copyOf(p))
	}
	at.Send(p)
}
