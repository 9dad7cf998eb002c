// Package lab emulates network paths inside the process. A Path joins two ends that send and receive whole IP packets;
// on its way each packet passes a row of small elements: delay, rate, loss, middleboxes. Nothing here opens a socket or
// needs a privilege, and with a Manual clock and seeded elements a run repeats octet for octet.
package lab

import (
	"io"
	"time"
)

// End is one side of a path. The elements of a path stand in a row from A to B.
type End uint8

const (
	A End = iota
	B
)

// Other returns the opposite side.
func (e End) Other() End { return e ^ 1 }

func (e End) String() string {
	if e == A {
		return "A"
	}
	return "B"
}

// Packet is one IP packet under way.
type Packet struct {
	Data []byte // starts with the IP header; whoever holds the Packet may change it
	To   End    // the side it travels towards
	// Partial: the checksum field of TCP or UDP holds the sum of the pseudo-header only, as hosts with checksum offload
	// have it. A path fills it in before delivery; elements keep it as it is.
	Partial bool
}

// Element is one thing on a path: it sees every packet, in both directions, and decides what goes on.
// A Path calls its elements one at a time, so an element needs no lock for what only Packet and its own timers touch.
type Element interface {
	// Packet takes one packet over. What is not sent on through the place is lost.
	Packet(p Packet, at Place)
}

// Place is where an element stands on its path. It is valid for the life of the path, and to be used from
// Element.Packet and from functions given to After only; After itself may be called from any goroutine, under any lock.
type Place interface {
	// Now is the path's time.
	Now() time.Time
	// Send passes a packet on towards p.To, at once. An element may answer: a packet for the other side starts here.
	Send(p Packet)
	// SendAfter passes a packet on after d.
	SendAfter(d time.Duration, p Packet)
	// After calls f after d, unless cancel is called first.
	After(d time.Duration, f func()) (cancel func())
}

// Towards restricts an element to the packets that travel to one side; the others pass it by.
func Towards(to End, e Element) Element { return oneWay{to, e} }

type oneWay struct {
	to      End
	element Element
}

// Unwrap returns the element that is restricted.
func (o oneWay) Unwrap() Element { return o.element }

// Acted implements Actor.
func (o oneWay) Acted() int64 {
	if a, ok := o.element.(Actor); ok {
		return a.Acted()
	}
	return 0
}

// Close implements io.Closer.
func (o oneWay) Close() error {
	if c, ok := o.element.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

func (o oneWay) Packet(p Packet, at Place) {
	if p.To != o.to {
		at.Send(p)
		return
	}
	o.element.Packet(p, at)
}
