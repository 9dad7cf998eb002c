package seam

import (
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"innertun/integration/lab"
	"innertun/integration/lab/splice"
	"innertun/stack"
	"innertun/tcpinc"
	"innertun/tcpinc/eno"
)

// row is one row of the table of dual handshakes.
type row struct {
	name     string
	server   kind
	path     func(t *testing.T) []lab.Element
	upgraded bool // SYNs of the connection that is kept
	inner    bool // it has Inner Space
	crypt    bool
	learnt   string // of the second connection: "SYN" or "SYN-U"
	within   [2]time.Duration
}

func elements(e ...lab.Element) func(*testing.T) []lab.Element {
	return func(*testing.T) []lab.Element { return e }
}

const dualRTT = 20 * time.Millisecond

// The rows of the table. What each learns shows in the next connection's SYNs.
func rows() []row {
	soon := [2]time.Duration{0, 500 * time.Millisecond}
	grace := [2]time.Duration{50 * time.Millisecond, 600 * time.Millisecond}
	resent := [2]time.Duration{700 * time.Millisecond, 2 * time.Second}
	return []row{
		{"an upgraded server", upgradedServer, elements(), true, true, true, "SYN-U", soon},
		{"a server without Inner Space", tcpcryptServer, elements(), false, false, true, "SYN", soon},
		{"a legacy server", legacyServer, elements(), false, false, false, "SYN", soon},
		{"a firewall drops SYN data", upgradedServer, elements(lab.NewBlockSYNData(lab.Drop)), false, true, true, "SYN", grace},
		{"and the server is a legacy one", legacyServer, elements(lab.NewBlockSYNData(lab.Drop)), false, false, false, "SYN", grace},
		{"a firewall resets SYN data", upgradedServer, elements(lab.NewBlockSYNData(lab.Reset)), false, true, true, "SYN", soon},
		{"a firewall resets it both ways", upgradedServer, elements(lab.NewBlockSYNData(lab.ResetBoth)), false, true, true, "SYN", soon},
		{"a firewall answers by ICMP", upgradedServer, elements(lab.NewBlockSYNData(lab.Prohibited)), false, true, true, "SYN", soon},
		{"a box strips SYN data", upgradedServer, elements(new(lab.StripSYNData)), false, true, true, "SYN", soon},
		{"a box strips the data of the SYN-ACK", upgradedServer, elements(lab.Towards(lab.A, new(lab.StripSYNData))), false, true, true, "SYN", soon},
		{"a proxy splices", upgradedServer, proxy(false), false, false, false, "SYN", soon},
		{"a proxy splices and answers early", upgradedServer, proxy(true), false, false, false, "SYN", soon},
		{"the SYN-U is lost", upgradedServer, lost(lab.B, true), false, true, true, "SYN", grace},
		{"the SYN is lost", upgradedServer, lost(lab.B, false), true, true, true, "SYN-U", soon},
		{"the SYN-ACK-U is lost", upgradedServer, lost(lab.A, true), false, true, true, "SYN", grace},
		{"the SYN-ACK is lost", upgradedServer, lost(lab.A, false), true, true, true, "SYN-U", soon},
		{"the SYN-ACK is lost, of a legacy server", legacyServer, lost(lab.A, false), false, false, false, "SYN", resent},
		{"both SYNs are lost", upgradedServer, func(*testing.T) []lab.Element {
			return []lab.Element{&loss{to: lab.B, upgraded: true}, &loss{to: lab.B}}
		}, false, true, true, "SYN-U", resent},
		{"the SYN-ACK-U comes later", upgradedServer, late(true, 30*time.Millisecond), true, true, true, "SYN-U", soon},
		{"the SYN-ACK comes later", upgradedServer, late(false, 30*time.Millisecond), true, true, true, "SYN-U", soon},
		{"the SYN-ACK-U comes too late", upgradedServer, late(true, 400*time.Millisecond), false, true, true, "SYN", grace},
	}
}

