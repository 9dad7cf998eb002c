package tcpinc

import (
	"context"
	"time"
)

// Firewalls drop SYNs that carry an option they do not know. Under Opportunistic:
//
//	0 s       a SYN with ENO; the stack sends it again at 1, 3, 7 s ...
//	3 s       no answer: a second connection, without ENO, is dialled beside it
//	3 s + RTT that one is open. The path lives, so either the option is dropped or chance took both SYNs. A third
//	          connection, with ENO, asks once more; it and the first have max(2 RTT, 0.2 s), at most 1 s
//	then      the first to come up with ENO wins, else the plain one; the others are reset
//
// With 3 % loss each way, a SYN or its answer is lost with p = 0.06. A false fallback takes two lost SYNs to begin with and
// two more in the time of grace: p^4, about 1 in 80,000.

// opened is a TCP connection and the negotiation that it opened with; h is nil for a plain one.
type opened struct {
	t   Transport
	h   *Handshake
	err error
}

// open opens the connection with ENO or, under Opportunistic only, without it.
func (t *attempt) open(ctx context.Context) (opened, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // stops those that have not won
	first, err := t.openENO(ctx)
	if err != nil {
		return opened{}, err
	}
	var r runner
	if t.policy == Require {
		return r.win(<-first)
	}
	delay := orDefault(t.FallbackDelay, DefaultFallbackDelay)
	late, stop := after(t.cfg.Clock, delay)
	defer stop()
	select {
	case o := <-first:
		return r.win(o)
	case <-late:
	}
	r.add(first)
	started := t.cfg.Clock.Now()
	plain := t.openOne(ctx, nil)

	select {
	case o := <-first:
		r.drop(first)
		if o.err == nil {
			r.add(plain)
			return r.win(o)
		}
		return r.win(<-plain) // refused or given up with ENO: the plain one's word counts
	case p := <-plain:
		if p.err != nil {
			return t.lastChance(ctx, &r, p, first, nil, minGrace)
		}
		again, err := t.openENO(ctx)
		if err != nil {
			p.t.Abort()
			return r.win(opened{err: err})
		}
		r.add(again)
		grace := min(max(2*t.cfg.Clock.Now().Sub(started), minGrace), maxGrace)
		return t.lastChance(ctx, &r, p, first, again, grace)
	}
}

// lastChance waits for one of the connections with ENO, and takes what the plain dial came to if none of them opens.
func (t *attempt) lastChance(ctx context.Context, r *runner, plain opened, first, again <-chan opened, grace time.Duration) (opened, error) {
	over, stop := after(t.cfg.Clock, grace)
	defer stop()
	for first != nil || again != nil {
		var o opened
		select {
		case o = <-first:
			r.drop(first)
			first = nil
		case o = <-again:
			r.drop(again)
			again = nil
		case <-over:
			return r.win(plain)
		case <-ctx.Done():
			if plain.t != nil {
				plain.t.Abort()
			}
			return r.win(opened{err: context.Cause(ctx)})
		}
		if o.err == nil {
			if plain.t != nil {
				plain.t.Abort()
			}
			return r.win(o)
		}
	}
	return r.win(plain)
}

func (t *attempt) openENO(ctx context.Context) (<-chan opened, error) {
	h, err := t.cfg.NewActive()
	if err != nil {
		return nil, err
	}
	return t.openOne(ctx, h), nil
}

func (t *attempt) openOne(ctx context.Context, h *Handshake) <-chan opened {
	c := make(chan opened, 1)
	go func() {
		transport, err := t.Connect(ctx, t.local, t.remote, h)
		c <- opened{transport, h, err}
	}()
	return c
}

// runner keeps the connections that are still opening, to reset them if they do.
type runner struct{ running []<-chan opened }

func (r *runner) add(c <-chan opened) { r.running = append(r.running, c) }

func (r *runner) drop(c <-chan opened) {
	kept := r.running[:0]
	for _, one := range r.running {
		if one != c {
			kept = append(kept, one)
		}
	}
	r.running = kept
}

// win ends the race: whatever else opens from now on is reset before any data was sent on it.
func (r *runner) win(o opened) (opened, error) {
	for _, c := range r.running {
		go func() {
			if late := <-c; late.err == nil {
				late.t.Abort()
			}
		}()
	}
	return o, o.err
}
