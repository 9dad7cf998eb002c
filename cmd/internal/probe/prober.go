// Package probe is `innertun probe`: it asks a server, over the real network, what survives on the path to it. Each question
// is a SYN, or a short connection, from a port of its own; answers are told apart from losses by repetition, and routers'
// ICMP errors, which quote what reached them, name the hop that changed a packet.
//
// Packets go and come through a Network, time through a Clock: over the elements of integration/lab the whole of it runs in
// the process.
package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"slices"
	"sync"
	"time"

	"innertun/cmd/internal/probe/packet"
	"innertun/tcpinc/tcpcrypt"
)

// Network carries whole IP packets.
type Network interface {
	// Source returns the local address that packets to an address leave from.
	Source(to netip.Addr) (netip.Addr, error)
	// Send sends a packet. It must not retain it.
	Send(pkt []byte) error
}

// Defaults of Config.
const (
	// DefaultTimeout has room for a SYN-ACK that is repeated after a second, as the first was lost. RFC 6298, Section 2.
	DefaultTimeout = 1300 * time.Millisecond
	DefaultTries   = 8
	DefaultHops    = 30
	DefaultRate    = 50
)

// Config is what probes go by.
type Config struct {
	Network Network
	Ports   []uint16       // local ports that nobody else uses
	Clock   tcpcrypt.Clock // nil: RealClock
	Rand    io.Reader      // sequence numbers and keys

	Timeout time.Duration // how long an answer may take; 0: DefaultTimeout
	Tries   int           // SYNs at most for each question; 0: DefaultTries
	Hops    int           // routers at most; 0: DefaultHops; negative: hops are not looked for
	Rate    float64       // questions a second, of all targets together; 0: DefaultRate
}

func (cfg Config) filled() Config {
	if cfg.Clock == nil {
		cfg.Clock = tcpcrypt.RealClock{}
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Tries == 0 {
		cfg.Tries = DefaultTries
	}
	if cfg.Hops == 0 {
		cfg.Hops = DefaultHops
	}
	if cfg.Rate == 0 {
		cfg.Rate = DefaultRate
	}
	return cfg
}

// ErrNoPort is the error when every local port is in use.
var ErrNoPort = errors.New("every local port of the probe is in use")

// Prober asks the questions. It is safe for concurrent use.
//
// It is the whole of TCP for its ports: a segment that no question waits for is answered as by a host that knows no such
// connection, so that nothing stays half open at the other end. RFC 9293, Section 3.10.7.1.
type Prober struct {
	cfg Config

	mu    sync.Mutex
	free  []uint16 // the one that rests longest is first
	inUse map[uint16]*port
	past  map[uint16][]flow // what each port was used for, the latest first
	next  time.Time         // when the next question may leave
}

// New returns a prober. What its network receives is to be given to Receive.
func New(cfg Config) *Prober {
	return &Prober{cfg: cfg.filled(), free: append([]uint16(nil), cfg.Ports...), inUse: make(map[uint16]*port),
		past: make(map[uint16][]flow)}
}

// Receive takes a packet whose checksums are right. It keeps it.
func (p *Prober) Receive(pkt []byte) {
	e := event{at: p.cfg.Clock.Now()}
	s, err := packet.Parse(pkt)
	if err == nil {
		e.segment = s
		at := p.port(s.To.Port())
		if heard := at != nil && at.remote == s.From && at.hear(e); !heard && p.knows(flow{s.To, s.From}) {
			p.refuse(s)
		}
		return
	}
	n, err := packet.ParseNotice(pkt)
	if err != nil {
		return
	}
	e.notice = &n
	if at := p.port(n.Quote.From.Port()); at != nil && at.remote == n.Quote.To {
		at.hear(e)
	}
}

// flow is the two ends of a connection.
type flow struct{ local, remote netip.AddrPort }

// maxPast is how many connections a port is known for. Segments of others are not answered: they may be somebody else's.
const maxPast = 4

func (p *Prober) knows(f flow) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.past[f.local.Port()], f)
}

func (p *Prober) port(n uint16) *port {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inUse[n]
}

