package stack_test

import (
	"errors"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"innertun/stack"
	"innertun/stack/stacktest"
)

// Deadlines follow the stack's clock.
func TestDeadlinesOnManualClock(t *testing.T) {
	clock := stacktest.NewClock()
	w := newWorld(t, 0, func(c, _ *stack.Config) { c.Clock = clock })
	at := netip.AddrPortFrom(server4.Addr(), 80)
	c, _ := w.connect(t, w.listen(t, at, nil), at, nil)
	c.SetReadDeadline(clock.Now().Add(time.Minute))
	got := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		got <- err
	}()
	clock.Advance(59 * time.Second)
	select {
	case err := <-got:
		t.Fatalf("Read came back: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	clock.Advance(2 * time.Second)
	if err := <-got; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Read: %v", err)
	}
}

// Nobody answers: the SYN goes out again and again, the same each time, and in the end the dial fails.
func TestDialTimesOut(t *testing.T) {
	p := newPeer(t)
	clock := stacktest.NewClock()
	s := newStack(t, stack.Config{Link: p.wire, Addresses: []netip.Prefix{client4}, Routes: routes, Clock: clock})
	h := clientHandshake()
	h.Payload = map[stack.Segment][]byte{stack.SYN: synData}
	done := make(chan error, 1)
	go func() {
		_, err := s.Dial(t.Context(), stack.Flow{Remote: netip.AddrPortFrom(server4.Addr(), 80)}, h)
		done <- err
	}()
	first := p.await("a SYN left", func(x stacktest.Packet) bool { return x.Is(stacktest.SYN) })
	for range 200 {
		clock.Advance(time.Second)
	}
	select {
	case err := <-done:
		if !errors.Is(err, syscall.ETIMEDOUT) {
			t.Fatalf("Dial: %v", err)
		}
	case <-time.After(testTimeout):
		t.Fatal("the dial never ends")
	}
	if n := p.count(func(x stacktest.Packet) bool { return x.Is(stacktest.SYN) }); n < 5 {
		t.Fatalf("%d SYNs", n)
	}
	same := func(x stacktest.Packet) bool {
		e1, _ := x.Option(69)
		e2, _ := first.Option(69)
		return x.Seq == first.Seq && string(e1) == string(e2) && string(x.Payload) == string(first.Payload)
	}
	if n := p.count(func(x stacktest.Packet) bool { return !same(x) }); n != 0 {
		t.Fatalf("%d SYNs differ", n)
	}
	if st := s.Stats(); st.Flows != 0 || st.Endpoints != 0 {
		t.Fatalf("left behind: %+v", st)
	}
}

// A connection that agreed on something in its opening, and that nobody accepts, must not come up as a plain one later.
func TestUnclaimedConnectionIsAborted(t *testing.T) {
	p := newPeer(t)
	clock := stacktest.NewClock()
	s, at := p.serve(t, clock)
	p.wire.Inject(stacktest.Segment(client80, at, 1000, 0, stacktest.SYN, synOptions, nil))
	sa := p.await("a SYN-ACK came", func(x stacktest.Packet) bool { return x.Is(stacktest.SYN | stacktest.ACK) })
	p.wire.Inject(stacktest.Segment(client80, at, 1001, sa.Seq+1, stacktest.ACK, enoPlain, nil))
	eventually(t, "it is open", func() bool { st := s.Stats(); return st.HalfOpen == 0 && st.Established == 1 })
	clock.Advance(6 * time.Minute)
	p.await("a RST came", func(x stacktest.Packet) bool { return x.Flags&stacktest.RST != 0 })
	if st := s.Stats(); st.Flows != 0 {
		t.Fatalf("%+v", st)
	}
}

// However many these are at once.
func TestUnclaimedConnectionsAreAborted(t *testing.T) {
	p := newPeer(t)
	clock := stacktest.NewClock()
	s, at := p.serve(t, clock)
	const connections = 700
	for i := range connections {
		src := netip.AddrPortFrom(client80.Addr(), uint16(8000+i))
		p.wire.Inject(stacktest.Segment(src, at, 1000, 0, stacktest.SYN, synOptions, nil))
		sa := p.await("a SYN-ACK came", func(x stacktest.Packet) bool { return x.Is(stacktest.SYN|stacktest.ACK) && x.Dst == src })
		p.wire.Inject(stacktest.Segment(src, at, 1001, sa.Seq+1, stacktest.ACK, enoPlain, nil))
		p.forget()
	}
	eventually(t, "they are open", func() bool { st := s.Stats(); return st.HalfOpen == 0 && st.Established == connections })
	clock.Advance(6 * time.Minute)
	eventually(t, "each is aborted", func() bool { st := s.Stats(); return st.Flows == 0 && st.Established == 0 })
}

// The ports of closed connections in TIME-WAIT come free without waiting for it, and it ends by itself.
func TestTimeWaitEnds(t *testing.T) {
	clock := stacktest.NewClock()
	at := netip.AddrPortFrom(server4.Addr(), 80)
	w := newWorld(t, 0, func(c, _ *stack.Config) { c.Clock, c.Ports = clock, []uint16{61000} })
	l := w.listen(t, at, nil)
	for range 3 {
		c, s := w.connect(t, l, at, nil)
		c.CloseWrite()
		s.Read(make([]byte, 1))
		s.Close()
		eventually(t, "it is in TIME-WAIT", func() bool { return c.Info().State == "TIME-WAIT" })
		c.Close()
		eventually(t, "the server is done", func() bool { return w.server.Stats().Endpoints == 1 })
		clock.Advance(10 * time.Millisecond) // the clock of the sequence numbers
	}
	if n := w.client.Stats().Endpoints; n != 1 {
		t.Fatalf("%d endpoints", n)
	}
	clock.Advance(time.Minute)
	eventually(t, "TIME-WAIT is over", func() bool { return w.client.Stats().Endpoints == 0 })
}
