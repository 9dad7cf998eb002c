package stack_test

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/faketime"

	"innertun/stack"
	"innertun/stack/link"
	"innertun/stack/stacktest"
)

// peer is a host that sends what it likes.
type peer struct {
	t    *testing.T
	wire *link.Wire
	mu   sync.Mutex
	got  []stacktest.Packet
}

func newPeer(t *testing.T) *peer {
	p := &peer{t: t}
	p.wire = link.NewWire(1500, func(pkt []byte) {
		x, err := stacktest.Parse(pkt)
		if err != nil {
			t.Errorf("a bad packet: %v", err)
		}
		p.mu.Lock()
		p.got = append(p.got, x)
		p.mu.Unlock()
	})
	return p
}

// serve has a stack by that clock, with a listener whose connections have Handshakes.
func (p *peer) serve(t *testing.T, clock tcpip.Clock) (*stack.Stack, netip.AddrPort) {
	t.Helper()
	s := newStack(t, stack.Config{Link: p.wire, Addresses: []netip.Prefix{server4}, Routes: routes, Clock: clock})
	at := netip.AddrPortFrom(server4.Addr(), 80)
	l, err := s.Listen(at, new(serverHandshakes).new)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return s, at
}

// await waits for a packet that matches.
func (p *peer) await(what string, match func(stacktest.Packet) bool) stacktest.Packet {
	p.t.Helper()
	var found stacktest.Packet
	eventually(p.t, what, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, x := range p.got {
			if match(x) {
				found = x
				return true
			}
		}
		return false
	})
	return found
}

func (p *peer) count(match func(stacktest.Packet) bool) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.got {
		if match(x) {
			n++
		}
	}
	return n
}

func (p *peer) forget() {
	p.mu.Lock()
	p.got = nil
	p.mu.Unlock()
}

// synOptions are MSS 1460 and ENO.
var synOptions = []byte{2, 4, 5, 180, 69, 3, 0x23}

func spoofed(i int) netip.AddrPort {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], 0xc6130000|uint32(i/60000))
	return netip.AddrPortFrom(netip.AddrFrom4(a), uint16(1024+i%60000))
}

func TestSYNFlood(t *testing.T) {
	const floods, maxFlows, maxHalfOpen = 20000, 500, 100
	p := newPeer(t)
	clock := faketime.NewManualClock()
	var hs serverHandshakes
	s := newStack(t, stack.Config{
		Link: p.wire, Addresses: []netip.Prefix{server4}, Routes: routes,
		MaxFlows: maxFlows, MaxHalfOpen: maxHalfOpen, Clock: clock,
	})
	at := netip.AddrPortFrom(server4.Addr(), 80)
	l, err := s.Listen(at, hs.new)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i := range floods {
		p.wire.Inject(stacktest.Segment(spoofed(i), at, uint32(i), 0, stacktest.SYN, synOptions, nil))
		if i%1000 == 0 {
			st := s.Stats()
			if st.Flows > maxFlows || st.HalfOpen > maxFlows || st.Endpoints > maxHalfOpen+1 {
				t.Fatalf("it grows: %+v", st)
			}
			p.forget()
			time.Sleep(time.Millisecond)
		}
	}
	eventually(t, "the netstack answers with cookies", func() bool { return s.Stats().SYNCookies > 0 })
	st := s.Stats()
	if st.WithoutRoom == 0 || st.Flows != maxFlows {
		t.Fatalf("%+v", st)
	}
	if hs.count() > maxFlows+floods/100 {
		t.Fatalf("%d handshakes made", hs.count())
	}

	// An honest client gets through meanwhile: at first plainly, and with ENO as soon as the old ones make room.
	check := func(src netip.AddrPort, wantENO bool) {
		t.Helper()
		p.forget()
		p.wire.Inject(stacktest.Segment(src, at, 1000, 0, stacktest.SYN, synOptions, nil))
		sa := p.await("a SYN-ACK came", func(x stacktest.Packet) bool { return x.Is(stacktest.SYN|stacktest.ACK) && x.Dst == src })
		if hasENO(sa.Options) != wantENO {
			t.Fatalf("want ENO %v: %v", wantENO, sa)
		}
		options := enoPlain
		if !wantENO {
			options = nil
		}
		p.wire.Inject(stacktest.Segment(src, at, 1001, sa.Seq+1, stacktest.ACK, options, nil))
		c, err := l.AcceptConn()
		if err != nil {
			t.Fatal(err)
		}
		if c.RemoteAddr().String() != src.String() || (c.Handshake() != nil) != wantENO {
			t.Fatalf("accepted %v, handshake %v", c.RemoteAddr(), c.Handshake())
		}
		c.Abort()
	}
	check(netip.MustParseAddrPort("198.18.0.7:7000"), false)
	clock.Advance(4 * time.Second)
	check(netip.MustParseAddrPort("198.18.0.7:7001"), true)

	// And it all ends.
	clock.Advance(140 * time.Second)
	eventually(t, "half-open connections expire", func() bool { return s.Stats().Flows == 0 })
}

