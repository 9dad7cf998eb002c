package tcpinc

import (
	"context"
	"errors"
	"syscall"
	"time"

	"innertun/tcpinc/eno"
)

// Firewalls drop SYNs that carry an option they do not know. Where policy allows plain TCP:
//
//	0 s       a SYN with ENO; the stack sends it again at 1, 3, 7 s ...
//	3 s       no answer: a second connection, without ENO, is dialled beside it
//	3 s + RTT that one is open. The path lives, so either the option is dropped or chance took both SYNs. There is a
//	          time of grace, max(2 RTT, 0.2 s) and at most 1 s; at its beginning and in its middle one more connection
//	          with ENO is tried
//	then      the first to come up with ENO wins, else the plain one; the others are reset
//
// A SYN with ENO may be refused for the option alone, by a RST or an ICMP message: one without it is sent then, at once, and
// if that is answered the time of grace follows as above. Where nothing listens both are refused, a round trip later than
// one would be.
//
// With 3 % loss each way, a SYN or its answer is lost with p = 0.06. A false fallback takes five in a row, about one
// connection in a million.

const (
	minGrace  = 200 * time.Millisecond
	maxGrace  = time.Second
	maxOpened = 4 // connections tried in one race
)

// opened is a TCP connection and the negotiation that it opened with; h is nil for a plain one.
type opened struct {
	t   Transport
	h   *Handshake
	err error
}

// open opens the connection with ENO or, if policy allows that, without it.
func (t *attempt) open(ctx context.Context) (opened, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // stops those that have not won
	r := &race{attempt: t, ctx: ctx, results: make(chan opened, maxOpened)}
	if err := r.startENO(r.cfg); err != nil {
		return opened{}, err
	}
	var o opened
	switch {
	case t.local.Port() != 0:
		o = r.take(<-r.results)
		if refusesENO(o.err) && !t.mustEncrypt() { // the port is free again
			r.start(nil)
			o = r.take(<-r.results)
		}
	case t.mustEncrypt():
		o = r.runRequired()
	default:
		o = r.run()
	}
	r.resetLosers()
	return o, o.err
}

// race is the connections that are tried for one attempt.
type race struct {
	*attempt
	ctx     context.Context
	results chan opened // room for all: nobody waits for a reader that has gone
	running int
	withENO int  // of those
	offered bool // one of all offered to resume a session
}

// runRequired is run without plain connections. A SYN that offers to resume a session is longer than others, which may
// be why it is not answered: one without the offer is tried beside it.
func (r *race) runRequired() opened {
	var late <-chan struct{}
	if r.offered {
		c, stop := after(r.cfg.Clock, orDefault(r.FallbackDelay, DefaultFallbackDelay))
		defer stop()
		late = c
	}
	for {
		select {
		case o := <-r.results:
			if o = r.take(o); o.err == nil || r.running == 0 {
				return o
			}
		case <-late:
			late = nil
			fresh := r.cfg
			fresh.NoResume = true
			r.startENO(fresh)
		}
	}
}

func (r *race) run() opened {
	late, stop := after(r.cfg.Clock, orDefault(r.FallbackDelay, DefaultFallbackDelay))
	defer stop()
	select {
	case o := <-r.results:
		if o = r.take(o); !refusesENO(o.err) {
			return o
		}
	case <-late:
	}
	started := r.cfg.Clock.Now()
	r.start(nil)
	for {
		o := r.take(<-r.results)
		switch {
		case o.h == nil && o.err == nil:
			return r.grace(o, r.cfg.Clock.Now().Sub(started))
		case o.err == nil, r.running == 0:
			return o
		case o.h == nil && errors.Is(o.err, syscall.EADDRNOTAVAIL):
			// No port is left for a second connection, which says nothing of the destination.
		case o.h == nil:
			return r.grace(o, r.cfg.Clock.Now().Sub(started))
		}
		// Refused or given up with ENO by now: the word of the plain one counts.
	}
}

// refusesENO reports whether the error may be a box's answer to the option in the SYN: a RST, or an ICMP message that the
// connection is prohibited, which stacks make EHOSTUNREACH or EACCES of.
func refusesENO(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.EACCES)
}

// grace gives those with ENO a last chance, and takes what the plain one came to if none of them opens.
func (r *race) grace(plain opened, rtt time.Duration) opened {
	var again <-chan struct{}
	grace := minGrace
	fresh := r.cfg // what keeps SYNs with ENO from arriving may be their length
	fresh.NoResume = true
	if plain.err == nil {
		grace = min(max(2*rtt, minGrace), maxGrace)
		r.startENO(fresh)
		c, stop := after(r.cfg.Clock, grace/2)
		defer stop()
		again = c
	}
	over, stop := after(r.cfg.Clock, grace)
	defer stop()
	for r.withENO > 0 {
		select {
		case o := <-r.results:
			if r.take(o); o.err == nil {
				discard(plain)
				return o
			}
		case <-again:
			again = nil
			r.startENO(fresh)
		case <-over:
			for len(r.results) > 0 { // one may have come up at the same moment
				if o := r.take(<-r.results); o.err == nil {
					discard(plain)
					return o
				}
			}
			return r.without(plain)
		case <-r.ctx.Done():
			return r.without(plain)
		}
	}
	return r.without(plain)
}

// without takes what the plain one came to, as none with ENO has opened; but not if they were stopped by a caller who has given
// up: that says nothing of the path.
func (r *race) without(plain opened) opened {
	if r.ctx.Err() == nil {
		return plain
	}
	discard(plain)
	return opened{err: context.Cause(r.ctx)}
}

// startENO starts a connection with ENO. Each that offers to resume a session has a ticket of its own.
func (r *race) startENO(cfg Config) error {
	h, err := r.newActive(cfg)
	if err == nil {
		r.offered = r.offered || h.offered()
		r.start(h)
	}
	return err
}

// newActive returns the Handshake of one connection. With a local port of its own it is the only one, and gives up ENO
// when the others would go without.
func (t *attempt) newActive(cfg Config) (*Handshake, error) {
	e := eno.Config{RoleB: cfg.B}
	if t.local.Port() != 0 && !t.mustEncrypt() {
		e.MaxSYNs = synsWithin(orDefault(t.FallbackDelay, DefaultFallbackDelay))
	}
	h, err := cfg.newHandshake(e, t.remote)
	if err == nil {
		h.gate = t.gate
	}
	return h, err
}

// synsWithin is how many SYNs leave within d of the first, that one included. RFC 6298, Sections 2 and 5.5.
func synsWithin(d time.Duration) int {
	n := 1
	for next := time.Second; next < d; next = 2*next + time.Second {
		n++
	}
	return n
}

func (r *race) start(h *Handshake) {
	r.running++
	if h != nil {
		r.withENO++
	}
	go func() {
		transport, err := r.Connect(r.ctx, r.local, r.remote, h)
		r.results <- opened{transport, h, err}
	}()
}

func (r *race) take(o opened) opened {
	r.running--
	if o.h != nil {
		r.withENO--
	}
	if o.err != nil && o.h != nil {
		if errors.Is(o.err, syscall.ETIMEDOUT) && o.h.offered() {
			o.h.declined()
		}
		o.h.release()
	}
	return o
}

// resetLosers resets whatever else opens from now on, before any data was sent on it.
func (r *race) resetLosers() {
	for range r.running {
		go func() { discard(<-r.results) }()
	}
}

func discard(o opened) {
	o.h.release()
	if o.err == nil {
		o.t.Abort()
	}
}
