package stack_test

import (
	"bytes"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"innertun/stack"
	"innertun/stack/stacktest"
)

var (
	eno21    = append([]byte{69, 21}, bytes.Repeat([]byte{0x33}, 19)...) // as much as fits
	enoPlain = []byte{69, 2}
)

func clientHandshake() *stacktest.Handshake {
	return &stacktest.Handshake{Options: map[stack.Segment][]byte{stack.SYN: eno21, stack.NonSYN: enoPlain}}
}

// serverHandshakes makes a Handshake for each incoming connection and remembers them.
type serverHandshakes struct {
	mu   sync.Mutex
	all  []*stacktest.Handshake
	make func() *stacktest.Handshake
}

func (s *serverHandshakes) new(stack.Flow) stack.Handshake {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &stacktest.Handshake{Options: map[stack.Segment][]byte{stack.SYNACK: eno21}, OnlyIfOffered: true}
	if s.make != nil {
		h = s.make()
	}
	s.all = append(s.all, h)
	return h
}

func (s *serverHandshakes) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}

func hasENO(options []byte) bool {
	_, ok := stacktest.Option(options, 69)
	return ok
}

// checkShown checks that both sides were shown the opening with ENO in it, each segment once.
func checkShown(t *testing.T, c, s stack.Handshake) {
	t.Helper()
	check := func(who string, h stack.Handshake, k stack.Segment, want bool) {
		t.Helper()
		seen, n := h.(*stacktest.Handshake).Saw(k)
		if n != 1 || hasENO(seen.Options) != want {
			t.Errorf("the %s was shown %v %d times, options %x, want ENO there: %v", who, k, n, seen.Options, want)
		}
	}
	check("client", c, stack.SYNACK, true)
	check("server", s, stack.SYN, true)
	check("server", s, stack.NonSYN, true)
}

// settled waits until no handshake is in progress any more.
func settled(t *testing.T, st ...*stack.Stack) {
	t.Helper()
	for _, s := range st {
		eventually(t, "handshakes are over", func() bool { return s.Stats().Flows == 0 })
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(testTimeout); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain waited until %s", what)
		}
	}
}

func TestHandshakeOptions(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		w := newWorld(t, 0)
		w.path.Capture()
		var hs serverHandshakes
		c, s := w.connect(t, w.listen(t, at, hs.new), at, clientHandshake())
		checkShown(t, c.Handshake(), s.Handshake())
		data := randomBytes(1 << 20)
		carry(t, c, s, data)
		carry(t, s, c, data)
		settled(t, w.client, w.server)

		// On the wire: ENO in the SYN, in the SYN-ACK, and in what A sends until it hears something else.
		heard := false
		packets := w.path.Packets()
		for i, p := range packets {
			if p.Direction == stacktest.BtoA {
				if p.Is(stacktest.SYN|stacktest.ACK) != hasENO(p.Options) {
					t.Fatalf("packet %d: %v", i, p)
				}
				heard = heard || !p.Is(stacktest.SYN|stacktest.ACK)
				continue
			}
			if !heard && !hasENO(p.Options) {
				t.Fatalf("packet %d has no ENO though nothing but a SYN-ACK was received: %v", i, p)
			}
			if len(p.Raw) > 1500 {
				t.Fatalf("packet %d has %d octets", i, len(p.Raw))
			}
		}
		if last := packets[len(packets)-1]; hasENO(last.Options) {
			t.Fatalf("ENO never stops: %v", last)
		}
	})
}

