package stack_test

import (
	"bytes"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	tcpipstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"innertun/stack"
	"innertun/stack/stacktest"
)

// mute is a link with an MTU of mtu octets both ways that drops what is larger, and says nothing.
func mute(mtu int) stacktest.Tap {
	return func(_ stacktest.Direction, p stacktest.Packet) [][]byte {
		if len(p.Raw) > mtu {
			return nil
		}
		return [][]byte{p.Raw}
	}
}

// A path drops large packets without a word: a connection that sends them goes on with small ones, with and without a
// Handshake, whose options make the first segments longer. Others keep their size until they find out.
func TestBlackHole(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		t.Parallel()
		for _, x := range []struct {
			name   string
			mtu    int
			client func() stack.Handshake
		}{
			{"plain, 1400", 1400, func() stack.Handshake { return nil }},
			{"Handshake, 1280", 1280, func() stack.Handshake { return clientHandshake() }},
		} {
			t.Run(x.name, func(t *testing.T) {
				t.Parallel()
				var log lockedBuffer
				logger := slog.New(slog.NewTextHandler(&log, nil))
				w := newWorld(t, time.Millisecond, func(c, _ *stack.Config) { c.Logger = logger })
				w.path.SetTap(mute(x.mtu))
				var hs serverHandshakes
				l := w.listen(t, at, hs.new)
				for range 2 {
					c, s := w.connect(t, l, at, x.client())
					carry(t, c, s, randomBytes(100000))
					carry(t, s, c, randomBytes(100000))
					w.path.Capture()
					carry(t, c, s, randomBytes(100000))
					carry(t, s, c, randomBytes(100000))
					for _, p := range w.path.Packets() {
						if len(p.Raw) > 1280 {
							t.Fatalf("a packet of %d octets, again", len(p.Raw))
						}
					}
				}
				if n := strings.Count(log.String(), "large packets get no answer"); n != 1 {
					t.Errorf("logged %d times", n)
				}
			})
		}
	})
}

// What is lost twice running, or is small, or is a SYN, leaves the size of segments as it is.
func TestLossIsNoBlackHole(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		t.Parallel()
		for _, x := range []struct {
			name   string
			octets int   // written
			times  int32 // that what carries them is lost
			syn    bool
		}{{"large, twice", 1400, 2, false}, {"small", 500, 4, false}, {"SYN", 1400, 2, true}} {
			t.Run(x.name, func(t *testing.T) {
				t.Parallel()
				clock := stacktest.NewClock() // by which the client sends again as often as is lost, and not for a slow answer
				w := newWorld(t, time.Millisecond, func(c, _ *stack.Config) { c.Clock = clock })
				var lost atomic.Int32
				w.path.SetTap(func(d stacktest.Direction, p stacktest.Packet) [][]byte {
					if d == stacktest.AtoB && (x.syn && p.Is(stacktest.SYN) || !x.syn && len(p.Payload) > 0) && lost.Add(1) <= x.times {
						return nil
					}
					return [][]byte{p.Raw}
				})
				sent := func() uint64 { return w.client.Stats().SegmentsSent }
				again := func() {
					for range x.times {
						before := sent()
						eventually(t, "it is sent again", func() bool {
							clock.Advance(50 * time.Millisecond) // less than any timeout
							return sent() > before
						})
					}
				}
				l := w.listen(t, at, nil)
				dialled := make(chan *stack.Conn, 1)
				go func() {
					c, err := w.client.Dial(testContext(t), stack.Flow{Remote: at}, nil)
					if err != nil {
						t.Errorf("Dial: %v", err)
					}
					dialled <- c
				}()
				if x.syn {
					eventually(t, "the SYN leaves", func() bool { return sent() == 1 })
					again()
				}
				c := <-dialled
				if c == nil {
					t.FailNow()
				}
				s, err := l.AcceptConn()
				if err != nil {
					t.Fatal(err)
				}
				for _, y := range []*stack.Conn{c, s} {
					y.SetDeadline(time.Now().Add(testTimeout))
				}
				data, got := randomBytes(x.octets), make([]byte, x.octets)
				if _, err := c.Write(data); err != nil {
					t.Fatal(err)
				}
				if !x.syn {
					again()
				}
				if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, data) {
					t.Fatalf("the data arrived changed: %v", err)
				}
				if n := lost.Load(); n <= x.times {
					t.Fatalf("%d times lost", n)
				}
				w.path.Capture()
				carry(t, c, s, randomBytes(100000))
				for _, p := range w.path.Packets() {
					if len(p.Raw) > 1400 {
						return
					}
				}
				t.Fatal("segments have become smaller")
			})
		}
	})
}

// Nor is anything large sent in vain for ever: what the link is to cut up gets smaller, too.
func TestBlackHoleOfSuperSegments(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		t.Parallel()
		o := newOffloading()
		s := newStack(t, stack.Config{Link: o, Addresses: []netip.Prefix{client4, client6}, Routes: routes})
		dialled := make(chan *stack.Conn, 1)
		go func() {
			c, err := s.Dial(testContext(t), stack.Flow{Remote: at}, nil)
			if err != nil {
				t.Errorf("Dial: %v", err)
			}
			dialled <- c
		}()
		pkt := o.next(t)
		syn, err := stacktest.Parse(pkt.ToView().AsSlice())
		if err != nil {
			t.Fatal(err)
		}
		o.inject(pkt.NetworkProtocolNumber, stacktest.Segment(at, syn.Src, 9000, syn.Seq+1, stacktest.SYN|stacktest.ACK,
			[]byte{2, 4, 5, 160, 4, 2, 3, 3, 10, 0, 0, 0}, nil))
		c := <-dialled
		if c == nil {
			t.FailNow()
		}
		defer c.Abort()
		c.SetWriteDeadline(time.Now().Add(testTimeout))
		if _, err := c.Write(make([]byte, 60000)); err != nil {
			t.Fatal(err)
		}
		for super := false; ; {
			pkt := o.next(t)
			size, g := pkt.Data().Size(), pkt.GSOOptions
			if size == 0 {
				continue
			}
			if g.Type != tcpipstack.GSONone && size > int(g.MSS) {
				super, size = true, int(g.MSS)
			}
			if len(pkt.NetworkHeader().Slice())+len(pkt.TransportHeader().Slice())+size <= 1280 {
				if !super {
					t.Error("nothing was a super-segment")
				}
				return
			}
		}
	})
}
