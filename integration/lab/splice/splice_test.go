package splice

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"innertun/integration/lab"
	"innertun/stack"
	"innertun/stack/link"

	"innertun/internal/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

var hosts = map[bool][2]netip.Addr{
	false: {netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("198.18.0.2")},
	true:  {netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")},
}

// pair is two hosts with a proxy between them, and a tap on either side of it.
func pair(t *testing.T, v6 bool, cfg Config) (a, b *stack.Stack, taps [2]*lab.Tap, s *Splice) {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	taps = [2]*lab.Tap{new(lab.Tap), new(lab.Tap)}
	path := lab.NewPath(nil, taps[0], lab.Delay(time.Millisecond), s, lab.Delay(time.Millisecond), taps[1])
	wa, wb := link.NewWire(1500, path.From(lab.A)), link.NewWire(1500, path.From(lab.B))
	path.Connect(wa.Inject, wb.Inject)
	host := func(w *link.Wire, addr netip.Addr) *stack.Stack {
		st, err := stack.New(stack.Config{Link: w, Addresses: []netip.Prefix{netip.PrefixFrom(addr, addr.BitLen())},
			Routes: []stack.Route{{Prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 0)}, {Prefix: netip.PrefixFrom(netip.IPv6Unspecified(), 0)}}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { st.Close() })
		return st
	}
	a, b = host(wa, hosts[v6][0]), host(wb, hosts[v6][1])
	t.Cleanup(path.Close)
	return a, b, taps, s
}

// Octets pass both ways to their end, from either side; sequence numbers do not.
func TestSplice(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, early := range []bool{false, true} {
			a, b, taps, s := pair(t, v6, Config{Early: early})
			for i, ends := range [][2]*stack.Stack{{a, b}, {b, a}} {
				at := netip.AddrPortFrom(hosts[v6][1-i], 80)
				l, err := ends[1].Listen(at, nil)
				if err != nil {
					t.Fatal(err)
				}
				go func() {
					c, err := l.AcceptConn()
					if err != nil {
						return
					}
					io.Copy(c, c)
					c.CloseWrite()
					c.Close()
				}()
				c, err := ends[0].Dial(t.Context(), stack.Flow{Remote: at}, nil)
				if err != nil {
					t.Fatal(err)
				}
				sent := make([]byte, 1<<20)
				rand.NewChaCha8([32]byte{1}).Read(sent)
				go func() {
					c.Write(sent)
					c.CloseWrite()
				}()
				got, err := io.ReadAll(c)
				if err != nil || !bytes.Equal(got, sent) {
					t.Errorf("%d octets of %d, %v", len(got), len(sent), err)
				}
				c.Close()
				l.Close()
			}
			if s.Acted() != 2 {
				t.Errorf("%d connections", s.Acted())
			}
			if first(t, taps[0]) == first(t, taps[1]) {
				t.Error("the initial sequence number passed the proxy")
			}
		}
	}
}

func first(t *testing.T, tap *lab.Tap) uint32 {
	t.Helper()
	for _, p := range tap.Packets() {
		if s, ok := lab.ParseSegment(p.Data); ok && s.Flags() == lab.SYN && p.To == lab.B {
			return s.Seq()
		}
	}
	t.Fatal("no SYN")
	return 0
}

// A refusal is one on the other side too; a proxy that has accepted already can only reset.
func TestRefused(t *testing.T) {
	for _, early := range []bool{false, true} {
		a, _, taps, _ := pair(t, false, Config{Early: early})
		c, err := a.Dial(t.Context(), stack.Flow{Remote: netip.AddrPortFrom(hosts[false][1], 81)}, nil)
		want := syscall.ECONNREFUSED
		if early {
			want = syscall.ECONNRESET
			if err == nil { // else the reset came before Dial had looked
				_, err = c.Read(make([]byte, 1))
				c.Close()
			}
		}
		if !errors.Is(err, want) {
			t.Errorf("early %v: %v", early, err)
		}
		if accepted := slices.ContainsFunc(taps[0].Packets(), isSYNACK); accepted != early {
			t.Errorf("early %v: accepted %v", early, accepted)
		}
	}
}

func isSYNACK(p lab.Captured) bool {
	s, ok := lab.ParseSegment(p.Data)
	return ok && s.IsSYN() && s.Flags()&lab.ACK != 0
}

// An abort on one side is one on the other.
func TestAbort(t *testing.T) {
	a, b, _, _ := pair(t, false, Config{})
	at := netip.AddrPortFrom(hosts[false][1], 80)
	l, err := b.Listen(at, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := a.Dial(t.Context(), stack.Flow{Remote: at}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.AcceptConn()
	if err != nil {
		t.Fatal(err)
	}
	s.Abort()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v", err)
	}
}
