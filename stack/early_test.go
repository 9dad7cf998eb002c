package stack_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/faketime"

	"innertun/stack"
	"innertun/stack/stacktest"
)

var errDeclined = errors.New("the data was not taken")

// declined is a handshake that does not go on without its SYN data.
type declined struct{ *stacktest.Handshake }

func (declined) Declined() error { return errDeclined }

func TestDeclinedEndsTheDial(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		w := newWorld(t, 2*time.Millisecond, still) // nothing is sent again
		w.path.Capture()
		w.listen(t, at, nil)
		_, err := w.client.Dial(testContext(t), stack.Flow{Remote: at}, declined{payloadClient()})
		if !errors.Is(err, errDeclined) {
			t.Fatalf("Dial: %v", err)
		}
		eventually(t, "the peer is told", func() bool {
			return slices.ContainsFunc(w.path.Packets(), func(p stacktest.Captured) bool {
				return p.Direction == stacktest.AtoB && p.Is(stacktest.RST)
			})
		})
		time.Sleep(20 * time.Millisecond)
		syns, resets := 0, 0
		for _, p := range w.path.Packets() {
			switch {
			case p.Is(stacktest.SYN):
				syns++
			case p.Direction == stacktest.AtoB && p.Is(stacktest.RST):
				resets++
			case p.Direction == stacktest.AtoB:
				t.Errorf("the handshake went on: %v", p)
			}
		}
		if syns != 1 || resets == 0 {
			t.Errorf("%d SYNs, %d RSTs", syns, resets)
		}
	})
}

// gated is a handshake whose SYN-ACK waits.
type gated struct {
	*stacktest.Handshake
	gate chan struct{}
}

func (g gated) Gate() <-chan struct{} { return g.gate }

func TestGate(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		clock := stacktest.NewClock()
		w := newWorld(t, 2*time.Millisecond, func(c, s *stack.Config) { c.Clock, s.Clock = clock, clock })
		w.path.Capture()
		l := w.listen(t, at, nil)
		h := gated{&stacktest.Handshake{Options: map[stack.Segment][]byte{stack.SYN: eno21}}, make(chan struct{})}
		dialled := make(chan *stack.Conn, 1)
		go func() {
			c, err := w.client.Dial(testContext(t), stack.Flow{Remote: at}, h)
			if err != nil {
				t.Error(err)
			}
			dialled <- c
		}()
		count := func(flags uint8) (n int) {
			for _, p := range w.path.Packets() {
				if p.Is(flags) {
					n++
				}
			}
			return n
		}
		eventually(t, "a SYN-ACK comes", func() bool { return count(stacktest.SYN|stacktest.ACK) > 0 })
		clock.Advance(1300 * time.Millisecond)
		eventually(t, "SYN and SYN-ACK are repeated", func() bool {
			return count(stacktest.SYN) > 1 && count(stacktest.SYN|stacktest.ACK) > 1
		})
		time.Sleep(50 * time.Millisecond)
		for _, p := range w.path.Packets() {
			if p.Direction == stacktest.AtoB && !p.Is(stacktest.SYN) {
				t.Fatalf("the gate is closed: %v", p)
			}
		}
		close(h.gate) // and that is enough: the clock stands still, so nothing is repeated any more
		c := <-dialled
		if c == nil {
			t.FailNow()
		}
		defer c.Close()
		s, err := l.AcceptConn()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		carry(t, c, s, randomBytes(100000))
		carry(t, s, c, randomBytes(100000))
		if _, n := h.Saw(stack.SYNACK); n != 1 {
			t.Errorf("the SYN-ACK was shown %d times", n)
		}
	})
}