// Full-sized segments leave with ENO before anything but the SYN-ACK came back.
func TestHandshakeOptionsOnEarlyData(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		w := newWorld(t, 5*time.Millisecond)
		// The server is heard when enough has left, however long that takes.
		const enough = 5
		var large atomic.Int32
		heard, link := make(chan struct{}), narrow(w, 1500)
		w.path.SetTap(func(d stacktest.Direction, p stacktest.Packet) [][]byte {
			switch {
			case d == stacktest.AtoB && len(p.Payload) > 1000:
				if large.Add(1) == enough {
					close(heard)
				}
			case d == stacktest.BtoA && p.Flags&stacktest.SYN == 0:
				select {
				case <-heard:
				case <-t.Context().Done():
				}
			}
			return link(d, p)
		})
		w.path.Capture()
		var hs serverHandshakes
		l := w.listen(t, at, hs.new)
		c, err := w.client.Dial(testContext(t), stack.Flow{Remote: at}, clientHandshake())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		data := randomBytes(200000)
		go c.Write(data)
		s, err := l.AcceptConn()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		got := make([]byte, len(data))
		if _, err := readFull(s, got); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("the data arrived changed: %v", err)
		}
		early := 0
		for _, p := range w.path.Packets() {
			if len(p.Raw) > 1500 {
				t.Fatalf("%d octets: %v", len(p.Raw), p)
			}
			if p.Direction == stacktest.AtoB && len(p.Payload) > 1000 && hasENO(p.Options) {
				early++
			}
		}
		if early < enough {
			t.Fatalf("only %d large segments with ENO", early)
		}
	})
}

func readFull(c *stack.Conn, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = c.Read(b[n:])
		n += m
	}
	return n, err
}

// dropFirst loses the first packet that matches.
func dropFirst(n int, match func(d stacktest.Direction, p stacktest.Packet) bool) stacktest.Tap {
	var dropped atomic.Int32
	return func(d stacktest.Direction, p stacktest.Packet) [][]byte {
		if match(d, p) && dropped.Add(1) <= int32(n) {
			return nil
		}
		return [][]byte{p.Raw}
	}
}

func TestHandshakeLosses(t *testing.T) {
	for _, lost := range []struct {
		name  string
		match func(d stacktest.Direction, p stacktest.Packet) bool
	}{
		{"SYN", func(_ stacktest.Direction, p stacktest.Packet) bool { return p.Is(stacktest.SYN) }},
		{"SYN-ACK", func(_ stacktest.Direction, p stacktest.Packet) bool { return p.Is(stacktest.SYN | stacktest.ACK) }},
		{"third", func(d stacktest.Direction, p stacktest.Packet) bool {
			return d == stacktest.AtoB && p.Is(stacktest.ACK)
		}},
	} {
		t.Run(lost.name, func(t *testing.T) {
			families(t, func(t *testing.T, at netip.AddrPort) {
				w := newWorld(t, 0)
				w.path.SetTap(dropFirst(1, lost.match))
				w.path.Capture()
				var hs serverHandshakes
				c, s := w.connect(t, w.listen(t, at, hs.new), at, clientHandshake())
				checkShown(t, c.Handshake(), s.Handshake())
				carry(t, c, s, randomBytes(100000))
				carry(t, s, c, randomBytes(100000))
				settled(t, w.client, w.server)
				for _, p := range w.path.Packets() {
					if p.Flags&stacktest.SYN != 0 && !hasENO(p.Options) {
						t.Fatalf("a repetition without ENO: %v", p)
					}
				}
			})
		})
	}
}

// The netstack answers a SYN that comes again with a bare ACK: it must be the SYN-ACK, ENO included.
func TestRepeatedSYN(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		w := newWorld(t, 0, still) // neither end repeats anything by itself
		var mu sync.Mutex
		var syn []byte
		swallowed := 0
		w.path.SetTap(func(d stacktest.Direction, p stacktest.Packet) [][]byte {
			mu.Lock()
			defer mu.Unlock()
			if p.Is(stacktest.SYN) {
				syn = bytes.Clone(p.Raw)
				return [][]byte{p.Raw}
			}
			if p.Is(stacktest.SYN|stacktest.ACK) && swallowed == 0 {
				swallowed++
				go w.path.B.Inject(syn)
				return nil
			}
			if d == stacktest.BtoA && p.Is(stacktest.ACK) && len(p.Payload) == 0 && swallowed == 1 {
				t.Errorf("a bare ACK answers the SYN: %v", p)
			}
			if p.Is(stacktest.SYN | stacktest.ACK) {
				swallowed++
			}
			return [][]byte{p.Raw}
		})
		var hs serverHandshakes
		c, s := w.connect(t, w.listen(t, at, hs.new), at, clientHandshake())
		checkShown(t, c.Handshake(), s.Handshake())
		carry(t, c, s, []byte("hello"))
		if hs.count() != 1 {
			t.Fatalf("%d handshakes for one connection", hs.count())
		}
	})
}

