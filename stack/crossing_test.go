package stack_test

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"innertun/stack"
	"innertun/stack/stacktest"
)

var (
	enoA = []byte{69, 4, 0x21, 0x23}
	enoB = []byte{69, 4, 0x01, 0x23}
)

func crossHandshake(eno []byte) *stacktest.Handshake {
	return &stacktest.Handshake{Options: map[stack.Segment][]byte{stack.SYN: eno, stack.SYNACK: eno, stack.NonSYN: enoPlain}}
}

const crossPort = 5000

// dialAtOnce dials from both ends, between the same two ports.
func (w *world) dialAtOnce(t *testing.T, at netip.AddrPort, a, b stack.Handshake) (c, s *stack.Conn, err error) {
	t.Helper()
	from := netip.AddrPortFrom(client4.Addr(), crossPort)
	if at.Addr().Is6() {
		from = netip.AddrPortFrom(client6.Addr(), crossPort)
	}
	var wg sync.WaitGroup
	var errs [2]error
	ctx := testContext(t)
	wg.Go(func() { c, errs[0] = w.client.Dial(ctx, stack.Flow{Local: from, Remote: at}, a) })
	wg.Go(func() { s, errs[1] = w.server.Dial(ctx, stack.Flow{Local: at, Remote: from}, b) })
	wg.Wait()
	for i, x := range []*stack.Conn{c, s} {
		if errs[i] != nil {
			err = fmt.Errorf("end %d: %w", i, errs[i])
			continue
		}
		t.Cleanup(func() { x.Close() })
		x.SetDeadline(time.Now().Add(testTimeout))
	}
	return c, s, err
}

// losing loses the first segment of one direction and of each kind.
func losing(way stacktest.Direction, kinds ...uint8) func() stacktest.Tap {
	return func() stacktest.Tap {
		left := slices.Clone(kinds) // one direction, one goroutine
		return func(d stacktest.Direction, p stacktest.Packet) [][]byte {
			if d != way {
				return [][]byte{p.Raw}
			}
			if i := slices.IndexFunc(left, p.Is); i >= 0 {
				left = slices.Delete(left, i, i+1)
				return nil
			}
			return [][]byte{p.Raw}
		}
	}
}

func passing() stacktest.Tap { return stacktest.Pass }

func doubling() stacktest.Tap {
	return func(_ stacktest.Direction, p stacktest.Packet) [][]byte { return [][]byte{p.Raw, p.Raw} }
}

// crossed lets no SYN of either direction through before both ends have sent one.
func crossed(t *testing.T, tap stacktest.Tap) stacktest.Tap {
	var sent [2]chan struct{}
	var once [2]sync.Once
	for i := range sent {
		sent[i] = make(chan struct{})
	}
	return func(d stacktest.Direction, p stacktest.Packet) [][]byte {
		if p.Is(stacktest.SYN) {
			once[d].Do(func() { close(sent[d]) })
			select {
			case <-sent[1-d]:
			case <-t.Context().Done():
			}
		}
		return tap(d, p)
	}
}

// SYNs cross. Each host's ENO option is in its SYN and SYN-ACK, the same octets, and whatever is lost both handshakes are
// shown what they need. RFC 8547, Section 4.6 and Figure 12.
func TestSimultaneousOpen(t *testing.T) {
	const both = stacktest.SYN | stacktest.ACK
	for _, c := range []struct {
		name   string
		tap    func() stacktest.Tap
		within time.Duration
	}{
		{"nothing lost", passing, 950 * time.Millisecond},
		{"A's SYN lost", losing(stacktest.AtoB, stacktest.SYN), 950 * time.Millisecond},
		{"B's SYN lost", losing(stacktest.BtoA, stacktest.SYN), 950 * time.Millisecond},
		{"A's SYN-ACK lost", losing(stacktest.AtoB, both), 3 * time.Second},
		{"B's SYN-ACK lost", losing(stacktest.BtoA, both), 3 * time.Second},
		{"A's SYN and SYN-ACK lost", losing(stacktest.AtoB, stacktest.SYN, both), 3 * time.Second},
		{"B's SYN and SYN-ACK lost", losing(stacktest.BtoA, stacktest.SYN, both), 3 * time.Second},
		{"everything twice", doubling, 950 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			families(t, func(t *testing.T, at netip.AddrPort) {
				var w *world
				var ha, hb *stacktest.Handshake
				var a, b *stack.Conn
				inTime(t, c.within, func() time.Duration {
					w = newWorld(t, 20*time.Millisecond)
					w.path.SetTap(crossed(t, c.tap()))
					w.path.Capture()
					ha, hb = crossHandshake(enoA), crossHandshake(enoB)
					start := time.Now()
					var err error
					if a, b, err = w.dialAtOnce(t, at, ha, hb); err != nil {
						t.Fatal(err)
					}
					return time.Since(start)
				})
				if c.name == "nothing lost" { // and nothing else is sent: SYN, SYN-ACK, either way
					kinds := make(map[string]int)
					for _, p := range w.path.Packets() {
						kinds[fmt.Sprint(p.Direction, p.Flags)]++
					}
					if want := map[string]int{"0 2": 1, "0 18": 1, "1 2": 1, "1 18": 1}; !maps.Equal(kinds, want) {
						t.Errorf("the opening has %v, want %v", kinds, want)
					}
				}
				data := randomBytes(1 << 18)
				carry(t, a, b, data)
				carry(t, b, a, data)
				for _, h := range []*stacktest.Handshake{ha, hb} {
					for _, s := range h.Seen() {
						if !hasENO(s.Options) && s.Kind != stack.NonSYN {
							t.Errorf("shown a %v without ENO", s.Kind)
						}
					}
				}
				checkCrossing(t, w.path.Packets())
				settled(t, w.client, w.server)
			})
		})
	}
}