// A dial that is given up at the gate leaves nothing behind at the peer: no connection was ever open there.
func TestGateGivenUp(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		w := newWorld(t, 2*time.Millisecond)
		w.path.Capture()
		l := w.listen(t, at, nil)
		ctx, cancel := context.WithCancel(testContext(t))
		defer cancel()
		h := gated{&stacktest.Handshake{}, make(chan struct{})}
		dialled := make(chan error, 1)
		go func() {
			_, err := w.client.Dial(ctx, stack.Flow{Remote: at}, h)
			dialled <- err
		}()
		eventually(t, "it is at the gate", func() bool { _, n := h.Saw(stack.SYNACK); return n == 1 })
		time.Sleep(20 * time.Millisecond)
		cancel()
		if err := <-dialled; !errors.Is(err, context.Canceled) {
			t.Fatalf("Dial: %v", err)
		}
		eventually(t, "the peer is told", func() bool {
			return slices.ContainsFunc(w.path.Packets(), func(p stacktest.Captured) bool {
				return p.Direction == stacktest.AtoB && p.Is(stacktest.RST)
			})
		})
		time.Sleep(50 * time.Millisecond)
		resets := 0
		for _, p := range w.path.Packets() {
			if p.Direction == stacktest.AtoB && p.Is(stacktest.RST) {
				resets++
			} else if p.Direction == stacktest.AtoB && !p.Is(stacktest.SYN) {
				t.Errorf("the gate is closed: %v", p)
			}
		}
		if resets == 0 {
			t.Error("the peer was not told")
		}
		l.Close()
		if c, err := l.AcceptConn(); err == nil {
			t.Errorf("a connection was accepted: %v", c.RemoteAddr())
		}
	})
}

// opener is a passive handshake that knows its peer by the SYN.
type opener struct{ *stacktest.Handshake }

func (opener) EarlyOpen() bool { return true }

// behindReply keeps what the client sends behind its SYN until the server's reply has left: a server that waits for that has none.
func behindReply() stacktest.Tap {
	var mu sync.Mutex
	replied := false
	var held [][]byte
	return func(d stacktest.Direction, p stacktest.Packet) [][]byte {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case d == stacktest.BtoA:
			replied = replied || p.Flags&stacktest.SYN == 0 && len(p.Payload) > 0
		case !replied && p.Protocol == 6 && p.Flags&stacktest.SYN == 0:
			held = append(held, p.Raw)
			return nil
		}
		out := [][]byte{p.Raw}
		if d == stacktest.AtoB {
			out, held = append(held, p.Raw), nil
		}
		return out
	}
}

// The reply follows the SYN-ACK at once: one round trip for SYN data and the answer to it.
func TestEarlyOpen(t *testing.T) {
	for _, lost := range []struct {
		name  string
		flags uint8
	}{{"no loss", 255}, {"SYN", stacktest.SYN}, {"SYN-ACK", stacktest.SYN | stacktest.ACK}, {"third", stacktest.ACK}} {
		t.Run(lost.name, func(t *testing.T) {
			families(t, func(t *testing.T, at netip.AddrPort) {
				const oneWay = 30 * time.Millisecond
				w := newWorld(t, oneWay)
				if lost.flags == 255 {
					w.path.SetTap(behindReply())
				} else {
					w.path.SetTap(dropFirst(1, func(_ stacktest.Direction, p stacktest.Packet) bool { return p.Is(lost.flags) }))
				}
				w.path.Capture()
				hs := make(chan *stacktest.Handshake, 8)
				l := w.listen(t, at, func(stack.Flow) stack.Handshake {
					h := payloadServer()
					hs <- h
					return opener{h}
				})
				reply := []byte("reply")
				done := make(chan struct{})
				go func() {
					defer close(done)
					s, err := l.AcceptConn()
					if err != nil {
						t.Error(err)
						return
					}
					s.Write(reply)
					data, _ := io.ReadAll(s)
					s.Write(data)
					s.Close()
				}()
				c, err := w.client.Dial(testContext(t), stack.Flow{Remote: at}, payloadClient())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(testTimeout))
				got := make([]byte, len(reply))
				if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, reply) {
					t.Fatalf("%q, %v", got, err)
				}
				sent := randomBytes(200000)
				if _, err := c.Write(sent); err != nil {
					t.Fatal(err)
				}
				c.CloseWrite()
				if echo, err := io.ReadAll(c); err != nil || !bytes.Equal(echo, sent) {
					t.Errorf("%d octets came back, %v", len(echo), err)
				}
				<-done
				h := <-hs
				if _, n := h.Saw(stack.NonSYN); n != 1 {
					t.Errorf("the third segment was shown %d times", n)
				}
				checkSequence(t, w.path.Packets())
				if st := w.server.Stats(); st.Flows != 0 {
					t.Errorf("%d flows are left", st.Flows)
				}
			})
		})
	}
}

