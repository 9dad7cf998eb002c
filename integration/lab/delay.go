package lab

import "time"

// Delay holds each packet, of either direction, for a fixed time: half a round trip.
type Delay time.Duration

// Packet implements Element.
func (d Delay) Packet(p Packet, at Place) { at.SendAfter(time.Duration(d), p) }
