package cell

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"innertun/cmd/internal/seam"
	"innertun/integration/lab"
	"innertun/integration/lab/elements"
	"innertun/stack"
	"innertun/stack/link"
	"innertun/stack/virtual"
	"innertun/tcpinc"
	"innertun/tcpinc/tcpcrypt"
)

// The hosts, in RFC 2544's and RFC 4193's blocks.
var (
	clientAddrs = map[bool]netip.Addr{false: netip.AddrFrom4([4]byte{198, 18, 0, 1}), true: netip.AddrFrom16([16]byte{0xfd, 15: 1})}
	serverAddrs = map[bool]netip.Addr{false: netip.AddrFrom4([4]byte{198, 18, 0, 2}), true: netip.AddrFrom16([16]byte{0xfd, 15: 2})}
)

// world is a cell under way.
type world struct {
	cell    Cell
	clock   lab.Clock
	virtual *virtual.Clock // nil: real time
	begin   time.Time
	taps    [2]*lab.Tap
	row     []lab.Element
	sources uint64 // of chances, made so far
	path    *lab.Path
	hosts   [2]*stack.Stack
	service netip.AddrPort
	listen  *tcpinc.Listener
	dialer  *tcpinc.Dialer
	caches  []*tcpcrypt.SessionCache
	ctx     context.Context
	cancel  context.CancelFunc
	all     sync.WaitGroup // the applications

	mu         sync.Mutex
	conns      []Connection
	serving    int   // connections that the server's application has
	serverErr  error // the first octets that were not sent
	ended      bool  // the limit was reached before the client was done
	serverHung bool
	noRoom     NoRoom
	stream     [2]struct{ sent, received []Option } // inner options in the stream, at either end
	elapsed    time.Duration
}

// clockOf makes the virtual clock one of a path.
type clockOf struct{ *virtual.Clock }

func (c clockOf) AfterFunc(d time.Duration, f func()) lab.Timer { return c.Clock.AfterFunc(d, f) }

// protocolClock makes a path's clock one of tcpinc.
type protocolClock struct{ lab.Clock }

func (c protocolClock) AfterFunc(d time.Duration, f func()) (stop func() bool) {
	return c.Clock.AfterFunc(d, func() { go f() }).Stop
}

func newWorld(ctx context.Context, c Cell) (*world, error) {
	w := &world{cell: c, clock: lab.Real(), taps: [2]*lab.Tap{new(lab.Tap), new(lab.Tap)}}
	if !c.Real {
		w.virtual = virtual.New(time.Unix(1_600_000_000, 0))
		w.clock = clockOf{w.virtual}
	}
	w.begin = w.clock.Now()
	w.ctx, w.cancel = context.WithCancel(ctx)
	var err error
	w.row, err = elements.BuildAll(c.Path, elements.Env{Seed: c.Seed, Tune: w.tune})
	if err != nil {
		return nil, fmt.Errorf("cell: %w", err)
	}
	half := lab.Delay(c.RTT / 4)
	row := slices.Concat(
		outer(c.Variant.Client, lab.B), []lab.Element{w.taps[lab.A], half}, w.row,
		[]lab.Element{lab.Delay(c.RTT/2 - c.RTT/4), w.taps[lab.B]}, outer(c.Variant.Server, lab.A))
	w.path = lab.NewPath(w.clock, row...)
	if w.virtual != nil {
		w.path.Settle(func() { virtual.Settled(w.cell.Wall) })
	}
	w.service = netip.AddrPortFrom(serverAddrs[c.IPv6], servicePort)
	if err := w.start(); err != nil {
		w.close()
		return nil, fmt.Errorf("cell: %w", err)
	}
	return w, nil
}

