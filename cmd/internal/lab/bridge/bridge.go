// Package bridge runs packets between two real interfaces, or two TUN devices, through a lab path in real time, so that
// programs that know nothing of it can be tried over an emulated path.
//
//	host a --- TUN or interface --- element --- element --- TUN or interface --- host b
package bridge

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"innertun/integration/lab"
)

// Config says what is joined.
type Config struct {
	// A and B name interfaces of this network namespace: two TUN devices, which are made if there are none, or two others,
	// which are joined as a bridge would: their hosts must not use them otherwise.
	A, B     string
	MTU      int           // of TUN devices that are made; 0: 1500
	Elements []lab.Element // the first is nearest to A
}

// Stats counts the packets of one way, by the side they travel towards.
type Stats struct {
	In    uint64 // came from the other side
	Out   uint64 // left
	Lost  uint64 // refused by the interface, or too many under way
	Alien uint64 // nobody knows the Ethernet address of their destination
}

// Bridge is two interfaces and the path between them.
type Bridge struct {
	path  *lab.Path
	ports [2]port
	stats [2]counters
}

type counters struct{ in, out, lost, alien atomic.Uint64 }

// port is one interface.
type port interface {
	// receive blocks until packets come, and hands them over. It ends with os.ErrClosed after close.
	receive(deliver func(p lab.Packet)) error
	// send sends one IP packet.
	send(pkt []byte) error
	close() error
}

const (
	defaultMTU = 1500
	// maxWaiting bounds what is under way, in packets and timers: beyond it the path is a full queue.
	maxWaiting = 50_000
)

var errAlien = errors.New("no Ethernet address is known for the destination")

// Open opens both interfaces. It needs CAP_NET_ADMIN for TUN devices, CAP_NET_RAW for others. The elements belong to the
// bridge from then on, and are closed on an error too.
func Open(cfg Config) (*Bridge, error) {
	b := &Bridge{path: lab.NewPath(nil, cfg.Elements...)}
	if err := b.open(cfg); err != nil {
		b.Close()
		return nil, err
	}
	b.path.Connect(func(pkt []byte) { b.out(lab.A, pkt) }, func(pkt []byte) { b.out(lab.B, pkt) })
	return b, nil
}

func (b *Bridge) open(cfg Config) error {
	if cfg.A == cfg.B {
		return fmt.Errorf("both ends are %q: expected two interfaces", cfg.A)
	}
	if cfg.MTU == 0 {
		cfg.MTU = defaultMTU
	}
	kinds := [2]kind{kindOf(cfg.A), kindOf(cfg.B)}
	if (kinds[lab.A] == ethernet) != (kinds[lab.B] == ethernet) {
		return fmt.Errorf("%s is %s and %s is %s: expected two TUN devices, or two other interfaces", cfg.A, kinds[lab.A], cfg.B, kinds[lab.B])
	}
	if kinds[lab.A] == ethernet {
		return b.openPackets(cfg)
	}
	return b.openTUNs(cfg)
}

func (b *Bridge) openTUNs(cfg Config) error {
	for e, name := range []string{lab.A: cfg.A, lab.B: cfg.B} {
		t, err := openTUN(name, cfg.MTU)
		if err != nil {
			return err
		}
		b.ports[e] = t
	}
	return nil
}

func (b *Bridge) openPackets(cfg Config) error {
	var sides [2]*packetPort
	for e, name := range []string{lab.A: cfg.A, lab.B: cfg.B} {
		p, err := openPacket(name)
		if err != nil {
			return err
		}
		sides[e], b.ports[e] = p, p
	}
	sides[lab.A].other, sides[lab.B].other = sides[lab.B], sides[lab.A]
	return nil
}

// Run carries packets until ctx ends, which is a good end, or an interface fails.
func (b *Bridge) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var both sync.WaitGroup
	for _, from := range []lab.End{lab.A, lab.B} {
		both.Go(func() {
			if err := b.carry(from); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("side %s: %w", from, err))
			}
		})
	}
	<-ctx.Done()
	b.closePorts()
	both.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

func (b *Bridge) carry(from lab.End) error {
	to := from.Other()
	c := &b.stats[to]
	return b.ports[from].receive(func(p lab.Packet) {
		c.in.Add(1)
		if b.path.Waiting() > maxWaiting {
			c.lost.Add(1)
			return
		}
		p.To = to
		b.path.Inject(p)
	})
}

func (b *Bridge) out(to lab.End, pkt []byte) {
	c := &b.stats[to]
	switch err := b.ports[to].send(pkt); {
	case err == nil:
		c.out.Add(1)
	case errors.Is(err, errAlien):
		c.alien.Add(1)
	default: // a full queue, or a device that is down: one more loss
		c.lost.Add(1)
	}
}

// Stats counts what has travelled towards a side.
func (b *Bridge) Stats(to lab.End) Stats {
	c := &b.stats[to]
	return Stats{c.in.Load(), c.out.Load(), c.lost.Load(), c.alien.Load()}
}

func (b *Bridge) closePorts() error {
	var err error
	for _, p := range b.ports {
		if p != nil {
			err = errors.Join(err, p.close())
		}
	}
	return err
}

// Close ends the path and its elements, and closes the interfaces; TUN devices that were made go with them.
func (b *Bridge) Close() error {
	b.path.Close()
	return b.closePorts()
}
