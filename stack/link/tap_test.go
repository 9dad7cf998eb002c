package link

import (
	"bytes"
	"net"
	"sync"
	"testing"
	"time"
)

// TestTap counts what the tap sees against the link's own counters, and puts the octets of a stream together again.
func TestTap(t *testing.T) {
	near, far := twoSpaces(t, 1500)
	p := openNear(t, near)
	ns := newNetstack(t, p.LinkEndpoint(), nearV4+"/24")
	kernel := far.listen("tcp", net.JoinHostPort(farV4, "9000"))

	var mu sync.Mutex
	var packets, octets [2]uint64 // received, sent
	var super, partial int
	var all bytes.Buffer
	before := p.Stats()
	p.SetTap(func(pkt Tapped) {
		mu.Lock()
		defer mu.Unlock()
		way := 0
		if pkt.Outgoing {
			way = 1
		}
		packets[way]++
		octets[way] += uint64(pkt.Size())
		if pkt.SegmentSize > 0 {
			super++
			if pkt.Size() <= 1514 || pkt.SegmentSize > 1460 {
				t.Errorf("super-packet of %d octets, segments of %d", pkt.Size(), pkt.SegmentSize)
			}
		}
		if pkt.PartialChecksum {
			partial++
		}
		for _, b := range pkt.Parts {
			all.Write(b)
		}
	})
	out := dialFrom(t, ns, firstPort, net.JoinHostPort(farV4, "9000"))
	in, err := kernel.Accept()
	check(t, err)
	defer in.Close()
	exchange(t, out, in)
	p.SetTap(nil)
	after := p.Stats()
	var seen, seenOctets [2]uint64
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		mu.Lock()
		seen, seenOctets = packets, octets
		mu.Unlock()
		// What is seen leaving is counted only when it has left.
		if after.Sent-before.Sent >= seen[1] || time.Now().After(end) {
			break
		}
		after = p.Stats()
	}
	// A packet may pass between the end of the exchange and the counters.
	near2 := func(got, want uint64) bool { return got <= want && want-got <= 4 }
	if got := after.Sent - before.Sent; !near2(seen[1], got) {
		t.Errorf("%d packets seen leaving, %d sent", seen[1], got)
	}
	if got := after.Received - before.Received; !near2(seen[0], got) {
		t.Errorf("%d packets seen arriving, %d received", seen[0], got)
	}
	if seenOctets[1] < 1<<20 || seenOctets[0] < 1<<20 {
		t.Errorf("octets seen: %v", seenOctets)
	}
	if super == 0 || partial == 0 {
		t.Errorf("%d super-packets and %d partial checksums were told", super, partial)
	}
	again := dialFrom(t, ns, firstPort+1, net.JoinHostPort(farV4, "9000"))
	in2, err := kernel.Accept()
	check(t, err)
	defer in2.Close()
	exchange(t, again, in2)
	mu.Lock()
	defer mu.Unlock()
	if packets != seen {
		t.Error("the tap sees packets after its end")
	}
}
