package stack_test

import (
	"bytes"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"innertun/stack"
	"innertun/stack/stacktest"
)

var (
	synData    = bytes.Repeat([]byte("SYN data "), 40)
	synAckData = bytes.Repeat([]byte("SYN-ACK data "), 30)
)

func payloadClient() *stacktest.Handshake {
	return &stacktest.Handshake{Payload: map[stack.Segment][]byte{stack.SYN: synData}, Take: true}
}

func payloadServer() *stacktest.Handshake {
	return &stacktest.Handshake{Payload: map[stack.Segment][]byte{stack.SYNACK: synAckData}, Take: true}
}

func TestSYNPayload(t *testing.T) {
	for _, lost := range []struct {
		name  string
		flags uint8 // of the first packet to lose
	}{{"no loss", 255}, {"SYN", stacktest.SYN}, {"SYN-ACK", stacktest.SYN | stacktest.ACK}, {"third", stacktest.ACK}} {
		t.Run(lost.name, func(t *testing.T) {
			families(t, func(t *testing.T, at netip.AddrPort) {
				w := newWorld(t, 0)
				w.path.SetTap(dropFirst(1, func(_ stacktest.Direction, p stacktest.Packet) bool { return p.Is(lost.flags) }))
				w.path.Capture()
				hs := serverHandshakes{make: payloadServer}
				c, s := w.connect(t, w.listen(t, at, hs.new), at, payloadClient())
				if seen, n := s.Handshake().(*stacktest.Handshake).Saw(stack.SYN); n != 1 || !bytes.Equal(seen.Payload, synData) {
					t.Fatalf("the server was shown %q, %d times", seen.Payload, n)
				}
				if seen, n := c.Handshake().(*stacktest.Handshake).Saw(stack.SYNACK); n != 1 || !bytes.Equal(seen.Payload, synAckData) {
					t.Fatalf("the client was shown %q, %d times", seen.Payload, n)
				}
				carry(t, c, s, randomBytes(300000))
				carry(t, s, c, randomBytes(300000))
				checkSequence(t, w.path.Packets())
			})
		})
	}
}

// checkSequence checks that the stream is without a seam on the wire: the SYN takes one number, its payload the next.
func checkSequence(t *testing.T, packets []stacktest.Captured) {
	t.Helper()
	var next [2]uint32
	for _, p := range packets {
		if p.Flags&stacktest.SYN != 0 {
			next[p.Direction] = p.Seq + 1 + uint32(len(p.Payload))
			continue
		}
		if first := next[p.Direction]; int32(p.Seq-first) < 0 {
			t.Fatalf("sequence number before the end of the SYN: %v", p)
		}
		if acked := next[1-p.Direction]; int32(p.Ack-acked) < 0 {
			t.Fatalf("the SYN and its payload are not acknowledged: %v", p)
		}
	}
}

// synPause is less than the time after which the SYN that follows a declined one is sent again, if it has no answer.
const synPause = 450 * time.Millisecond

// The server's handshake does not want the data: it is not acknowledged, and an ordinary SYN follows on the same ports.
func TestSYNPayloadDeclined(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		for name, newHandshake := range map[string]func(stack.Flow) stack.Handshake{
			"by a handshake":  (&serverHandshakes{}).new,
			"by plain TCP":    nil,
			"by no handshake": func(stack.Flow) stack.Handshake { return nil },
		} {
			t.Run(name, func(t *testing.T) {
				var w *world
				var h *stacktest.Handshake
				var c, s *stack.Conn
				inTime(t, synPause, func() time.Duration { // one round trip more is enough
					w = newWorld(t, 5*time.Millisecond)
					w.path.Capture()
					h = payloadClient()
					l := w.listen(t, at, newHandshake)
					start := time.Now()
					c, s = w.connect(t, l, at, h)
					return time.Since(start)
				})
				if seen, n := h.Saw(stack.SYNACK); n != 1 || len(seen.Payload) != 0 {
					t.Fatalf("shown %d times: %q", n, seen.Payload)
				}
				carry(t, c, s, randomBytes(100000))
				carry(t, s, c, randomBytes(100000))
				checkDeclined(t, w.path.Packets())
			})
		}
	})
}