// A peer without any handshake gets, and gives, plain TCP.
func TestHandshakeWithLegacyPeer(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		w := newWorld(t, 0)
		c, s := w.connect(t, w.listen(t, at, nil), at, clientHandshake())
		if seen, n := c.Handshake().(*stacktest.Handshake).Saw(stack.SYNACK); n != 1 || hasENO(seen.Options) || s.Handshake() != nil {
			t.Fatalf("shown %d times: %x", n, seen.Options)
		}
		carry(t, c, s, randomBytes(100000))

		other := netip.AddrPortFrom(at.Addr(), 81)
		var hs serverHandshakes
		w.path.Capture()
		c, s = w.connect(t, w.listen(t, other, hs.new), other, nil)
		if seen, n := s.Handshake().(*stacktest.Handshake).Saw(stack.NonSYN); n != 1 || hasENO(seen.Options) {
			t.Fatalf("shown %d times: %x", n, seen.Options)
		}
		carry(t, c, s, randomBytes(100000))
		for _, p := range w.path.Packets() {
			if hasENO(p.Options) {
				t.Fatalf("ENO that nobody asked for: %v", p)
			}
		}
	})
}

var errRefused = errors.New("not with this one")

// resetSoon opens a connection that the server resets at the third segment. That follows so closely that Dial may or may not
// have returned by then.
func (w *world) resetSoon(t *testing.T, at netip.AddrPort) {
	t.Helper()
	c, err := w.client.Dial(testContext(t), stack.Flow{Remote: at}, nil)
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(testTimeout))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("the connection ended with %v", err)
	}
}

func TestHandshakeRefuses(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		t.Run("SYN-ACK", func(t *testing.T) {
			w := newWorld(t, 0)
			w.path.Capture()
			w.listen(t, at, nil)
			h := clientHandshake()
			h.Refuse = map[stack.Segment]error{stack.SYNACK: errRefused}
			if _, err := w.client.Dial(testContext(t), stack.Flow{Remote: at}, h); !errors.Is(err, errRefused) {
				t.Fatalf("Dial: %v", err)
			}
			eventually(t, "the server got a RST", func() bool { return w.server.Stats().ResetsReceived > 0 })
			settled(t, w.client)
		})
		t.Run("SYN", func(t *testing.T) {
			w := newWorld(t, 0)
			w.listen(t, at, (&serverHandshakes{make: func() *stacktest.Handshake {
				return &stacktest.Handshake{Refuse: map[stack.Segment]error{stack.SYN: errRefused}}
			}}).new)
			if _, err := w.client.Dial(testContext(t), stack.Flow{Remote: at}, nil); err == nil {
				t.Fatal("Dial: no error")
			}
			settled(t, w.server)
		})
		t.Run("third", func(t *testing.T) {
			w := newWorld(t, 0)
			w.listen(t, at, (&serverHandshakes{make: func() *stacktest.Handshake {
				return &stacktest.Handshake{Refuse: map[stack.Segment]error{stack.NonSYN: errRefused}}
			}}).new)
			w.resetSoon(t, at)
			settled(t, w.server)
			eventually(t, "the connection is gone", func() bool { return w.server.Stats().Endpoints == 1 })
		})
	})
}

// A cancelled dial leaves no flow, a refused one neither.
func TestFailedDialsLeaveNothing(t *testing.T) {
	w := newWorld(t, 0)
	at := netip.AddrPortFrom(server4.Addr(), 80)
	if _, err := w.client.Dial(testContext(t), stack.Flow{Remote: at}, clientHandshake()); err == nil {
		t.Fatal("nobody listens")
	}
	w.path.SetTap(func(stacktest.Direction, stacktest.Packet) [][]byte { return nil })
	ctx, cancel := contextWithTimeout(t, 20*time.Millisecond)
	defer cancel()
	if _, err := w.client.Dial(ctx, stack.Flow{Remote: at}, clientHandshake()); err == nil {
		t.Fatal("nobody answers")
	}
	if st := w.client.Stats(); st.Flows != 0 || st.Endpoints != 0 {
		t.Fatalf("left behind: %+v", st)
	}
}