// refuse answers a segment of no connection. RFC 9293, Section 3.10.7.1.
func (p *Prober) refuse(s packet.Segment) {
	if s.Has(packet.RST) {
		return
	}
	reset := packet.Segment{From: s.To, To: s.From, Flags: packet.RST, Seq: s.Ack}
	if !s.Has(packet.ACK) {
		reset.Flags, reset.Seq, reset.Ack = packet.RST|packet.ACK, 0, s.Seq+s.Len()
	}
	p.send(reset)
}

const defaultHops = 64

// send sends a segment and returns its packet. An error is a lost packet: the answer will be missing.
func (p *Prober) send(s packet.Segment) []byte {
	if s.Hops == 0 {
		s.Hops = defaultHops
	}
	pkt, err := s.Append(nil)
	if err == nil {
		_ = p.cfg.Network.Send(pkt)
	}
	return pkt
}

// turn waits until the next question may leave.
func (p *Prober) turn(ctx context.Context) error {
	p.mu.Lock()
	now := p.cfg.Clock.Now()
	if p.next.Before(now) {
		p.next = now
	}
	wait := p.next.Sub(now)
	p.next = p.next.Add(time.Duration(float64(time.Second) / p.cfg.Rate))
	p.mu.Unlock()
	return p.sleep(ctx, wait)
}

func (p *Prober) sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	passed := make(chan struct{})
	stop := p.cfg.Clock.AfterFunc(d, func() { close(passed) })
	defer stop()
	select {
	case <-passed:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// random returns a number to begin a sequence with.
func (p *Prober) random() uint32 {
	var b [4]byte
	p.mu.Lock()
	defer p.mu.Unlock()
	// Without randomness the number is just a worse one.
	_, _ = io.ReadFull(p.cfg.Rand, b[:])
	return binary.BigEndian.Uint32(b[:])
}

// port is a local port while a question uses it.
type port struct {
	p             *Prober
	local, remote netip.AddrPort

	mu     sync.Mutex
	closed bool
	in     chan event
}

// event is something that arrived: a segment, or an ICMP error.
type event struct {
	at      time.Time
	segment packet.Segment
	notice  *packet.Notice // nil: a segment
}

// listen takes a free port for an exchange with remote. Close gives it back.
func (p *Prober) listen(remote netip.AddrPort) (*port, error) {
	from, err := p.cfg.Network.Source(remote.Addr())
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) == 0 {
		return nil, ErrNoPort
	}
	at := &port{p: p, local: netip.AddrPortFrom(from, p.free[0]), remote: remote, in: make(chan event, 64)}
	p.free = p.free[1:]
	p.inUse[at.local.Port()] = at
	past := append([]flow{{at.local, remote}}, p.past[at.local.Port()]...)
	p.past[at.local.Port()] = past[:min(len(past), maxPast)]
	return at, nil
}

// hear queues an event; false: nobody will look at it.
func (a *port) hear(e event) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	select {
	case a.in <- e:
		return true
	default:
		return e.notice != nil // a flood: what is lost is sent again, or refused later
	}
}

// wait returns the next event, or false once it is later than until, or ctx is done.
func (a *port) wait(ctx context.Context, until time.Time) (event, bool) {
	select {
	case e := <-a.in:
		return e, true
	default:
	}
	d := until.Sub(a.p.cfg.Clock.Now())
	if d <= 0 {
		return event{}, false
	}
	late := make(chan struct{})
	stop := a.p.cfg.Clock.AfterFunc(d, func() { close(late) })
	defer stop()
	select {
	case e := <-a.in:
		return e, true
	case <-late:
	case <-ctx.Done():
		return event{}, false
	}
	select { // what is there counts, though nobody looked in time
	case e := <-a.in:
		return e, true
	default:
	}
	return event{}, false
}

// send fills in the addresses.
func (a *port) send(s packet.Segment) []byte {
	s.From, s.To = a.local, a.remote
	return a.p.send(s)
}

// close gives the port back; what has arrived, and what still will, is refused.
func (a *port) close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	for len(a.in) > 0 {
		if e := <-a.in; e.notice == nil {
			a.p.refuse(e.segment)
		}
	}
	a.p.mu.Lock()
	defer a.p.mu.Unlock()
	delete(a.p.inUse, a.local.Port())
	a.p.free = append(a.p.free, a.local.Port())
}
