package stack_test

import (
	"errors"
	"io"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"innertun/stack"
	"innertun/stack/stacktest"
)

// timestamped are the options of a SYN with a timestamp.
func timestamped(ts uint32) []byte {
	return []byte{2, 4, 5, 180, 1, 1, 8, 10, byte(ts >> 24), byte(ts >> 16), byte(ts >> 8), byte(ts), 0, 0, 0, 0}
}

// openAndClose has a peer open a connection that the server closes first, so that it goes into TIME-WAIT.
func openAndClose(t *testing.T, p *peer, l *stack.Listener, from, at netip.AddrPort, seq uint32, syn []byte) {
	t.Helper()
	p.forget()
	ts := func() []byte {
		if len(syn) == 4 {
			return nil
		}
		return append([]byte{1, 1}, syn[6:]...)
	}
	p.wire.Inject(stacktest.Segment(from, at, seq, 0, stacktest.SYN, syn, nil))
	sa := p.await("a SYN-ACK came", func(x stacktest.Packet) bool { return x.Is(stacktest.SYN | stacktest.ACK) })
	p.wire.Inject(stacktest.Segment(from, at, seq+1, sa.Seq+1, stacktest.ACK, ts(), nil))
	c, err := l.AcceptConn()
	if err != nil {
		t.Fatal(err)
	}
	p.wire.Inject(stacktest.Segment(from, at, seq+1, sa.Seq+1, stacktest.ACK|stacktest.PSH, ts(), make([]byte, 1000)))
	c.SetDeadline(time.Now().Add(testTimeout))
	if _, err := readFull(c, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	fin := p.await("a FIN came", func(x stacktest.Packet) bool { return x.Flags&stacktest.FIN != 0 })
	p.wire.Inject(stacktest.Segment(from, at, seq+1001, fin.Seq+1, stacktest.ACK|stacktest.FIN, ts(), nil))
	p.await("the FIN is acknowledged", func(x stacktest.Packet) bool { return x.Is(stacktest.ACK) && x.Ack == seq+1002 })
	// The netstack acknowledges first; a SYN that is faster than the rest of it would have to come again.
	eventually(t, "it is in TIME-WAIT", func() bool { return c.Info().State == "TIME-WAIT" })
	p.forget()
}

// A client uses its port again while the server has the earlier connection in TIME-WAIT. RFC 6191.
func TestPortReuseMeetsTimeWait(t *testing.T) {
	for _, c := range []struct {
		name      string
		first     []byte
		seq       uint32 // of the second SYN; the first connection used 10000 to 11002
		second    []byte
		wantReply bool
	}{
		{"higher number, no timestamps", timestamped(0)[:4], 20000, timestamped(0)[:4], true},
		{"lower number, no timestamps", timestamped(0)[:4], 5000, timestamped(0)[:4], false},
		{"higher number, later", timestamped(700), 20000, timestamped(900), true},
		{"lower number, later", timestamped(700), 5000, timestamped(900), true},
		{"lower number, earlier", timestamped(700), 5000, timestamped(600), false},
		{"the old SYN", timestamped(700), 10000, timestamped(700), false},
		{"the old SYN sent again", timestamped(700), 10000, timestamped(701), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPeer(t)
			var hs serverHandshakes
			s := newStack(t, stack.Config{Link: p.wire, Addresses: []netip.Prefix{server4}, Routes: routes})
			at := netip.AddrPortFrom(netip.IPv4Unspecified(), 80)
			l, err := s.Listen(at, hs.new)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			at = netip.AddrPortFrom(server4.Addr(), 80)
			openAndClose(t, p, l, client80, at, 10000, c.first)
			p.wire.Inject(stacktest.Segment(client80, at, c.seq, 0, stacktest.SYN, c.second, nil))
			answered := func() bool {
				return p.count(func(x stacktest.Packet) bool { return x.Is(stacktest.SYN|stacktest.ACK) && x.Ack == c.seq+1 }) > 0
			}
			if c.wantReply {
				eventually(t, "the SYN is answered", answered)
			} else if time.Sleep(100 * time.Millisecond); answered() {
				t.Error("the SYN is answered")
			}
			if n := p.count(func(x stacktest.Packet) bool { return x.Flags&stacktest.RST != 0 }); n != 0 {
				t.Errorf("%d RSTs", n)
			}
		})
	}
}

// A port is taken while somebody listens at it, and only then: not by the connections of an earlier listener, open or in
// TIME-WAIT.
func TestListenAgain(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		w := newWorld(t, time.Millisecond)
		l := w.listen(t, at, nil)
		if second, err := w.server.Listen(at, nil); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("a second listener: %v, %v", second, err)
		}
		wild := netip.AddrPortFrom(netip.IPv6Unspecified(), at.Port())
		if at.Addr().Is4() {
			wild = netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port())
		}
		c, s := w.connect(t, l, at, nil)
		done, doneServer := w.connect(t, l, at, nil)
		doneServer.Close() // first, so that TIME-WAIT is on the server
		if _, err := done.Read(make([]byte, 1)); err != io.EOF {
			t.Fatal(err)
		}
		done.Close()
		l.Close()
		l = w.listen(t, at, nil) // at once
		carry(t, c, s, randomBytes(100_000))
		carry(t, s, c, randomBytes(100_000))
		c, s = w.connect(t, l, at, nil)
		carry(t, c, s, randomBytes(1000))
		l.Close()
		l = w.listen(t, wild, nil)
		c, s = w.connect(t, l, at, nil)
		carry(t, c, s, randomBytes(1000))
	})
}
