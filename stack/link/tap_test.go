package link

import (
	"bytes"
	"net"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
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
			// Of what the MTU allows, acknowledgements of what has come out of order take some away.
			if payload := payloadLen(pkt); payload <= pkt.SegmentSize || pkt.SegmentSize > 1460 {
				t.Errorf("super-packet with %d octets, segments of %d", payload, pkt.SegmentSize)
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
	var after Stats
	var seen, seenOctets [2]uint64
	var seenSuper, seenPartial int
	// A few packets may pass between the tap and the counters, at either end.
	about := func(got, want uint64) bool { return max(got, want)-min(got, want) <= 16 }
	// What is seen leaving is counted only when it has left, what has arrived is counted before it is seen, and
	// acknowledgements may still wait to be read: the tap ends only when they agree.
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		after = p.Stats()
		mu.Lock()
		seen, seenOctets, seenSuper, seenPartial = packets, octets, super, partial
		mu.Unlock()
		if about(seen[1], after.Sent-before.Sent) && about(seen[0], after.Received-before.Received) {
			break
		}
	}
	p.SetTap(nil)
	if got := after.Sent - before.Sent; !about(seen[1], got) {
		t.Errorf("%d packets seen leaving, %d sent", seen[1], got)
	}
	if got := after.Received - before.Received; !about(seen[0], got) {
		t.Errorf("%d packets seen arriving, %d received", seen[0], got)
	}
	if seenOctets[1] < 1<<20 || seenOctets[0] < 1<<20 {
		t.Errorf("octets seen: %v", seenOctets)
	}
	if seenSuper == 0 || seenPartial == 0 {
		t.Errorf("%d super-packets and %d partial checksums were told", seenSuper, seenPartial)
	}
	again := dialFrom(t, ns, firstPort+1, net.JoinHostPort(farV4, "9000"))
	in2, err := kernel.Accept()
	check(t, err)
	defer in2.Close()
	exchange(t, again, in2)
	last := p.Stats()
	mu.Lock()
	defer mu.Unlock()
	// Calls that had begun may end late; one that is not ended sees all that passes.
	if late, passed := packets[1]-seen[1], last.Sent-after.Sent; 2*late >= passed {
		t.Errorf("the tap sees %d packets sent after its end, of %d", late, passed)
	}
	if late, passed := packets[0]-seen[0], last.Received-after.Received; 2*late >= passed {
		t.Errorf("the tap sees %d packets received after its end, of %d", late, passed)
	}
}

// payloadLen is how many octets of payload a TCP segment over IPv4 has.
func payloadLen(pkt Tapped) int {
	ip := header.IPv4(bytes.Join(pkt.Parts, nil)[header.EthernetMinimumSize:])
	return len(ip) - int(ip.HeaderLength()) - int(header.TCP(ip[ip.HeaderLength():]).DataOffset())
}