// A third segment with ENO that belongs to nothing known would be followed by what is not plain.
func TestUnknownENO(t *testing.T) {
	p := newPeer(t)
	clock := faketime.NewManualClock()
	s, at := p.serve(t, clock)

	// Out of nothing.
	p.wire.Inject(stacktest.Segment(client80, at, 5, 77, stacktest.ACK, enoPlain, []byte("INIT1")))
	rst := p.await("a RST came", func(x stacktest.Packet) bool { return x.Flags&stacktest.RST != 0 })
	if rst.Seq != 77 || rst.Dst != client80 {
		t.Fatalf("%v", rst)
	}
	p.forget()

	// The connection waited for too long.
	p.wire.Inject(stacktest.Segment(client80, at, 1000, 0, stacktest.SYN, synOptions, nil))
	sa := p.await("a SYN-ACK came", func(x stacktest.Packet) bool { return x.Is(stacktest.SYN | stacktest.ACK) })
	clock.Advance(150 * time.Second)
	eventually(t, "it has expired", func() bool { return s.Stats().Flows == 0 })
	p.wire.Inject(stacktest.Segment(client80, at, 1001, sa.Seq+1, stacktest.ACK, enoPlain, nil))
	p.await("a RST came", func(x stacktest.Packet) bool { return x.Flags&stacktest.RST != 0 && x.Seq == sa.Seq+1 })
	if st := s.Stats(); st.UnknownENO != 2 {
		t.Fatalf("%+v", st)
	}
}

var client80 = netip.MustParseAddrPort("198.18.0.9:8000")

// ENO on later segments, before the peer has heard of the first, is of a known connection: also before Accept.
func TestRepeatedENO(t *testing.T) {
	p := newPeer(t)
	var hs serverHandshakes
	s := newStack(t, stack.Config{Link: p.wire, Addresses: []netip.Prefix{server4}, Routes: routes})
	at := netip.AddrPortFrom(server4.Addr(), 80)
	l, err := s.Listen(at, hs.new)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p.wire.Inject(stacktest.Segment(client80, at, 1000, 0, stacktest.SYN, synOptions, nil))
	sa := p.await("a SYN-ACK came", func(x stacktest.Packet) bool { return x.Is(stacktest.SYN | stacktest.ACK) })
	text := []byte("abcdefghij")
	for i := range text {
		p.wire.Inject(stacktest.Segment(client80, at, 1001+uint32(i), sa.Seq+1, stacktest.ACK, enoPlain, text[i:i+1]))
	}
	c, err := l.AcceptConn()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p.wire.Inject(stacktest.Segment(client80, at, 1001+uint32(len(text)), sa.Seq+1, stacktest.ACK, enoPlain, []byte("k")))
	got := make([]byte, len(text)+1)
	c.SetDeadline(time.Now().Add(testTimeout))
	if _, err := readFull(c, got); err != nil || string(got) != "abcdefghijk" {
		t.Fatalf("%q, %v", got, err)
	}
	if n := p.count(func(x stacktest.Packet) bool { return x.Flags&stacktest.RST != 0 }); n != 0 {
		t.Fatalf("%d RSTs", n)
	}
}

