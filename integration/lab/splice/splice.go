// Package splice has the one element of a lab path that needs a TCP of its own: a proxy that ends each connection and
// opens another to where it was meant to go.
package splice

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"sync"

	"innertun/integration/lab"
	"innertun/stack"
	"innertun/stack/link"
)

// DefaultMTU is that of the proxy's links, in octets.
const DefaultMTU = 1500

// Config says what a Splice is like.
type Config struct {
	// Early answers a SYN before the other connection is open, as performance-enhancing proxies do on satellite links (RFC
	// 3135); a refusal then becomes a reset.
	Early bool
	MTU   int // 0: DefaultMTU
	// Tune is the last touch to the configuration of each of the two stacks: clock, randomness. May be nil.
	Tune func(*stack.Config)
}

// Splice is a transparent proxy: it ends every TCP connection that passes, from either side, in the name of its
// destination, opens one to the destination in the name of the source, and copies octets. Nothing of one TCP header
// reaches the other: options, SYN data, sequence numbers and segment boundaries are its own. It stands for performance
// enhancing proxies of mobile and satellite networks, and for "TCP optimizers" and antivirus gateways. What is not TCP
// passes.
type Splice struct {
	early  bool
	sides  [2]*side // facing A, facing B
	place  lab.Place
	once   sync.Once
	ready  chan struct{} // closed: place is there
	ctx    context.Context
	cancel context.CancelFunc
	mu     sync.Mutex
	count  int64
}

// side is the stack that faces one end.
type side struct {
	wire  *link.Wire
	stack *stack.Stack
}

// New returns a proxy. Its stacks run until Close.
func New(cfg Config) (*Splice, error) {
	if cfg.MTU == 0 {
		cfg.MTU = DefaultMTU
	}
	s := &Splice{early: cfg.Early, ready: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	for _, faces := range []lab.End{lab.A, lab.B} {
		wire := link.NewWire(cfg.MTU, func(pkt []byte) { s.out(faces, pkt) })
		c := stack.Config{Link: wire, Promiscuous: true}
		if cfg.Tune != nil {
			cfg.Tune(&c)
		}
		st, err := stack.New(c)
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("splice: %w", err)
		}
		s.sides[faces] = &side{wire, st}
	}
	for _, faces := range []lab.End{lab.A, lab.B} {
		there := s.sides[faces.Other()].stack
		if err := s.sides[faces].stack.Forward(func(r *stack.Request) { s.forward(r, there) }); err != nil {
			s.Close()
			return nil, fmt.Errorf("splice: %w", err)
		}
	}
	return s, nil
}

// Acted is the number of connections that were spliced.
func (s *Splice) Acted() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// Close ends all connections. The path must have been closed before.
func (s *Splice) Close() error {
	s.cancel()
	for _, x := range s.sides {
		if x != nil {
			x.stack.Close()
		}
	}
	return nil
}

// Packet implements lab.Element.
func (s *Splice) Packet(p lab.Packet, at lab.Place) {
	s.once.Do(func() { s.place = at; close(s.ready) })
	if _, ok := lab.ParseSegment(p.Data); !ok {
		at.Send(p)
		return
	}
	s.sides[p.To.Other()].wire.Inject(lab.Complete(p).Data)
}

// out sends a packet of the stack that faces an end. It can run under that stack's locks.
func (s *Splice) out(faces lab.End, pkt []byte) {
	select {
	case <-s.ready:
	default:
		return // nothing has come yet, so this is nothing that anyone waits for
	}
	p := lab.Packet{Data: pkt, To: faces}
	s.place.After(0, func() { s.place.Send(p) })
}

func (s *Splice) forward(r *stack.Request, there *stack.Stack) {
	f := r.Flow()
	var near, far *stack.Conn
	var err error
	if s.early {
		if near, err = r.Accept(); err != nil {
			return
		}
		if far, err = dial(s.ctx, there, f); err != nil {
			near.Abort()
			return
		}
	} else {
		if far, err = dial(r.Context(), there, f); err != nil {
			r.Refuse(err)
			return
		}
		if near, err = r.Accept(); err != nil {
			far.Abort()
			return
		}
	}
	s.mu.Lock()
	s.count++
	s.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { pump(near, far) })
	both.Go(func() { pump(far, near) })
	both.Wait()
	near.Close()
	far.Close()
}

func dial(ctx context.Context, there *stack.Stack, f stack.Flow) (*stack.Conn, error) {
	return there.Dial(ctx, stack.Flow{Local: unmapped(f.Local), Remote: unmapped(f.Remote)}, nil)
}

func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// pump copies to the end of a stream, and ends both connections if one fails.
func pump(from, to *stack.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				err = werr
			}
		}
		switch {
		case err == nil:
			continue
		case err == io.EOF:
			to.CloseWrite()
		default:
			from.Abort()
			to.Abort()
		}
		return
	}
}
