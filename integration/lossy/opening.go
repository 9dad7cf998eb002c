package lossy

import (
	"net/netip"
	"sync"

	"innertun/integration/lab"
)

// openingPackets is how many packets of one direction belong to the opening of a TCP connection: handshake and key exchange,
// and what of them is sent again.
const openingPackets = 12

const ethernetHeader = 14 // octets

// openings bounds what is lost of the openings of connections. It may be used from any goroutine; nil bounds nothing.
type openings struct {
	most int

	mu  sync.Mutex
	all map[[2]netip.AddrPort]*opening // the lesser end first
}

type opening struct {
	seen [2]int // packets of each end
	lost int
}

func newOpenings(most int) *openings {
	if most == 0 {
		return nil
	}
	return &openings{most: most, all: make(map[[2]netip.AddrPort]*opening)}
}

// spare counts a packet and tells whether it must pass although it was to be lost.
func (o *openings) spare(frame []byte, lose bool) bool {
	if o == nil {
		return false
	}
	if len(frame) < ethernetHeader {
		return false
	}
	seg, ok := lab.ParseSegment(frame[ethernetHeader:])
	if !ok {
		return false
	}
	from, key := 0, [2]netip.AddrPort{seg.Source, seg.Destination}
	if seg.Source.Compare(seg.Destination) > 0 {
		from, key = 1, [2]netip.AddrPort{seg.Destination, seg.Source}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	c := o.all[key]
	if c == nil {
		c = new(opening)
		o.all[key] = c
	}
	c.seen[from]++
	switch {
	case !lose || c.seen[from] > openingPackets:
		return false
	case c.lost >= o.most:
		return true
	}
	c.lost++
	return false
}