// Handshake segments with a bad checksum are shown to nobody; nor are those that acknowledge what was not sent.
func TestForgedHandshakeSegments(t *testing.T) {
	at := netip.AddrPortFrom(server4.Addr(), 80)
	w := newWorld(t, 0)
	var hs serverHandshakes
	l := w.listen(t, at, hs.new)
	w.path.SetTap(func(d stacktest.Direction, p stacktest.Packet) [][]byte {
		if p.Flags&stacktest.SYN != 0 || d == stacktest.AtoB && hasENO(p.Options) {
			damaged := append([]byte(nil), p.Raw...)
			damaged[len(damaged)-1] ^= 1
			if p.Is(stacktest.SYN) {
				return [][]byte{damaged, p.Raw}
			}
			// Of a blind attacker's: no ENO, and acknowledging something else.
			blind := stacktest.Segment(p.Src, p.Dst, p.Seq, p.Ack+100000, p.Flags, nil, nil)
			return [][]byte{damaged, blind, p.Raw}
		}
		return [][]byte{p.Raw}
	})
	c, s := w.connect(t, l, at, clientHandshake())
	checkShown(t, c.Handshake(), s.Handshake())
	if w.client.Stats().BadChecksums == 0 || w.server.Stats().BadChecksums == 0 {
		t.Fatal("bad checksums are not counted")
	}
}

func TestFragmentsAreDropped(t *testing.T) {
	p := newPeer(t)
	s := newStack(t, stack.Config{Link: p.wire, Addresses: []netip.Prefix{server4, server6}, Routes: routes})
	raw := stacktest.Segment(client80, netip.AddrPortFrom(server4.Addr(), 80), 1, 0, stacktest.SYN, nil, nil)
	raw[6] = 0x20 // more fragments
	stacktest.SetTCPChecksum(raw)
	p.wire.Inject(raw)
	raw6 := stacktest.Segment(netip.MustParseAddrPort("[fd00::9]:1"), netip.AddrPortFrom(server6.Addr(), 80), 1, 0, stacktest.SYN, nil, nil)
	raw6[6] = 44
	p.wire.Inject(raw6)
	if st := s.Stats(); st.Fragments != 2 {
		t.Fatalf("%+v", st)
	}
}

func TestGuard(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		for _, v := range []stack.Verdict{stack.Deliver, stack.Hold, stack.Drop} {
			w := newWorld(t, 0)
			var hs serverHandshakes
			h := clientHandshake()
			h.Verdict = v
			c, s := w.connect(t, w.listen(t, at, hs.new), at, h)
			carry(t, c, s, []byte("x"))
			carry(t, s, c, []byte("x"))
			settled(t, w.client, w.server)
			s.Abort()
			eventually(t, "the guard was asked", func() bool { return len(h.Resets()) > 0 })
			if r := h.Resets()[0]; r.Flow != c.Flow() || r.Flags&stacktest.RST == 0 {
				t.Fatalf("it was shown %+v", r)
			}
			if v == stack.Deliver {
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Fatalf("Read: %v", err)
				}
				continue
			}
			c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if _, err := c.Read(make([]byte, 1)); errors.Is(err, syscall.ECONNRESET) {
				t.Fatalf("verdict %d, Read: %v", v, err)
			}
			c.SetReadDeadline(time.Now().Add(testTimeout))
			if held := c.DeliverHeld(); held != (v == stack.Hold) {
				t.Fatalf("verdict %d, held %v", v, held)
			}
			if v == stack.Hold {
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Fatalf("Read: %v", err)
				}
			}
		}
	})
}