func checkDeclined(t *testing.T, packets []stacktest.Captured) {
	t.Helper()
	var first stacktest.Packet
	syns, resets := 0, 0
	for _, p := range packets {
		switch {
		case p.Is(stacktest.SYN):
			syns++
			if syns == 1 {
				first = p.Packet
			} else if len(p.Payload) != 0 || p.Seq != first.Seq+uint32(len(synData)) || p.Src != first.Src {
				t.Fatalf("the second SYN is not an ordinary one at X: %v", p)
			}
		case p.Is(stacktest.SYN|stacktest.ACK) && syns == 1:
			if p.Ack != first.Seq+1 {
				t.Fatalf("what was not taken is acknowledged: %v", p)
			}
		case p.Is(stacktest.RST) && p.Direction == stacktest.AtoB:
			resets++
			if p.Seq != first.Seq+1 {
				t.Fatalf("the RST is not at the number acknowledged: %v", p)
			}
		}
		if bytes.Contains(p.Payload, synData) && p.Flags&stacktest.SYN == 0 {
			t.Fatalf("the data of the SYN comes again: %v", p)
		}
	}
	if syns != 2 || resets != 1 {
		t.Fatalf("%d SYNs and %d RSTs", syns, resets)
	}
}

// A RST that answers a SYN with data may acknowledge it without the data.
func TestSYNPayloadReset(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		w := newWorld(t, 0)
		w.path.SetTap(func(d stacktest.Direction, p stacktest.Packet) [][]byte {
			if d == stacktest.BtoA && p.Flags&stacktest.RST != 0 {
				setAck(p.Raw, p.Ack-uint32(len(synData)))
			}
			return [][]byte{p.Raw}
		})
		if _, err := w.client.Dial(testContext(t), stack.Flow{Remote: at}, payloadClient()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("Dial: %v", err)
		}
	})
}

func setAck(raw []byte, ack uint32) {
	at := 20
	if raw[0]>>4 == 6 {
		at = 40
	}
	raw[at+8], raw[at+9], raw[at+10], raw[at+11] = byte(ack>>24), byte(ack>>16), byte(ack>>8), byte(ack)
	stacktest.SetTCPChecksum(raw)
}

// The payload of the SYN-ACK goes lost on the way, or the peer ignores it: such a connection cannot go on.
func TestSYNACKPayloadDeclined(t *testing.T) {
	at := netip.AddrPortFrom(server4.Addr(), 80)
	w := newWorld(t, 0)
	hs := serverHandshakes{make: payloadServer}
	w.listen(t, at, hs.new)
	w.path.SetTap(func(d stacktest.Direction, p stacktest.Packet) [][]byte {
		if d == stacktest.BtoA && p.Is(stacktest.SYN|stacktest.ACK) {
			raw := p.Raw[:len(p.Raw)-len(p.Payload)]
			raw[2], raw[3] = byte(len(raw)>>8), byte(len(raw))
			stacktest.SetTCPChecksum(raw)
			return [][]byte{raw}
		}
		return [][]byte{p.Raw}
	})
	w.resetSoon(t, at)
	settled(t, w.server)
}

// foreignSYNPayload opens a connection whose SYN has ENO and data that nobody takes.
func foreignSYNPayload(t *testing.T, at netip.AddrPort, newHandshake func(stack.Flow) stack.Handshake) (w *world, c, s *stack.Conn) {
	t.Helper()
	inTime(t, synPause, func() time.Duration {
		w = newWorld(t, 0)
		l := w.listen(t, at, newHandshake)
		h := clientHandshake()
		h.Payload = map[stack.Segment][]byte{stack.SYN: synData}
		w.path.Capture()
		start := time.Now()
		c, s = w.connect(t, l, at, h)
		return time.Since(start)
	})
	return w, c, s
}

// RFC 8547, Section 4.7: data of a SYN with ENO that nobody took is discarded, and only the SYN acknowledged.
func TestForeignSYNPayloadIsDiscarded(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		w, c, s := foreignSYNPayload(t, at, (&serverHandshakes{}).new)
		carry(t, c, s, []byte("data proper")) // and nothing before it
		checkDeclined(t, w.path.Packets())
	})
}

// The same where nobody takes part at the listener. RFC 8547, Section 4.7: "even when ENO has been disabled".
func TestForeignSYNPayloadIsDiscardedWithoutHandshake(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		w, c, s := foreignSYNPayload(t, at, nil)
		carry(t, c, s, []byte("data proper"))
		checkDeclined(t, w.path.Packets())
	})
}
