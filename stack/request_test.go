package stack_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"innertun/stack"
	"innertun/stack/stacktest"
)

// access is an access stack on a clock of its own, whose applications' segments the test writes. Its handler waits for
// the request's context, but for good destinations, which it accepts.
type access struct {
	*peer
	st    *stack.Stack
	clock *stacktest.Clock
	log   lockedBuffer
	good  netip.AddrPort

	mu    sync.Mutex
	open  map[netip.AddrPort]int // requests held, by application
	began int
	ended map[netip.AddrPort]error // cause of the last
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newAccess(t *testing.T, maxRequests int) *access {
	a := &access{
		peer: newPeer(t), clock: stacktest.NewClock(), good: netip.MustParseAddrPort("198.19.9.9:443"),
		open: make(map[netip.AddrPort]int), ended: make(map[netip.AddrPort]error),
	}
	a.st = newStack(t, stack.Config{
		Link: a.wire, Promiscuous: true, Clock: a.clock, MaxRequests: maxRequests,
		Logger: slog.New(slog.NewTextHandler(&a.log, nil)),
	})
	if err := a.st.Forward(a.handle); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *access) handle(r *stack.Request) {
	if r.Flow().Remote == a.good {
		if c, err := r.Accept(); err == nil {
			c.Close()
		}
		return
	}
	from := r.Flow().Local
	a.mu.Lock()
	a.began++
	a.open[from]++
	a.mu.Unlock()
	<-r.Context().Done()
	a.mu.Lock()
	a.open[from]--
	a.ended[from] = context.Cause(r.Context())
	a.mu.Unlock()
	if _, err := r.Accept(); !errors.Is(err, net.ErrClosed) {
		a.t.Errorf("Accept of a request that has ended: %v", err)
	}
}

func (a *access) syn(from, to netip.AddrPort, seq uint32) {
	a.wire.Inject(stacktest.Segment(from, to, seq, 0, stacktest.SYN, synOptions[:4], nil))
}

func (a *access) requests() (began, held int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range a.open {
		held += n
	}
	return a.began, held
}

func (a *access) awaitHeld(want int) {
	a.t.Helper()
	eventually(a.t, "the requests are held, or given up", func() bool {
		_, held := a.requests()
		return held == want
	})
}

// cause is why the request of an application ended; nil: it has not.
func (a *access) cause(from netip.AddrPort) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open[from] > 0 {
		return nil
	}
	return a.ended[from]
}

func application(i int) netip.AddrPort { return netip.AddrPortFrom(client4.Addr(), uint16(10000+i)) }

var silent = netip.MustParseAddrPort("198.19.3.4:7")

// Silent destinations never stand in the way of one that answers: the oldest make room.
func TestForwardFullOfSilent(t *testing.T) {
	const limit, more = 1024, 76
	a := newAccess(t, limit)
	for i := range limit {
		a.syn(application(i), silent, 1)
	}
	a.awaitHeld(limit)
	for i := limit; i < limit+more; i++ {
		a.syn(application(i), silent, 1)
		eventually(t, "the oldest is given up", func() bool { return a.cause(application(i-limit)) != nil })
		if err := a.cause(application(i - limit + 1)); err != nil {
			t.Fatalf("request %d, not the oldest, was given up: %v", i-limit+1, err)
		}
		eventually(t, "the new one is held", func() bool {
			began, held := a.requests()
			return began == i+1 && held == limit
		})
	}
	a.syn(application(-1), a.good, 1)
	a.await("the good one is accepted", func(x stacktest.Packet) bool {
		return x.Is(stacktest.SYN|stacktest.ACK) && x.Src == a.good
	})
	if st := a.st.Stats(); st.EvictedRequest != more+1 || st.GoneRequest != 0 || st.DroppedRequest != 0 {
		t.Fatalf("%+v", st)
	}
	if n := a.count(func(x stacktest.Packet) bool { return x.Src == silent }); n != 0 {
		t.Fatalf("%d answers in the name of the silent destination", n)
	}
	if log := a.log.String(); strings.Count(log, "\n") != 1 || !strings.Contains(log, "WARN") ||
		!strings.Contains(log, "waiting=1024 busiest=198.19.3.4 waiting_for_busiest=1024") {
		t.Fatalf("log: %s", log)
	}
	// One that was given up asks again, and is a new request.
	a.syn(application(0), silent, 1)
	eventually(t, "it is held again", func() bool { return a.cause(application(0)) == nil })
}

