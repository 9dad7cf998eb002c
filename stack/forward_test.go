package stack_test

import (
	"errors"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"innertun/stack"
	"innertun/stack/stacktest"
)

// forwarding makes the server's side an access stack, whose peer stands for the applications' kernel.
func forwarding(_, s *stack.Config) {
	s.Promiscuous, s.Addresses, s.Routes = true, nil, nil
}

var destinations = []netip.AddrPort{netip.MustParseAddrPort("198.19.3.4:8080"), netip.MustParseAddrPort("[fd00:9::1]:8080")}

func forEachDestination(t *testing.T, f func(t *testing.T, to netip.AddrPort)) {
	for _, to := range destinations {
		t.Run(to.String(), func(t *testing.T) { f(t, to) })
	}
}

func TestForwardAccept(t *testing.T) {
	forEachDestination(t, func(t *testing.T, to netip.AddrPort) {
		w := newWorld(t, 0, forwarding, still)
		accepted := make(chan *stack.Conn, 1)
		release := make(chan struct{})
		if err := w.server.Forward(func(r *stack.Request) {
			<-release
			if r.Flow().Remote != to {
				t.Errorf("Flow: %v", r.Flow())
			}
			c, err := r.Accept()
			if err != nil {
				t.Errorf("Accept: %v", err)
			}
			accepted <- c
		}); err != nil {
			t.Fatal(err)
		}
		dialled := make(chan *stack.Conn, 1)
		go func() {
			c, err := w.client.Dial(testContext(t), stack.Flow{Remote: to}, nil)
			if err != nil {
				t.Errorf("Dial: %v", err)
			}
			dialled <- c
		}()
		select {
		case <-dialled:
			t.Fatal("the connection is open though nobody accepted it")
		case <-time.After(50 * time.Millisecond):
		}
		close(release)
		c, s := <-dialled, <-accepted
		defer c.Close()
		defer s.Close()
		if s.LocalAddr().String() != to.String() || s.RemoteAddr().String() != c.LocalAddr().String() {
			t.Fatalf("addresses: %v %v", s.LocalAddr(), s.RemoteAddr())
		}
		carry(t, c, s, randomBytes(300000))
		carry(t, s, c, randomBytes(300000))
	})
}

// A SYN that comes again while the request is held makes no second one.
func TestForwardRepeatedSYN(t *testing.T) {
	w := newWorld(t, 0, forwarding, func(_, s *stack.Config) { s.Clock = stacktest.NewClock() })
	const times = 2
	var arrived atomic.Int32
	w.path.SetTap(func(d stacktest.Direction, p stacktest.Packet) [][]byte {
		if !p.Is(stacktest.SYN) {
			return [][]byte{p.Raw}
		}
		if arrived.Load() < times { // a later one might follow the answer
			for range 3 {
				w.path.B.Inject(p.Raw)
			}
			arrived.Add(1)
		}
		return nil
	})
	var requests atomic.Int32
	release := make(chan struct{})
	w.server.Forward(func(r *stack.Request) {
		requests.Add(1)
		<-release
		r.Refuse(syscall.ECONNREFUSED)
	})
	done := make(chan error, 1)
	go func() {
		_, err := w.client.Dial(testContext(t), stack.Flow{Remote: destinations[0]}, nil)
		done <- err
	}()
	eventually(t, "the SYN's own repetition too", func() bool { return arrived.Load() == times })
	close(release)
	if err := <-done; !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("Dial: %v", err)
	}
	if n := requests.Load(); n != 1 {
		t.Fatalf("%d requests", n)
	}
}