func proxy(early bool) func(t *testing.T) []lab.Element {
	return func(t *testing.T) []lab.Element {
		s, err := splice.New(splice.Config{Early: early, Tune: func(c *stack.Config) { c.Clock = clock.Clock }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return []lab.Element{s}
	}
}

// loss loses the first segment with SYN in one direction of a connection whose SYN is, or is not, upgraded.
type loss struct {
	to       lab.End
	upgraded bool
	late     time.Duration // not lost, but late
	mu       sync.Mutex
	done     bool
	ports    map[uint16]bool // of the client, that have sent a SYN-U
}

func (e *loss) Packet(p lab.Packet, at lab.Place) {
	s, ok := lab.ParseSegment(p.Data)
	if !ok || !s.IsSYN() {
		at.Send(p)
		return
	}
	e.mu.Lock()
	port := clientPort(p, s)
	if p.To == lab.B {
		if e.ports == nil {
			e.ports = make(map[uint16]bool)
		}
		e.ports[port] = upgradedData(s.Payload())
	}
	hit := !e.done && p.To == e.to && e.ports[port] == e.upgraded
	e.done = e.done || hit
	e.mu.Unlock()
	switch {
	case !hit:
		at.Send(p)
	case e.late > 0:
		at.SendAfter(e.late, p)
	}
}

func lost(to lab.End, upgraded bool) func(t *testing.T) []lab.Element {
	return func(*testing.T) []lab.Element { return []lab.Element{&loss{to: to, upgraded: upgraded}} }
}

func late(upgraded bool, by time.Duration) func(t *testing.T) []lab.Element {
	return func(*testing.T) []lab.Element {
		return []lab.Element{&loss{to: lab.A, upgraded: upgraded, late: by}}
	}
}

// Each row of the table, as it shows on the wire.
func TestDual(t *testing.T) {
	for _, r := range rows() {
		for _, v6 := range []bool{false, true} {
			name := r.name + ", ipv4"
			if v6 {
				name = r.name + ", ipv6"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, tcpinc.InnerSpaceOn, v6, []kind{r.server}, append(r.path(t), lab.Delay(dualRTT/2))...)
				s, took, err := w.talk(t, tcpinc.Opportunistic)
				if err != nil {
					t.Fatal(err)
				}
				if s.Encrypted != r.crypt || s.InnerSpace != r.inner {
					t.Errorf("%+v", s)
				}
				if took < r.within[0] || took > r.within[1] {
					t.Errorf("it took %v", took)
				}
				var first []attempt
				eventually(t, 5*time.Second, "the other connection is reset", func() bool {
					first = w.attempts(t)
					for _, a := range first {
						if a.synAck+a.synAckU > 0 && a.goesOn == 0 && a.resets == 0 {
							return false
						}
					}
					return true
				})
				checkAttempts(t, first)
				if len(first) != 2 || first[0].syn+first[1].syn == 0 || first[0].synU+first[1].synU == 0 {
					t.Fatalf("%v", first)
				}
				kept := first[0]
				if kept.goesOn == 0 {
					kept = first[1]
				}
				if (kept.synU > 0) != r.upgraded {
					t.Errorf("kept %v of %v", kept, first)
				}
				if _, _, err := w.talk(t, tcpinc.Opportunistic); err != nil {
					t.Fatal(err)
				}
				second := newest(w.attempts(t), len(first))
				checkAttempts(t, second)
				if len(second) != 1 || (second[0].synU > 0) != (r.learnt == "SYN-U") {
					t.Errorf("the second connection: %v, want a %s", second, r.learnt)
				}
				want := 2 * len("what the application says ") * 1000
				eventually(t, 5*time.Second, "the application has it all", func() bool {
					conns, octets := w.servers[0].count()
					// A proxy that opens the way on before it answers does that for both SYNs: its doing, and without an octet.
					return (conns == 2 || conns == 3 && r.name == "a proxy splices") && octets == want
				})
			})
		}
	}
}

// Back ends of different age share an address: the answers change from one connection to the next, and each connection
// comes to what its back end can do.
func TestDualMixedBackEnds(t *testing.T) {
	for _, mode := range []tcpinc.InnerSpaceMode{tcpinc.InnerSpaceAuto, tcpinc.InnerSpaceOn} {
		for _, kinds := range [][]kind{
			{upgradedServer, legacyServer}, {legacyServer, upgradedServer}, {upgradedServer, tcpcryptServer}, {tcpcryptServer, upgradedServer, legacyServer},
		} {
			w := newWorld(t, mode, false, kinds, lab.Delay(time.Millisecond))
			const n = 12
			done := 0
			for range n {
				before := len(w.attempts(t))
				s, took, err := w.talk(t, tcpinc.Opportunistic)
				if err != nil {
					t.Fatal(err)
				}
				if took > time.Second {
					t.Errorf("%v, %v: it took %v", mode, kinds, took)
				}
				if s.InnerSpace && !s.Encrypted {
					t.Errorf("%+v", s)
				}
				eventually(t, 5*time.Second, "the others are reset", func() bool {
					for _, a := range newest(w.attempts(t), before) {
						if a.synAck+a.synAckU > 0 && a.goesOn == 0 && a.resets == 0 {
							return false
						}
					}
					return true
				})
				checkAttempts(t, newest(w.attempts(t), before))
				done++
			}
			eventually(t, 5*time.Second, "the applications have it all", func() bool {
				conns, octets := 0, 0
				for _, s := range w.servers {
					c, o := s.count()
					conns, octets = conns+c, octets+o
				}
				return conns == done && octets == done*len("what the application says ")*1000
			})
		}
	}
}