// An application has gone when its SYN comes no more, whether its kernel repeats it as RFC 6298 says or, as Linux does
// first, at equal intervals.
func TestForwardApplicationGone(t *testing.T) {
	for _, test := range []struct {
		name string
		syns []int         // seconds
		stay time.Duration // held at least so long after the last SYN
		gone time.Duration // and at most so long
	}{
		{"never repeated", []int{0}, 3 * time.Second, 5 * time.Second},
		{"doubling", []int{0, 1, 3, 7, 15}, 16 * time.Second, 22 * time.Second},
		{"linear", []int{0, 1, 2, 3, 4, 5}, 2 * time.Second, 6 * time.Second},
		{"linear, then doubling", []int{0, 1, 2, 3, 4, 5, 7, 11, 19, 35, 67}, 64 * time.Second, 76 * time.Second},
		{"doubled on the way", []int{0, 1, 3, 7, 7}, 8 * time.Second, 13 * time.Second},
		{"longest", []int{0, 1, 3, 7, 15, 31, 63, 127, 247}, 120 * time.Second, 139 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := newAccess(t, 0)
			app, begin := application(0), a.clock.Now()
			for i, s := range test.syns {
				for a.clock.Now().Before(begin.Add(time.Duration(s) * time.Second)) {
					a.clock.Advance(500 * time.Millisecond)
				}
				a.syn(app, silent, 1)
				if i == 0 {
					a.awaitHeld(1)
				}
			}
			last := a.clock.Now()
			for a.clock.Now().Before(last.Add(test.stay)) {
				a.clock.Advance(500 * time.Millisecond)
			}
			time.Sleep(10 * time.Millisecond) // for what the clock set in motion
			if began, held := a.requests(); began != 1 || held != 1 {
				t.Fatalf("%d requests, %d held, after %v", began, held, test.stay)
			}
			for a.clock.Now().Before(last.Add(test.gone)) {
				a.clock.Advance(500 * time.Millisecond)
			}
			a.awaitHeld(0)
			if st := a.st.Stats(); st.GoneRequest != 1 || st.EvictedRequest != 0 {
				t.Fatalf("%+v", st)
			}
			if n := a.count(func(stacktest.Packet) bool { return true }); n != 0 {
				t.Fatalf("%d packets sent", n)
			}
		})
	}
}

// Another application that got the port of one that has gone is not kept waiting for its predecessor's sake.
func TestForwardPortUsedAgain(t *testing.T) {
	a := newAccess(t, 0)
	a.syn(application(0), silent, 1)
	a.awaitHeld(1)
	a.syn(application(0), silent, 5000)
	eventually(t, "there is a second request", func() bool {
		began, held := a.requests()
		return began == 2 && held == 1
	})
	if st := a.st.Stats(); st.GoneRequest != 1 {
		t.Fatalf("%+v", st)
	}
}

// The context ends with the answer, and with the stack.
func TestForwardContext(t *testing.T) {
	w := newWorld(t, 0, forwarding, still) // nothing is given up, or asked again, for time
	ended := make(chan error, 1)
	wait, waits := false, make(chan struct{})
	w.server.Forward(func(r *stack.Request) {
		if wait {
			close(waits)
			<-r.Context().Done()
		} else if c, err := r.Accept(); err == nil {
			defer c.Close()
		}
		<-r.Context().Done()
		ended <- context.Cause(r.Context())
	})
	c, err := w.client.Dial(testContext(t), stack.Flow{Remote: destinations[0]}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := <-ended; err != context.Canceled {
		t.Fatalf("after Accept: %v", err)
	}
	wait = true
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dialled := make(chan struct{})
	go func() {
		defer close(dialled)
		if c, err := w.client.Dial(ctx, stack.Flow{Remote: destinations[0]}, nil); err == nil {
			c.Close()
		}
	}()
	<-waits
	w.server.Close()
	if err := <-ended; err != net.ErrClosed {
		t.Fatalf("after Close: %v", err)
	}
	cancel()
	<-dialled
}
