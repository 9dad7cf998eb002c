package stack_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/netip"
	"testing"
	"time"

	"innertun/stack"
	"innertun/stack/stacktest"
)

// A server that answers and closes before the third segment has come: the reply arrives whole, also if the SYN-ACK was lost
// and is asked for again when nobody holds the connection any more.
func TestEarlyOpenClosedBeforeTheThird(t *testing.T) {
	reply := randomBytes(5000)
	for _, lost := range []struct {
		name  string
		flags uint8
	}{{"no loss", 255}, {"SYN-ACK", stacktest.SYN | stacktest.ACK}, {"third", stacktest.ACK}, {"FIN", stacktest.FIN | stacktest.ACK}} {
		t.Run(lost.name, func(t *testing.T) {
			families(t, func(t *testing.T, at netip.AddrPort) {
				w := newWorld(t, 10*time.Millisecond)
				w.path.SetTap(dropFirst(1, func(d stacktest.Direction, p stacktest.Packet) bool {
					return p.Is(lost.flags) && (d == stacktest.BtoA) == (lost.flags != stacktest.ACK)
				}))
				l := w.listen(t, at, func(stack.Flow) stack.Handshake { return opener{payloadServer()} })
				go func() {
					s, err := l.AcceptConn()
					if err != nil {
						t.Error(err)
						return
					}
					s.Write(reply)
					s.Close()
				}()
				c, err := w.client.Dial(testContext(t), stack.Flow{Remote: at}, payloadClient())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(testTimeout))
				if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, reply) {
					t.Errorf("%d octets of %d, %v", len(got), len(reply), err)
				}
				c.Close()
				eventually(t, "the flow goes", func() bool { return w.server.Stats().Flows == 0 })
			})
		})
	}
}

// earlyServer listens at an address with a peer to it, and opens connections early.
func earlyServer(t *testing.T) (p *peer, clock *stacktest.Clock, l *stack.Listener, at netip.AddrPort) {
	t.Helper()
	p, clock = newPeer(t), stacktest.NewClock()
	s := newStack(t, stack.Config{Link: p.wire, Addresses: []netip.Prefix{server4}, Routes: routes, Clock: clock})
	at = netip.AddrPortFrom(server4.Addr(), 80)
	l, err := s.Listen(at, func(stack.Flow) stack.Handshake { return opener{payloadServer()} })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return p, clock, l, at
}

// However often the SYN-ACK is lost, each repetition of the SYN is answered with it, also when the server has long answered
// and closed; and the reply follows.
func TestEarlyOpenAnswersEachSYN(t *testing.T) {
	p, clock, l, at := earlyServer(t)
	src := netip.MustParseAddrPort("198.18.9.9:999")
	syn := stacktest.Segment(src, at, 1000, 0, stacktest.SYN, []byte{2, 4, 5, 180}, synData)
	reply := randomBytes(3000)
	var first stacktest.Packet
	for i, pause := range []int{0, 1, 2, 4, 8, 16} { // in seconds, as RFC 6298 has them
		for range 10 * pause {
			clock.Advance(100 * time.Millisecond)
		}
		p.forget()
		p.wire.Inject(bytes.Clone(syn))
		sa := p.await("a SYN-ACK came", func(x stacktest.Packet) bool { return x.Is(stacktest.SYN | stacktest.ACK) })
		if i == 0 {
			first = sa
			c, err := l.AcceptConn()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write(reply); err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		if sa.Seq != first.Seq || sa.Ack != first.Ack || !bytes.Equal(sa.Options, first.Options) || !bytes.Equal(sa.Payload, first.Payload) {
			t.Fatalf("after %d s: %v, at first %v", pause, sa, first)
		}
	}
	p.forget()
	next := first.Seq + 1 + uint32(len(first.Payload))
	acked, got := next, []byte(nil)
	for len(got) < len(reply) {
		p.wire.Inject(stacktest.Segment(src, at, first.Ack, acked, stacktest.ACK, nil, nil))
		for range 10 * 40 { // the timeout has doubled each time
			clock.Advance(100 * time.Millisecond)
		}
		x := p.await("the reply came", func(x stacktest.Packet) bool { return x.Seq == acked && len(x.Payload) > 0 })
		got = append(got, x.Payload...)
		acked += uint32(len(x.Payload))
	}
	if !bytes.Equal(got, reply) {
		t.Error("the reply came altered")
	}
}

// A connection that was aborted before the third segment is no more: its SYN, repeated, opens a new one, with a Handshake
// of its own.
func TestEarlyOpenAbortedBeforeTheThird(t *testing.T) {
	p := newPeer(t)
	s := newStack(t, stack.Config{Link: p.wire, Addresses: []netip.Prefix{server4}, Routes: routes})
	at := netip.AddrPortFrom(server4.Addr(), 80)
	made := make(chan *stacktest.Handshake, 8)
	l, err := s.Listen(at, func(stack.Flow) stack.Handshake {
		h := payloadServer()
		made <- h
		return opener{h}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	src := netip.MustParseAddrPort("198.18.9.9:999")
	syn := stacktest.Segment(src, at, 1000, 0, stacktest.SYN, []byte{2, 4, 5, 180}, synData)
	for round := range 2 {
		p.forget()
		p.wire.Inject(syn)
		c, err := l.AcceptConn()
		if err != nil {
			t.Fatal(err)
		}
		if len(made) != round+1 {
			t.Fatalf("round %d: %d handshakes", round, len(made))
		}
		if c.Handshake() == nil {
			t.Fatalf("round %d: no handshake", round)
		}
		p.await("a SYN-ACK came", func(x stacktest.Packet) bool { return x.Is(stacktest.SYN | stacktest.ACK) })
		c.Abort()
	}
}

// The third segment that the netstack is handed has the window that the peer's SYN offers, which is not scaled, and says
// nothing of the round-trip time.
func TestEarlyOpenWindow(t *testing.T) {
	p, clock, l, at := earlyServer(t)
	src := netip.MustParseAddrPort("198.18.9.9:999")
	const window, shift = 4000, 3
	options := []byte{2, 4, 5, 180, 3, 3, shift, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 4, 2}
	syn := stacktest.Segment(src, at, 1000, 0, stacktest.SYN, options, synData)
	binary.BigEndian.PutUint16(syn[20+14:], window)
	stacktest.SetTCPChecksum(syn)
	p.wire.Inject(syn)
	c, err := l.AcceptConn()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Abort()
	c.Write(make([]byte, 20000))
	hasData := func(x stacktest.Packet) bool { return len(x.Payload) > 0 && !x.Is(stacktest.SYN|stacktest.ACK) }
	p.await("data came", hasData)
	for range 60 { // longer than the least timeout there is
		clock.Advance(10 * time.Millisecond)
		time.Sleep(time.Millisecond) // for what the clock set in motion
	}
	sent := make(map[uint32]int)
	total := 0
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.got {
		if hasData(x) {
			if sent[x.Seq]++; sent[x.Seq] > 1 {
				t.Errorf("%v was sent again", x)
			} else {
				total += len(x.Payload)
			}
		}
	}
	if total == 0 || total > window {
		t.Errorf("%d octets for a window of %d", total, window)
	}
	if rto := c.RTO(); rto < 900*time.Millisecond {
		t.Errorf("RTO %v", rto)
	}
}