// Policies and a destination that does less than before: counted each time, logged once, refused where encryption is
// required.
func TestDualDowngrade(t *testing.T) {
	for _, c := range []struct {
		policy tcpinc.Policy
		then   kind
		err    error
	}{
		{tcpinc.Opportunistic, tcpcryptServer, nil},
		{tcpinc.Opportunistic, legacyServer, nil},
		{tcpinc.Require, tcpcryptServer, tcpinc.ErrInnerSpaceMissing},
		{tcpinc.Ratchet, tcpcryptServer, tcpinc.ErrInnerSpaceMissing},
		{tcpinc.Require, legacyServer, tcpinc.ErrEncryptionRequired},
		{tcpinc.Ratchet, legacyServer, tcpinc.ErrEncryptionRequired},
	} {
		t.Run(c.policy.String(), func(t *testing.T) {
			w := newWorld(t, tcpinc.InnerSpaceOn, false, []kind{upgradedServer, c.then}, lab.Delay(time.Millisecond))
			var log strings.Builder
			w.dialer.Config.Logger = slog.New(slog.NewTextHandler(&log, nil))
			w.backends[0] = 0 // the first SYNs, both, go to the first back end
			w.mu.Lock()
			for p := range uint16(65535) {
				w.backends[p] = 0
			}
			w.mu.Unlock()
			if s, _, err := w.talk(t, c.policy); err != nil || !s.InnerSpace || s.Downgraded {
				t.Fatalf("%+v, %v", s, err)
			}
			w.mu.Lock()
			for p := range w.backends {
				w.backends[p] = 1
			}
			w.mu.Unlock()
			conns, _ := w.servers[1].count()
			for i := range 3 {
				s, _, err := w.talk(t, c.policy)
				if !errors.Is(err, c.err) || err == nil && !s.Downgraded || w.dialer.Downgrades() != uint64(i+1) {
					t.Errorf("connection %d: %+v, %v, %d downgrades", i, s, err, w.dialer.Downgrades())
				}
				if err == nil && (s.InnerSpace || s.Encrypted != (c.then == tcpcryptServer)) {
					t.Errorf("%+v", s)
				}
				if err == nil && !s.Encrypted && s.FallbackReason != eno.PeerNoENO {
					t.Errorf("%+v", s)
				}
			}
			if n := strings.Count(log.String(), "msg=\"downgrade: "); n != 1 {
				t.Errorf("logged %d times:\n%s", n, log.String())
			}
			if c.err != nil {
				if now, octets := w.servers[1].count(); octets > 0 && now > conns {
					t.Errorf("the application was given %d octets", octets)
				}
			}
		})
	}
}

// Many upgraded connections to one destination from few ports: a port is used again while the server's end of its last
// connection is in TIME-WAIT.
func TestUpgradedPortReuse(t *testing.T) {
	ports := []uint16{61000, 61001, 61002}
	w := newWorldFrom(t, ports, tcpinc.InnerSpaceAuto, false, []kind{upgradedServer}, lab.Delay(time.Millisecond))
	const n = 15
	for i := range n {
		s, took, err := w.talk(t, tcpinc.Require)
		if err != nil || !s.InnerSpace || took > time.Second {
			t.Fatalf("connection %d after %v: %v, %+v", i, took, err, s)
		}
	}
	syns, upgraded := 0, 0
	for _, a := range w.attempts(t) {
		syns, upgraded = syns+a.syn, upgraded+a.synU
	}
	if len(w.attempts(t)) > len(ports) || syns != 1 || upgraded != n-1 {
		t.Errorf("%d ordinary SYNs and %d upgraded ones, from %d ports", syns, upgraded, len(w.attempts(t)))
	}
}
