package link

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Tapped is one packet as it crosses a link, with what is still left to do for it. What is refused afterwards, by the
// kernel on the way out or for a bad checksum on the way in, has been seen too.
type Tapped struct {
	At       time.Time
	Outgoing bool
	// Parts are the packet's octets, link-layer header first. They are valid only during the call.
	Parts [][]byte
	// SegmentSize is how many octets of payload the segments have that a TCP super-packet stands for; 0: it is one packet.
	SegmentSize int
	// PartialChecksum says that the TCP checksum covers the pseudo-header only: the kernel or the interface finishes it.
	PartialChecksum bool
}

// Size is the length of the packet in octets.
func (t *Tapped) Size() int {
	n := 0
	for _, p := range t.Parts {
		n += len(p)
	}
	return n
}

// SetTap has see called for each packet that is sent or received, from several goroutines at once and in the way of the
// packets; nil ends it. A call that has begun may still be going on when SetTap returns.
func (p *Packet) SetTap(see func(Tapped)) { p.e.setTap(see) }

// SetTap is Packet's.
func (t *TUN) SetTap(see func(Tapped)) { t.e.setTap(see) }

func (e *endpoint) setTap(see func(Tapped)) {
	if see == nil {
		e.tap.Store(nil)
		return
	}
	e.tap.Store(&see)
}

// tapSent shows packets that are about to be sent: an answer to them must not be seen before they are.
func (e *endpoint) tapSent(see func(Tapped), pkts []*stack.PacketBuffer) {
	now := time.Now()
	for _, pkt := range pkts {
		h := vnetHeaderFor(pkt, e.linkHeaderLen())
		t := Tapped{At: now, Outgoing: true, PartialChecksum: h.flags&vnetNeedsChecksum != 0}
		if h.gsoType != vnetGSONone {
			t.SegmentSize = int(h.gsoSize)
		}
		views, skip := pkt.AsViewList()
		for v := views.Front(); v != nil; v = v.Next() {
			b := v.AsSlice()
			n := min(skip, len(b))
			skip -= n
			if n < len(b) {
				t.Parts = append(t.Parts, b[n:])
			}
		}
		see(t)
	}
}

// tapReceived shows a packet as it was read.
func tapReceived(see func(Tapped), h vnetHeader, first []byte, more [2][]byte) {
	t := Tapped{At: time.Now(), PartialChecksum: h.flags&vnetNeedsChecksum != 0}
	if h.gsoType != vnetGSONone {
		t.SegmentSize = int(h.gsoSize)
	}
	for _, b := range [...][]byte{first, more[0], more[1]} {
		if len(b) > 0 {
			t.Parts = append(t.Parts, b)
		}
	}
	see(t)
}