// What the third segment shows can still end a connection that was opened early.
func TestEarlyOpenRefused(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		w := newWorld(t, 10*time.Millisecond)
		both := make(chan struct{}) // closed when either end has the connection; until then the third segment waits
		w.path.SetTap(func(d stacktest.Direction, p stacktest.Packet) [][]byte {
			if d == stacktest.AtoB && !p.Is(stacktest.SYN) {
				select {
				case <-both:
				case <-t.Context().Done():
				}
			}
			return [][]byte{p.Raw}
		})
		stripped := errors.New("stripped")
		l := w.listen(t, at, func(stack.Flow) stack.Handshake {
			h := payloadServer()
			h.Refuse = map[stack.Segment]error{stack.NonSYN: stripped}
			return opener{h}
		})
		accepted := make(chan *stack.Conn, 1)
		go func() {
			s, err := l.AcceptConn()
			if err != nil {
				t.Error(err)
			}
			accepted <- s
		}()
		c, err := w.client.Dial(testContext(t), stack.Flow{Remote: at}, payloadClient())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s := <-accepted
		if s == nil {
			t.FailNow()
		}
		defer s.Close()
		close(both)
		for _, x := range []*stack.Conn{c, s} {
			x.SetDeadline(time.Now().Add(testTimeout))
		}
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, stripped) {
			t.Errorf("the server reads: %v", err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client reads: %v", err)
		}
	})
}

// fleeting is a passive handshake that need not be kept.
type fleeting struct{ *stacktest.Handshake }

func (fleeting) Fleeting(uint32) bool { return true }

// With no room for one more half-open connection, a SYN with payload is answered by a Handshake that is not kept: no
// state is left, and the stream goes on behind both payloads.
func TestFleeting(t *testing.T) {
	const floods, maxFlows, maxHalfOpen = 3000, 50, 10
	p := newPeer(t)
	clock := faketime.NewManualClock()
	s := newStack(t, stack.Config{
		Link: p.wire, Addresses: []netip.Prefix{server4}, Routes: routes,
		MaxFlows: maxFlows, MaxHalfOpen: maxHalfOpen, Clock: clock,
	})
	at := netip.AddrPortFrom(server4.Addr(), 80)
	var made atomic.Int32
	l, err := s.Listen(at, func(stack.Flow) stack.Handshake {
		made.Add(1)
		return fleeting{payloadServer()}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	plain := []byte{2, 4, 5, 180}
	for i := range floods {
		p.wire.Inject(stacktest.Segment(spoofed(i), at, uint32(i), 0, stacktest.SYN, plain, synData))
		if i%100 == 0 {
			if st := s.Stats(); st.Flows > maxFlows+256 || st.Endpoints > maxHalfOpen+1 {
				t.Fatalf("it grows: %+v", st)
			}
			time.Sleep(time.Millisecond)
		}
	}
	st := s.Stats()
	if st.Fleeting == 0 || int(made.Load()) != floods {
		t.Fatalf("%+v, %d made", st, made.Load())
	}
	src := netip.MustParseAddrPort("198.18.9.9:999")
	p.forget()
	p.wire.Inject(stacktest.Segment(src, at, 1000, 0, stacktest.SYN, plain, synData))
	sa := p.await("a SYN-ACK came", func(x stacktest.Packet) bool { return x.Is(stacktest.SYN|stacktest.ACK) && x.Dst == src })
	next := 1001 + uint32(len(synData))
	if !bytes.Equal(sa.Payload, synAckData) || sa.Ack != next {
		t.Fatalf("%v", sa)
	}
	text := []byte("first words")
	p.wire.Inject(stacktest.Segment(src, at, next, sa.Seq+1+uint32(len(synAckData)), stacktest.ACK, nil, text))
	c, err := l.AcceptConn()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Handshake() != nil {
		t.Error("the connection has a handshake")
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, text) {
		t.Errorf("%q, %v", got, err)
	}
	clock.Advance(20 * time.Second)
	eventually(t, "brief entries go", func() bool { return s.Stats().Flows <= maxFlows })
}
