package probe

import (
	"context"
	"crypto/rand"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"innertun/internal/leak"

	"innertun/cmd/internal/probe/packet"
	"innertun/cmd/internal/seam"
	"innertun/integration/lab"
	"innertun/integration/lab/elements"
	"innertun/stack"
	"innertun/stack/link"
	"innertun/stack/virtual"
	"innertun/tcpinc"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// clockOf makes the virtual clock one of a path, and one of the protocols.
type pathClock struct{ *virtual.Clock }

func (c pathClock) AfterFunc(d time.Duration, f func()) lab.Timer { return c.Clock.AfterFunc(d, f) }

type protocolClock struct{ *virtual.Clock }

func (c protocolClock) AfterFunc(d time.Duration, f func()) (stop func() bool) {
	return c.Clock.AfterFunc(d, func() { go f() }).Stop
}

// world is a prober and a server, and three routers between them:
//
//	prober - router 1 - elements - router 2 - router 3 - server
type world struct {
	t     *testing.T
	clock *virtual.Clock
	path  *lab.Path
	taps  [2]*lab.Tap
	host  *stack.Stack
	to    netip.AddrPort
	p     *Prober
	open  atomic.Int64 // connections that the server's application has
	all   sync.WaitGroup
	ends  []func()
}

// setup says what the world is like.
type setup struct {
	path   []string
	server tcpinc.Config
	policy tcpinc.Policy
	ipv6   bool
	closed bool // nothing listens
	quote  int  // octets that routers quote; 0: all
	config Config
}

const rtt = 40 * time.Millisecond

func newWorld(t *testing.T, s setup) *world {
	t.Helper()
	w := &world{t: t, clock: virtual.New(time.Unix(1_600_000_000, 0)), taps: [2]*lab.Tap{new(lab.Tap), new(lab.Tap)}}
	var specs []elements.Spec
	for _, text := range s.path {
		spec, err := elements.ParseSpec(text)
		if err != nil {
			t.Fatal(err)
		}
		specs = append(specs, spec)
	}
	row, err := elements.BuildAll(specs, elements.Env{Seed: 1, Tune: func(c *stack.Config) { c.Clock = w.clock }})
	if err != nil {
		t.Fatal(err)
	}
	router := func(n byte) lab.Element {
		return lab.NewRouter(lab.RouterConfig{IPv4: netip.AddrFrom4([4]byte{198, 18, n, 1}), IPv6: netip.AddrFrom16([16]byte{0xfd, 14: n, 15: 1}), Quote: s.quote})
	}
	all := append([]lab.Element{w.taps[lab.A], lab.Delay(rtt / 2), router(1)}, row...)
	w.path = lab.NewPath(pathClock{w.clock}, append(all, router(2), router(3), w.taps[lab.B])...)
	w.path.Settle(func() { virtual.Settled(time.Minute) })
	wire := link.NewWire(1500, w.path.From(lab.B))
	here, there := netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("198.18.9.2")
	if s.ipv6 {
		here, there = netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::9:2")
	}
	w.to = netip.AddrPortFrom(there, 80)
	w.host, err = stack.New(stack.Config{Link: wire, Clock: w.clock, Addresses: []netip.Prefix{netip.PrefixFrom(there, there.BitLen())},
		Routes: []stack.Route{{Prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 0)}, {Prefix: netip.PrefixFrom(netip.IPv6Unspecified(), 0)}}})
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.config
	cfg.Network, cfg.Clock, cfg.Rand = network{here, w.path.From(lab.A)}, protocolClock{w.clock}, rand.Reader
	for port := range uint16(64) {
		cfg.Ports = append(cfg.Ports, 20000+port)
	}
	w.p = New(cfg)
	w.path.Connect(func(pkt []byte) {
		if packet.Intact(pkt) {
			w.p.Receive(pkt)
		}
	}, wire.Inject)
	if !s.closed {
		w.serve(s)
	}
	t.Cleanup(w.close)
	return w
}

type network struct {
	from netip.Addr
	send func([]byte)
}

func (n network) Source(netip.Addr) (netip.Addr, error) { return n.from, nil }
func (n network) Send(pkt []byte) error {
	n.send(append([]byte(nil), pkt...))
	return nil
}

// serve has an application that reads to the end and closes.
func (w *world) serve(s setup) {
	s.server.Clock = protocolClock{w.clock}
	l, err := seam.Listen(w.host, w.to, tcpinc.ListenConfig{Config: s.server, Policy: s.policy})
	if err != nil {
		w.t.Fatal(err)
	}
	w.ends = append(w.ends, func() { l.Close() })
	w.all.Go(func() {
		for {
			c, err := l.AcceptConn()
			if err != nil {
				return
			}
			w.open.Add(1)
			w.all.Go(func() {
				defer w.open.Add(-1)
				defer c.Close()
				_, _ = io.Copy(io.Discard, c)
			})
		}
	})
}

// pass lets time pass until done.
func (w *world) pass(limit time.Duration, done func() bool) bool {
	until := w.clock.Now().Add(limit)
	for {
		if !virtual.Settled(time.Minute) {
			w.t.Fatal("the world does not come to rest")
		}
		if done() {
			return true
		}
		if !w.clock.Step(until) {
			return done()
		}
	}
}

// probe probes, and sees to it that nothing is left at the server.
func (w *world) probe(ctx context.Context) *Result {
	w.t.Helper()
	done := make(chan *Result, 1)
	go func() { done <- w.p.Probe(ctx, "server", w.to) }()
	if !w.pass(10*time.Minute, func() bool { return len(done) > 0 }) {
		w.t.Fatal("not done in ten minutes")
	}
	w.pass(time.Minute, func() bool { return false })
	if n := w.open.Load(); n != 0 {
		w.t.Errorf("%d connections are still open at the server", n)
	}
	w.answered()
	return <-done
}

// answered checks that each SYN-ACK that arrived was answered by a RST or an ACK.
func (w *world) answered() {
	w.t.Helper()
	type flow struct {
		port uint16
		ack  uint32
	}
	waiting := make(map[flow]bool)
	for _, c := range w.taps[lab.A].Packets() {
		s, err := packet.Parse(c.Data)
		if err != nil || !packet.Intact(c.Data) {
			continue
		}
		switch {
		case c.To == lab.A && s.Has(packet.SYN|packet.ACK):
			waiting[flow{s.To.Port(), s.Ack}] = true
		case c.To == lab.B && !s.Has(packet.SYN):
			delete(waiting, flow{s.From.Port(), s.Seq})
		}
	}
	if len(waiting) > 0 {
		w.t.Errorf("SYN-ACKs without answer: %v", waiting)
	}
}

func (w *world) close() {
	w.host.Close()
	for _, end := range w.ends {
		end()
	}
	w.path.Close()
	w.all.Wait()
}
