package lab

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// A flood goes where the first SYN goes, begins when and with as many as it was told, is the same for the same seed, and loses
// the answers.
func TestFlood(t *testing.T) {
	for _, w := range []struct{ client, server netip.AddrPort }{
		{netip.MustParseAddrPort("198.18.0.1:5000"), netip.MustParseAddrPort("198.18.0.2:80")},
		{netip.MustParseAddrPort("[fd00::1]:5000"), netip.MustParseAddrPort("[fd00::2]:80")},
	} {
		run := func(seed uint64) (sent [][]byte) {
			f := &Flood{Rate: 1000, Burst: 20, Count: 70, Wait: time.Second, Seed: seed, SYN: func(i int) ([]byte, []byte) {
				return []byte{2, 4, 5, 180}, bytes.Repeat([]byte{byte(i)}, i)
			}}
			f.Start()
			clock := NewManual(start)
			path := NewPath(clock, f)
			defer path.Close()
			answers := 0
			path.Connect(func([]byte) { answers++ }, func(b []byte) { sent = append(sent, b) })
			path.From(A)(fresh(w.client, w.server, 1, 1, ACK).packet(B).Data) // nothing to learn from it
			clock.Advance(2 * time.Second)
			path.From(A)(fresh(w.client, w.server, 1, 0, SYN).packet(B).Data)
			clock.Advance(999 * time.Millisecond)
			if len(sent) != 2 {
				t.Fatalf("%d packets too early", len(sent)-2)
			}
			clock.Advance(time.Millisecond)
			if len(sent) != 22 {
				t.Fatalf("a burst of %d", len(sent)-2)
			}
			clock.Advance(10 * time.Millisecond)
			if len(sent) != 32 {
				t.Fatalf("%d after 10 ms", len(sent)-2)
			}
			clock.Advance(time.Minute)
			if len(sent) != 72 || f.Acted() != 70 || path.Waiting() != 0 {
				t.Fatalf("%d in all, counted %d, %d waiting", len(sent)-2, f.Acted(), path.Waiting())
			}
			for i, b := range sent[2:] {
				p, ok := takeApart(Packet{Data: b})
				if !ok || p.destination != w.server || p.flags != SYN || len(p.payload) != i || p.off != 0xffff || !f.Forged(b) {
					t.Fatalf("%d: %x", i, b)
				}
				path.From(B)(fresh(p.destination, p.source, 9, p.seq+1, SYN|ACK).packet(A).Data)
			}
			path.From(B)(fresh(w.server, w.client, 9, 2, SYN|ACK).packet(A).Data)
			clock.Advance(0)
			if answers != 1 || f.Forged(sent[0]) {
				t.Errorf("%d answers", answers)
			}
			return sent
		}
		same := func(a, b [][]byte) bool { return slices.EqualFunc(a, b, bytes.Equal) }
		if one := run(1); !same(one, run(1)) || same(one, run(2)) {
			t.Error("the seed does not tell")
		}
	}
}

// Sources of a short prefix come again.
func TestFloodSources(t *testing.T) {
	f := &Flood{Target: netip.MustParseAddrPort("198.18.0.2:80"), Sources: netip.MustParsePrefix("198.19.4.0/30")}
	for i, want := range []string{"198.19.4.0", "198.19.4.1", "198.19.4.2", "198.19.4.3", "198.19.4.0"} {
		if s, ok := ParseSegment(f.Segment(i)); !ok || s.Source.Addr() != netip.MustParseAddr(want) {
			t.Errorf("%d: %v", i, s.Source)
		}
	}
	if f.Forged(nil) || f.Forged([]byte{0x45}) {
		t.Error("no packet is one")
	}
}

// What it begins with comes behind the burst.
func TestFloodBursts(t *testing.T) {
	f := &Flood{Burst: 3}
	f.Start()
	clock := NewManual(start)
	path := NewPath(clock, f)
	defer path.Close()
	var ports []uint16
	path.Connect(func([]byte) {}, func(b []byte) {
		s, _ := ParseSegment(b)
		ports = append(ports, s.Source.Port())
	})
	path.From(A)(fresh(netip.MustParseAddrPort("198.18.0.1:5000"), netip.MustParseAddrPort("198.18.0.2:80"), 1, 0, SYN).packet(B).Data)
	clock.Advance(time.Second)
	if !slices.Equal(ports, []uint16{1024, 1025, 1026, 5000}) {
		t.Error(ports)
	}
}
