package seam

import (
	"encoding/binary"
	"sync/atomic"
	"testing"

	"innertun/integration/lab"
	"innertun/tcpinc"
)

// urgent says of every segment with data that its first octet is urgent.
type urgent struct{ marked atomic.Int64 }

func (u *urgent) Packet(p lab.Packet, at lab.Place) {
	if s, ok := lab.ParseSegment(p.Data); ok && !s.IsSYN() && len(s.Payload()) > 0 {
		const urg, pointer = 0x20, 1
		sum := uint32(^binary.BigEndian.Uint16(s.TCP[16:])) + urg + pointer
		sum = sum&0xffff + sum>>16
		s.TCP[13] |= urg
		binary.BigEndian.PutUint16(s.TCP[18:], pointer)
		binary.BigEndian.PutUint16(s.TCP[16:], ^uint16(sum))
		u.marked.Add(1)
	}
	at.Send(p)
}

// Segments that say that they carry urgent data deliver it in its place, encrypted or not: none is lost, and none is
// delivered as urgent. RFC 8547, Section 5.
func TestUrgentSegments(t *testing.T) {
	for _, policy := range []tcpinc.Policy{tcpinc.Require, tcpinc.Off} {
		t.Run(policy.String(), func(t *testing.T) {
			path := new(urgent)
			client, server := pair(t, path)
			serve(t, server, tcpinc.ListenConfig{})
			state, err := talk(t, client, policy)
			if err != nil || state.Encrypted != (policy == tcpinc.Require) || path.marked.Load() < 100 {
				t.Errorf("%+v, %v, %d segments marked", state, err, path.marked.Load())
			}
		})
	}
}