func (w *world) start() error {
	var wires [2]*link.Wire
	for _, e := range []lab.End{lab.A, lab.B} {
		wires[e] = link.NewWire(w.cell.MTU-w.side(e).outerRoom(), w.path.From(e))
	}
	w.path.Connect(wires[lab.A].Inject, wires[lab.B].Inject)
	for e, addr := range []netip.Addr{lab.A: clientAddrs[w.cell.IPv6], lab.B: w.service.Addr()} {
		c := stack.Config{Link: wires[e], Addresses: []netip.Prefix{netip.PrefixFrom(addr, addr.BitLen())},
			Routes: []stack.Route{{Prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 0)}, {Prefix: netip.PrefixFrom(netip.IPv6Unspecified(), 0)}}}
		if lab.End(e) == lab.B {
			c.MaxFlows, c.MaxHalfOpen = w.cell.Room.Flows, w.cell.Room.HalfOpen
		}
		w.tune(&c)
		s, err := stack.New(c)
		if err != nil {
			return err
		}
		w.hosts[e] = s
	}
	v := w.cell.Variant
	var err error
	w.listen, err = seam.Listen(w.hosts[lab.B], w.service, tcpinc.ListenConfig{Config: w.protocols(v.Server), Policy: v.Server.Policy})
	if err != nil {
		return err
	}
	w.dialer = &tcpinc.Dialer{Connect: seam.Connect(w.hosts[lab.A]), Config: w.protocols(v.Client), Paths: new(tcpinc.PathMemory)}
	return nil
}

// tune gives a stack the cell's clock, and chances of its own: ports, sequence numbers, timestamps.
func (w *world) tune(c *stack.Config) {
	c.Rand = w.chances()
	if w.virtual != nil {
		c.Clock = w.virtual
	}
}

// chances are what is drawn where else nobody may foretell it: from the cell's seed, each time other ones.
func (w *world) chances() *chances {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], w.cell.Seed)
	binary.BigEndian.PutUint64(seed[8:], w.sources)
	w.sources++
	return &chances{r: rand.NewChaCha8(seed)}
}

// chances is a source for several goroutines.
type chances struct {
	mu sync.Mutex
	r  *rand.ChaCha8
}

func (c *chances) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.r.Read(b)
}

func (w *world) protocols(s Side) tcpinc.Config {
	cfg := s.Config
	cfg.Clock = protocolClock{w.clock}
	cfg.Rand = w.chances() // keys too
	if s.Resume {
		cfg.Sessions = &tcpcrypt.SessionCache{Clock: cfg.Clock}
		w.caches = append(w.caches, cfg.Sessions)
	}
	return cfg
}

func (w *world) side(e lab.End) Side {
	if e == lab.A {
		return w.cell.Variant.Client
	}
	return w.cell.Variant.Server
}

// outer are the elements that put a side's own options into what it sends.
func outer(s Side, to lab.End) (row []lab.Element) {
	for _, o := range s.Outer {
		row = append(row, lab.Towards(to, lab.NewAddOption(o.Kind, o.Data, o.Segments)))
	}
	return row
}

// outerRoom is what they need in a data segment, in octets.
func (s Side) outerRoom() (n int) {
	for _, o := range s.Outer {
		if o.Segments&lab.NonSYNs != 0 {
			n += (2 + len(o.Data) + 3) &^ 3
		}
	}
	return n
}

// sendOptions sends a side's own inner options.
func (w *world) sendOptions(e lab.End, c *tcpinc.Conn) {
	if !c.ConnectionState().InnerSpace {
		return
	}
	for _, o := range w.side(e).Stream {
		if c.SendOption(o) == nil {
			w.note(func() { w.stream[e].sent = append(w.stream[e].sent, optionOf(o)) })
		}
	}
}

// takeOptions notes the inner options that have come.
func (w *world) takeOptions(e lab.End, c *tcpinc.Conn) {
	for r := range c.Options() {
		if r.SYN {
			continue // the tap has seen those
		}
		w.note(func() { w.stream[e].received = append(w.stream[e].received, optionOf(r.Option)) })
	}
}

