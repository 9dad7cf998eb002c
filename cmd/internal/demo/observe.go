package demo

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"time"

	"innertun/integration/lab"
	"innertun/tcpinc/innerspace"
)

// kindENO is the option kind of TCP-ENO (RFC 8547, Section 4.1).
const kindENO = 69

// conversation is what an eavesdropper on the path has seen of one connection: every packet, and the two streams put
// together again. It knows nothing of what either end knows.
type conversation struct {
	syn     time.Time // when the first SYN passed
	synData []byte    // what the client's SYN carried
	packets []lab.Captured
	up      []byte // octets of the stream to the server
	down    []byte // and from it
}

// maxStream bounds what is put together of one direction, in octets.
const maxStream = 64 << 20

// overhear picks the connection with this client end and this server end out of what passed the tap.
func overhear(packets []lab.Captured, client, server netip.AddrPort) conversation {
	var c conversation
	var isn [2]uint32
	for _, p := range packets {
		s, ok := lab.ParseSegment(p.Data)
		if !ok {
			continue
		}
		stream := &c.up
		switch {
		case s.Source == client && s.Destination == server:
		case s.Source == server && s.Destination == client:
			stream = &c.down
		default:
			continue
		}
		c.packets = append(c.packets, p)
		if s.IsSYN() {
			isn[p.To] = s.Seq()
			if p.To == lab.B && c.syn.IsZero() {
				c.syn, c.synData = p.At, s.Payload()
			}
			place(stream, 0, s.Payload()) // the SYN itself takes the number before
			continue
		}
		place(stream, s.Seq()-isn[p.To]-1, s.Payload())
	}
	return c
}

// place puts octets at their offset of a stream.
func place(stream *[]byte, offset uint32, octets []byte) {
	end := int64(offset) + int64(len(octets))
	if len(octets) == 0 || end > maxStream {
		return
	}
	if grow := end - int64(len(*stream)); grow > 0 {
		*stream = append(*stream, make([]byte, grow)...)
	}
	copy((*stream)[offset:], octets)
}

// sees reports whether a run of octets shows anywhere: in either stream, or in one packet by itself.
func (c conversation) sees(text []byte) bool {
	if bytes.Contains(c.up, text) || bytes.Contains(c.down, text) {
		return true
	}
	for _, p := range c.packets {
		if bytes.Contains(p.Data, text) {
			return true
		}
	}
	return false
}

// seesAny looks for samples taken all over what the application sent.
func (c conversation) seesAny(sent []byte) bool {
	const size, samples = 24, 64
	step := max((len(sent)-size)/samples, 1)
	for i := 0; i+size <= len(sent); i += step {
		if c.sees(sent[i : i+size]) {
			return true
		}
	}
	return false
}

// applications is the part of the stream to the server that has the application's octets in it: behind what an upgraded
// SYN has besides, or behind Init1 (RFC 8548, Section 4.1).
func (c conversation) applications() []byte {
	if s, o, err := innerspace.ParseSYN(c.synData); o == innerspace.Upgraded && err == nil {
		return c.up[len(c.synData)-len(s.Payload):]
	}
	const magic = 0x15101a0e
	if len(c.up) < 8 || binary.BigEndian.Uint32(c.up) != magic {
		return c.up
	}
	length := binary.BigEndian.Uint32(c.up[4:])
	if uint64(length) > uint64(len(c.up)) {
		return c.up
	}
	return c.up[length:]
}