// checkCrossing checks that each end has its option in every segment until it has received one without SYN, and the same
// octets in all its SYNs. What is lost counts as received: the path captures before it loses.
func checkCrossing(t *testing.T, packets []stacktest.Captured) {
	t.Helper()
	var heard [2]bool
	for i, p := range packets {
		want := enoA
		if p.Direction == stacktest.BtoA {
			want = enoB
		}
		option, has := stacktest.Option(p.Options, 69)
		switch {
		case p.Flags&stacktest.SYN != 0 && string(option) != string(want[2:]):
			t.Fatalf("packet %d: option % x, want % x: %v", i, option, want[2:], p)
		case !has && !heard[p.Direction]:
			t.Fatalf("packet %d: no ENO before a segment without SYN has come: %v", i, p)
		}
		if p.Flags&stacktest.SYN == 0 {
			heard[1-p.Direction] = true
		}
	}
}

// windowed sets the window of an IPv4 segment.
func windowed(pkt []byte, window uint16) []byte {
	binary.BigEndian.PutUint16(pkt[20+14:], window)
	stacktest.SetTCPChecksum(pkt)
	return pkt
}

// In SYN-RCVD after its own SYN the host takes nothing but what opens the connection, and repeats its SYN-ACK to who repeats
// his SYN. The window of the peer's SYN-ACK counts octets, whatever scale its SYN announced. RFC 9293, Section 3.10.7.4.
func TestCrossedByPeer(t *testing.T) {
	p := newPeer(t)
	// By a clock that stands still, the host repeats nothing by itself.
	s := newStack(t, stack.Config{Link: p.wire, Addresses: []netip.Prefix{server4}, Routes: routes, Clock: stacktest.NewClock()})
	at := netip.AddrPortFrom(server4.Addr(), 80)
	h := crossHandshake(enoA)
	dialed := make(chan *stack.Conn, 1)
	go func() {
		c, err := s.Dial(testContext(t), stack.Flow{Local: at, Remote: client80}, h)
		if err != nil {
			t.Error(err)
		}
		dialed <- c
	}()
	syn := p.await("a SYN came", func(x stacktest.Packet) bool { return x.Is(stacktest.SYN) })
	const seq = 9000
	options := append([]byte{2, 4, 5, 180, 3, 3, 7, 1}, enoB...)
	inject := func(seq, ack uint32, flags uint8, options []byte) {
		p.wire.Inject(windowed(stacktest.Segment(client80, at, seq, ack, flags, options, nil), 1000))
	}
	isSYNACK := func(x stacktest.Packet) bool { return x.Is(stacktest.SYN | stacktest.ACK) }
	for range 3 {
		p.forget()
		inject(seq, 0, stacktest.SYN, options)
		sa := p.await("a SYN-ACK came", isSYNACK)
		if sa.Seq != syn.Seq || sa.Ack != seq+1 || !hasENO(sa.Options) {
			t.Fatalf("%v", sa)
		}
		time.Sleep(20 * time.Millisecond)
		if n := p.count(func(x stacktest.Packet) bool { return !isSYNACK(x) }); n != 0 {
			t.Fatalf("%d other segments", n)
		}
	}
	p.forget()
	inject(seq+1, syn.Seq+1001, stacktest.ACK, enoPlain)             // acknowledges what was not sent
	inject(seq, syn.Seq+1001, stacktest.SYN|stacktest.ACK, options)  // likewise
	inject(seq+500, 0, stacktest.SYN, options)                       // another SYN, in the window
	inject(seq+500, syn.Seq+1, stacktest.SYN|stacktest.ACK, options) // likewise
	inject(seq-5000, syn.Seq+1, stacktest.ACK, enoPlain)             // of the past
	time.Sleep(50 * time.Millisecond)
	if n := p.count(func(x stacktest.Packet) bool { return !isSYNACK(x) }); n != 0 || len(dialed) != 0 {
		t.Fatalf("%d segments answer what is none of this connection; open: %v", n, len(dialed) != 0)
	}
	if _, n := h.Saw(stack.NonSYN); n != 0 {
		t.Error("the handshake was shown what is none of this connection")
	}
	inject(seq, syn.Seq+1, stacktest.SYN|stacktest.ACK, options)
	c := <-dialed
	if c == nil {
		t.Fatal("not open")
	}
	defer c.Abort()
	p.forget()
	c.Write(randomBytes(50000))
	p.await("data came", func(x stacktest.Packet) bool { return len(x.Payload) > 0 })
	time.Sleep(50 * time.Millisecond)
	sent := 0
	p.count(func(x stacktest.Packet) bool {
		sent = max(sent, int(x.Seq-syn.Seq)-1+len(x.Payload))
		return false
	})
	if sent == 0 || sent > 1000 { // less: the scale rounds
		t.Errorf("%d octets were sent into a window of 1000", sent)
	}
}