// play runs the applications to their end, or to the limit.
func (w *world) play() error {
	wall := time.Now().Add(w.cell.Wall)
	until := w.begin.Add(w.cell.Limit)
	w.all.Go(w.serve)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.client()
	}()
	finished, err := w.pass(until, wall, func() bool { return closed(done) })
	w.note(func() { w.ended, w.elapsed = !finished, w.clock.Now().Sub(w.begin) })
	if finished && err == nil {
		var idle bool
		idle, err = w.pass(until, wall, func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.serving == 0
		})
		w.note(func() { w.serverHung = !idle })
	}
	s := w.hosts[lab.B].Stats()
	w.note(func() { w.noRoom = NoRoom{s.Fleeting, s.WithoutRoom, s.SYNCookies} })
	w.cancel()
	for _, h := range w.hosts {
		h.Close() // ends every connection
	}
	<-done
	return err
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// pass lets time pass until something is done; false: it was not by then.
func (w *world) pass(until, wall time.Time, done func() bool) (bool, error) {
	for {
		if left := time.Until(wall); left <= 0 || w.virtual != nil && !virtual.Settled(left) {
			return false, fmt.Errorf("%w (%s)", ErrSlow, w.cell.Wall)
		}
		if err := w.ctx.Err(); err != nil {
			return false, err
		}
		if done() {
			return true, nil
		}
		switch {
		case w.virtual != nil:
			if !w.virtual.Step(until) {
				return false, nil
			}
		case !w.clock.Now().Before(until):
			return false, nil
		default:
			time.Sleep(time.Millisecond)
		}
	}
}

func (w *world) note(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// client runs the connections one after the other; one that fails does not keep the next from being tried.
func (w *world) client() {
	for i := range w.cell.Workload.Connections {
		if i > 0 && w.cell.Workload.Pause > 0 {
			w.sleep(w.cell.Workload.Pause)
		}
		w.note(func() { w.conns = append(w.conns, Connection{Outcome: Hung}) })
		conn := w.connection(w.cell.Seed + uint64(i))
		if w.ctx.Err() != nil {
			return // hung: what happened since is the end of the cell
		}
		w.note(func() { w.conns[i] = conn })
	}
}

func (w *world) connection(seed uint64) (r Connection) {
	start := w.clock.Now() // its SYN leaves at once
	since := func() time.Duration { return w.clock.Now().Sub(start) }
	o := tcpinc.DialOptions{Policy: w.cell.Variant.Client.Policy}
	if w.cell.Variant.Client.EarlyData {
		o.EarlyData = make([]byte, w.cell.Workload.Up)
		upText(seed).fill(o.EarlyData, 0)
	}
	c, err := w.dialer.Dial(w.ctx, netip.Addr{}, w.service, o)
	if err != nil {
		r.failed(fmt.Errorf("connecting: %w", err))
		return r
	}
	defer c.Close()
	r.Opened = since()
	w.sendOptions(lab.A, c)
	n := &notes{first: func() { r.FirstReply = since() }, begun: int64(len(o.EarlyData))}
	err = w.cell.Workload.client(c, seed, w.sleep, n)
	r.Sent, r.Received = n.sent, n.received
	s := c.ConnectionState()
	w.takeOptions(lab.A, c)
	r.Encrypted, r.Resumed, r.TEP = s.Encrypted, s.Resumed, tcpinc.TEPName(s.TEP)
	r.Inner, r.Early, r.Downgrade = s.InnerSpace, s.EarlyData, s.Downgraded
	r.Cookie = cookied(w.taps[lab.A].Packets(), c.LocalAddr(), start)
	r.RoundTrips = roundTrips(r.FirstReply, w.cell.RTT)
	switch {
	case err != nil:
		r.failed(err)
		c.Abort()
		return r
	case s.Encrypted:
		r.Outcome = Encrypted
	case w.cell.Variant.Client.Policy == tcpinc.Off:
		r.Outcome = PlainTCP
	default:
		r.Outcome, r.Reason = FellBack, s.FallbackReason.String()
	}
	r.Completion = since()
	return r
}

func (r *Connection) failed(err error) {
	r.Outcome, r.Error, r.Class = Broke, err.Error(), class(err)
	if errors.Is(err, errGarbled) {
		r.Outcome = Garbled
	}
	var required *tcpinc.RequiredError
	if errors.As(err, &required) {
		r.Reason = required.Reason.String()
	}
}

func (w *world) sleep(d time.Duration) {
	woken := make(chan struct{})
	t := w.clock.AfterFunc(d, func() { close(woken) })
	defer t.Stop()
	select {
	case <-woken:
	case <-w.ctx.Done():
	}
}

// serve is the server's application, for every connection. Which of the client's connections it has, the first octets
// tell by their seed.
func (w *world) serve() {
	for {
		c, err := w.listen.AcceptConn()
		if err != nil {
			return
		}
		w.note(func() { w.serving++ })
		w.all.Go(func() {
			defer w.note(func() { w.serving-- })
			defer c.Close()
			w.sendOptions(lab.B, c)
			err := w.cell.Workload.server(c, w.seedOf())
			w.takeOptions(lab.B, c)
			if err != nil {
				c.Abort()
			}
			if errors.Is(err, errGarbled) {
				w.note(func() { w.serverErr = err })
			}
		})
	}
}

// seedOf is the seed of the connection that the client is at.
func (w *world) seedOf() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cell.Seed + uint64(max(len(w.conns), 1)-1)
}

