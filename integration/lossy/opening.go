package lossy

import (
	"bytes"
	"encoding/binary"
	"sync"
)

// openingPackets is how many packets of one direction belong to the opening of a TCP connection: handshake and key exchange,
// and what of them is sent again.
const openingPackets = 12

// openings bounds what is lost of the openings of connections. It may be used from any goroutine; nil bounds nothing.
type openings struct {
	most int

	mu  sync.Mutex
	all map[string]*opening // by addresses and ports, the lesser end first
}

type opening struct {
	seen [2]int // packets of each end
	lost int
}

func newOpenings(most int) *openings {
	if most == 0 {
		return nil
	}
	return &openings{most: most, all: make(map[string]*opening)}
}

// spare counts a packet and tells whether it must pass although it was to be lost.
func (o *openings) spare(frame []byte, lose bool) bool {
	if o == nil {
		return false
	}
	src, dst, ok := ends(frame)
	if !ok {
		return false
	}
	from, key := 0, string(src)+string(dst)
	if bytes.Compare(src, dst) > 0 {
		from, key = 1, string(dst)+string(src)
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

// ends returns address and port of both ends of a TCP packet.
func ends(frame []byte) (src, dst []byte, ok bool) {
	const ethernet, tcp = 14, 6
	if len(frame) < ethernet+20 {
		return nil, nil, false
	}
	p := frame[ethernet:]
	header, at, size, protocol := int(p[0]&15)*4, 12, 4, p[9]
	if binary.BigEndian.Uint16(frame[12:]) == 0x86dd {
		header, at, size, protocol = 40, 8, 16, p[6]
	}
	if protocol != tcp || len(p) < header+4 || header < at+2*size {
		return nil, nil, false
	}
	src = append(append(src, p[at:at+size]...), p[header:header+2]...)
	dst = append(append(dst, p[at+size:at+2*size]...), p[header+2:header+4]...)
	return src, dst, true
}