func TestForwardRefuse(t *testing.T) {
	for _, refusal := range []struct {
		err          error
		want         error // of the dialler; nil: no answer
		code4, code6 uint8 // of the ICMP message; 255: none
	}{
		{syscall.ECONNREFUSED, syscall.ECONNREFUSED, 255, 255},
		{os.NewSyscallError("connect", syscall.EHOSTUNREACH), syscall.EHOSTUNREACH, 1, 3},
		{syscall.ENETUNREACH, syscall.ENETUNREACH, 0, 0},
		{syscall.EACCES, nil, 13, 1}, // EHOSTUNREACH over IPv4, EACCES over IPv6, as in Linux
		{syscall.ETIMEDOUT, nil, 255, 255},
		{errors.New("of no known kind"), syscall.ECONNREFUSED, 255, 255},
	} {
		t.Run(refusal.err.Error(), func(t *testing.T) {
			forEachDestination(t, func(t *testing.T, to netip.AddrPort) {
				w := newWorld(t, 0, forwarding, still)
				w.path.Capture()
				w.server.Forward(func(r *stack.Request) { r.Refuse(refusal.err) })
				limit := testTimeout
				if refusal.err == syscall.ETIMEDOUT { // by silence
					limit = 300 * time.Millisecond
				}
				ctx, cancel := contextWithTimeout(t, limit)
				defer cancel()
				_, err := w.client.Dial(ctx, stack.Flow{Remote: to}, nil)
				if refusal.want != nil && !errors.Is(err, refusal.want) || err == nil {
					t.Fatalf("Dial: %v, want %v", err, refusal.want)
				}
				if refusal.code4 == 255 {
					return
				}
				checkUnreachable(t, w.path.Packets(), refusal.code4, refusal.code6)
			})
		})
	}
}

// checkUnreachable looks for the ICMP message: to the application, about its SYN.
func checkUnreachable(t *testing.T, packets []stacktest.Captured, code4, code6 uint8) {
	t.Helper()
	var syn stacktest.Packet
	for _, p := range packets {
		if p.Is(stacktest.SYN) {
			syn = p.Packet
		}
		if p.Direction != stacktest.BtoA || p.Protocol == 6 {
			continue
		}
		kind, code := uint8(header.ICMPv4DstUnreachable), code4
		if p.Protocol == uint8(header.ICMPv6ProtocolNumber) {
			kind, code = uint8(header.ICMPv6DstUnreachable), code6
		}
		if p.Payload[0] != kind || p.Payload[1] != code {
			t.Fatalf("ICMP type %d code %d, want %d %d", p.Payload[0], p.Payload[1], kind, code)
		}
		if p.Dst.Addr() != syn.Src.Addr() || string(p.Payload[8:]) != string(syn.Raw) {
			t.Fatalf("it does not quote the SYN: %x", p.Payload[8:])
		}
		return
	}
	t.Fatal("no ICMP message was sent")
}

// A forwarder has no listener, and without help drops a SYN that meets its own TIME-WAIT.
func TestForwardTimeWait(t *testing.T) {
	forEachDestination(t, func(t *testing.T, to netip.AddrPort) {
		clock := stacktest.NewClock() // by which the client repeats no SYN
		w := newWorld(t, 0, forwarding, still, func(c, _ *stack.Config) { c.Clock = clock })
		accepted := make(chan *stack.Conn, 1)
		w.server.Forward(func(r *stack.Request) {
			if c, err := r.Accept(); err == nil {
				accepted <- c
			}
		})
		local := netip.AddrPortFrom(client4.Addr(), 5555)
		if to.Addr().Is6() {
			local = netip.AddrPortFrom(client6.Addr(), 5555)
		}
		for i := range 3 {
			c, err := w.client.Dial(testContext(t), stack.Flow{Local: local, Remote: to}, nil)
			if err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
			s := <-accepted
			carry(t, c, s, []byte("x"))
			s.CloseWrite() // the server closes first: TIME-WAIT is here
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Fatal("no end")
			}
			c.Close()
			eventually(t, "the server is in TIME-WAIT", func() bool { return s.Info().State == "TIME-WAIT" })
			s.Close()
			eventually(t, "the client is closed", func() bool { return w.client.Stats().Endpoints == 0 })
			clock.Advance(10 * time.Millisecond) // the clock of the sequence numbers
		}
	})
}
