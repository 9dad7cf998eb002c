package seam

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"innertun/integration/lab"
	"innertun/tcpinc"
)

// miscounts is a firewall that forgets the data of a SYN when it counts: what the client sends next is outside its window.
type miscounts struct {
	mu    sync.Mutex
	ports map[uint16]bool
}

func (e *miscounts) Packet(p lab.Packet, at lab.Place) {
	s, ok := lab.ParseSegment(p.Data)
	if !ok || p.To != lab.B {
		at.Send(p)
		return
	}
	e.mu.Lock()
	if s.IsSYN() && len(s.Payload()) > 0 {
		e.ports[clientPort(p, s)] = true
	}
	drop := !s.IsSYN() && e.ports[clientPort(p, s)]
	e.mu.Unlock()
	if !drop {
		at.Send(p)
	}
}

// A path that carries upgraded SYNs and nothing after them costs one connection, not all to come.
func TestUpgradedAndThenNothing(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		w := newWorld(t, tcpinc.InnerSpaceAuto, v6, []kind{upgradedServer}, &miscounts{ports: make(map[uint16]bool)}, lab.Delay(time.Millisecond))
		if s, _, err := w.talk(t, tcpinc.Require); err != nil || !s.InnerSpace {
			t.Fatalf("first contact: %+v, %v", s, err)
		}
		c, err := w.dialer.Dial(t.Context(), netip.Addr{}, w.to, tcpinc.DialOptions{Policy: tcpinc.Require})
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte("lost"))
		c.SetReadDeadline(clock.Now().Add(300 * time.Millisecond))
		if n, err := c.Read(make([]byte, 4)); err == nil {
			t.Fatalf("%d octets came back", n)
		}
		c.Abort()
		before := len(w.attempts(t))
		for range 2 {
			if s, took, err := w.talk(t, tcpinc.Require); err != nil || !s.InnerSpace || took > 500*time.Millisecond {
				t.Fatalf("after that: %+v after %v, %v", s, took, err)
			}
		}
		for _, a := range newest(w.attempts(t), before) {
			if a.synU > 0 {
				t.Errorf("one more upgraded SYN: %v", a)
			}
		}
		if conns, octets := w.servers[0].count(); conns != 3 || octets == 0 {
			t.Errorf("the application has seen %d connections", conns)
		}
	}
}
