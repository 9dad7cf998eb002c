package stack_test

import (
	"bytes"
	"math"
	"net/netip"
	"sync"
	"testing"

	"innertun/stack"
	"innertun/stack/stacktest"
)

// signing is a Guard that holds all RSTs and marks its own.
type signing struct {
	*stacktest.Handshake
	mu   sync.Mutex
	sent []stack.Header
}

var resetMark = []byte{253, 4, 7, 7}

func (s *signing) AppendResetOptions(dst []byte, seg stack.Header, room int) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, seg)
	return append(dst, resetMark...)
}

func newSigning() *signing {
	return &signing{Handshake: &stacktest.Handshake{Verdict: stack.Hold, Payload: map[stack.Segment][]byte{stack.SYNACK: synAckData}}}
}

// A Guard that comes only with Conn.Guard knows the places of RSTs as one from the start does, on both sides of the end of the
// sequence space, and leaves nothing behind.
func TestGuardOfOpenConn(t *testing.T) {
	at := netip.AddrPortFrom(server4.Addr(), 80)
	src := netip.MustParseAddrPort("198.18.9.9:999")
	for _, irs := range []uint32{1000, math.MaxUint32 - 1} {
		p := newPeer(t)
		s := newStack(t, stack.Config{Link: p.wire, Addresses: []netip.Prefix{server4}, Routes: routes})
		later := false // whoever comes after the first gets a Handshake
		l, err := s.Listen(at, func(stack.Flow) stack.Handshake {
			if !later {
				return nil
			}
			return new(stacktest.Handshake)
		})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		inject := func(seq, ack uint32, flags uint8, data string) {
			p.wire.Inject(stacktest.Segment(src, at, seq, ack, flags, nil, []byte(data)))
		}
		open := func() (c *stack.Conn, iss uint32) {
			p.forget()
			inject(irs, 0, stacktest.SYN, "")
			sa := p.await("a SYN-ACK came", func(x stacktest.Packet) bool { return x.Is(stacktest.SYN|stacktest.ACK) && x.Dst == src })
			inject(irs+1, sa.Seq+1, stacktest.ACK, "")
			if c, err = l.AcceptConn(); err != nil {
				t.Fatal(err)
			}
			return c, sa.Seq
		}
		isReset := func(x stacktest.Packet) bool { return x.Flags&stacktest.RST != 0 }

		c, iss := open()
		h := newSigning()
		c.Guard(h, irs)
		inject(irs+1, iss+1, stacktest.ACK, "data") // before anything has left
		p.await("it is acknowledged", func(x stacktest.Packet) bool { return x.Ack == irs+5 })
		if st := s.Stats(); st.Flows != 0 {
			t.Errorf("kept, once the place of its own octets is known: %+v", st)
		}
		inject(irs+5, 0, stacktest.RST, "")
		if r := h.Resets(); len(r) != 1 || r[0].Offset != 5 || s.Stats().ResetsHeld != 1 {
			t.Fatalf("RSTs that came: %+v", r)
		}
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		c.Abort()
		rst := p.await("a RST left", isReset)
		want := rst.Seq - iss + uint32(len(synAckData))
		if len(h.sent) != 1 || h.sent[0].Offset != want || !bytes.Contains(rst.Options, resetMark) {
			t.Errorf("signed %+v, want the place %d: % x", h.sent, want, rst.Options)
		}
		inject(irs+5, 0, stacktest.RST, "")
		if n := len(h.Resets()); n != 1 {
			t.Errorf("asked %d times, of a connection that is no more", n-1)
		}

		// One that ends before anything has left, and one that has ended before.
		c, _ = open()
		c.Guard(newSigning(), irs)
		c.Abort()
		if st := s.Stats(); st.Flows != 0 {
			t.Errorf("kept: %+v", st)
		}
		c.Guard(h, irs)
		inject(irs+1, 0, stacktest.RST, "")
		if n := len(h.Resets()); n != 1 || s.Stats().Flows != 0 {
			t.Errorf("asked %d times, of a connection that was no more: %+v", n-1, s.Stats())
		}

		// A forged SYN does not take its place, and goes.
		c, iss = open()
		later = true
		p.forget()
		inject(irs+100, 0, stacktest.SYN, "")
		if st := s.Stats(); st.HalfOpen != 1 {
			t.Fatalf("%+v", st)
		}
		// It is answered (RFC 5961, Section 4), and what leaves later would tell the Guard where the own octets are.
		p.await("an ACK answers it", func(x stacktest.Packet) bool { return x.Is(stacktest.ACK) && x.Ack == irs+1 })
		last := newSigning()
		c.Guard(last, irs)
		if st := s.Stats(); st.HalfOpen != 0 || st.Flows != 1 {
			t.Errorf("a half-open connection stays: %+v", st)
		}
		inject(irs+1, iss+1, stacktest.ACK, "data")
		inject(irs+5, 0, stacktest.RST, "")
		if r := last.Resets(); len(r) != 1 || r[0].Offset != 5 {
			t.Errorf("RSTs that came: %+v", r)
		}
		c.Close()
	}
}
