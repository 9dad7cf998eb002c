package lab

import "time"

// Delay holds each packet, of either direction, for a fixed time: half a round trip.
type Delay time.Duration

// Packet implements Element.
func (d Delay) Packet(p Packet, at Place) { at.SendAfter(time.Duration(d), p) }

// Jitter is a delay that varies: radio links and busy queues. It counts the packets that it held longer than the least.
type Jitter struct {
	least, spread time.Duration
	overtake      bool
	dice          dice
	last          [2]time.Time
	acted
}

// NewJitter holds each packet for a time drawn evenly from [least, least+spread). Packets stay in order unless overtake.
func NewJitter(least, spread time.Duration, overtake bool, seed uint64) *Jitter {
	return &Jitter{least: least, spread: spread, overtake: overtake, dice: newDice(seed)}
}

// Packet implements Element.
func (j *Jitter) Packet(p Packet, at Place) {
	hold := j.least
	if j.spread > 0 {
		if more := time.Duration(j.dice.Int64N(int64(j.spread))); more > 0 {
			j.act()
			hold += more
		}
	}
	now := at.Now()
	leave := now.Add(hold)
	if !j.overtake && leave.Before(j.last[p.To]) {
		leave = j.last[p.To]
	}
	j.last[p.To] = leave
	at.SendAfter(leave.Sub(now), p)
}