func (w *world) packets() (packets [2][]lab.Captured) {
	for e, tap := range w.taps {
		packets[e] = tap.Packets()
	}
	return packets
}

func (w *world) result(packets [2][]lab.Captured) Result {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := Result{Outcome: Encrypted, Connections: w.conns, ServerHung: w.serverHung, NoRoom: w.noRoom, RTT: w.cell.RTT, Elapsed: w.elapsed}
	for i, c := range w.conns {
		if i == 0 || worse(c.Outcome, r.Outcome) > 0 {
			r.Outcome, r.Reason, r.Error, r.Class = c.Outcome, c.Reason, c.Error, c.Class
		}
	}
	if w.serverErr != nil {
		r.Outcome, r.Error, r.Class = Garbled, "server: "+w.serverErr.Error(), class(w.serverErr)
	}
	for i, e := range w.row {
		acted := int64(-1)
		if a, ok := e.(lab.Actor); ok {
			acted = a.Acted()
		}
		r.Elements = append(r.Elements, Element{w.cell.Path[i].String(), acted})
	}
	for _, e := range []lab.End{lab.A, lab.B} {
		packets[e] = w.honest(packets[e])
		r.Sides[e] = Seen{Sent: look(packets[e], e.Other()), Received: look(packets[e], e)}
		r.Sides[e].Sent.Stream, r.Sides[e].Received.Stream = w.stream[e].sent, w.stream[e].received
		if w.cell.Variant.Client.Policy == tcpinc.Require {
			r.Leaked = r.Leaked || leaked(packets[e])
		}
	}
	return r
}

// honest leaves out what a flood's forged sources have sent, and the answers to them.
func (w *world) honest(packets []lab.Captured) []lab.Captured {
	for _, e := range w.row {
		if one, ok := e.(interface{ Unwrap() lab.Element }); ok {
			e = one.Unwrap()
		}
		if f, ok := e.(*lab.Flood); ok {
			packets = slices.DeleteFunc(slices.Clone(packets), func(p lab.Captured) bool { return f.Forged(p.Data) })
		}
	}
	return packets
}

// leaked looks for what the applications say.
func leaked(packets []lab.Captured) bool {
	for _, p := range packets {
		if bytes.Contains(p.Data, []byte(marker)) {
			return true
		}
	}
	return false
}

func (w *world) close() {
	w.cancel()
	for _, h := range w.hosts {
		if h != nil {
			h.Close()
		}
	}
	if w.listen != nil {
		w.listen.Close()
	}
	w.path.Close()
	w.all.Wait()
	for _, c := range w.caches {
		c.Close()
	}
}
