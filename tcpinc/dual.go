package tcpinc

import (
	"context"
	"errors"
	"syscall"
	"time"

	"innertun/tcpinc/eno"
)

// To learn at first contact whether a destination speaks Inner Space, two connections are opened and one is kept:
//
//	ordinary SYN   SYN-U        what is kept
//	answered       SYN-ACK-U    the upgraded one
//	answered       SYN-ACK      the ordinary one; the destination is remembered as a legacy one
//	answered       reset        the ordinary one; the path is remembered as one that eats SYN data
//	answered       nothing      likewise, once max(one more RTT, 50 ms) has passed
//	nothing yet    SYN-ACK-U    the upgraded one
//	nothing yet    SYN-ACK      the ordinary one, once it is answered
//	refused        SYN-ACK-U    the upgraded one
//	refused        refused      neither
//	nothing        nothing      after 0.9 s the upgraded one is given up, and only the ordinary SYN is sent again
//
// Neither completes before that is decided, and the other one is reset. A destination known to speak it gets an upgraded
// SYN alone, and an ordinary one only if that has been unanswered for a second.

const (
	minUpgradedGrace = 50 * time.Millisecond
	upgradedTime     = 900 * time.Millisecond
	upgradedAlone    = time.Second
)

// openBest opens the connection in the best way that configuration and memory have for the destination.
func (t *attempt) openBest(ctx context.Context) (opened, error) {
	if t.cfg.InnerSpace == InnerSpaceOff || t.ordinary || t.cfg.B || t.cfg.Vacuous || t.local.Port() != 0 {
		return t.open(ctx)
	}
	known := t.Paths.innerSpace(t.path, t.cfg.Clock.Now())
	if known == PathUpgraded || known == PathUnknown && t.cfg.InnerSpace == InnerSpaceOn {
		return t.openDual(ctx, known == PathUpgraded)
	}
	return t.open(ctx)
}

// dual is an upgraded connection and an ordinary one that are being opened for one attempt.
type dual struct {
	*attempt
	ctx      context.Context
	upgraded tried
	plain    tried // the ordinary one
	started  time.Time
}

// tried is one of the two.
type tried struct {
	gate   *gate
	cancel context.CancelFunc
	result chan opened // nil: not started, or given up
}

func (c *tried) start(ctx context.Context, open func(context.Context) opened) {
	ctx, c.cancel = context.WithCancel(ctx)
	result := make(chan opened, 1)
	c.result = result
	go func() { result <- open(ctx) }()
}

// giveUp resets what has opened, or is about to.
func (c *tried) giveUp() {
	if c.result == nil {
		return
	}
	result := c.result
	c.result = nil
	c.cancel()
	go func() { discard(<-result) }()
}

// take lets the connection complete.
func (c *tried) take() opened {
	c.gate.open()
	o := <-c.result
	c.result = nil
	return o
}

// openDual opens an upgraded connection and, unless the destination is known to take that, an ordinary one beside it.
func (t *attempt) openDual(ctx context.Context, known bool) (opened, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d := &dual{attempt: t, ctx: ctx}
	d.upgraded.gate, d.plain.gate = newGate(), newGate()
	// One of the two may offer to resume a session: the one that is more likely to be kept.
	cfg := t.cfg
	cfg.NoResume = cfg.NoResume || !known
	h, err := cfg.handshake(eno.Config{}, t.remote, true)
	if err != nil {
		return opened{}, err
	}
	h.gate = d.upgraded.gate
	if h.resume.ticket != nil && t.cfg.trusts(h.resume.ticket.Note()) {
		h.early.data = t.early
	}
	d.upgraded.start(ctx, func(ctx context.Context) opened {
		transport, err := t.Connect(ctx, t.local, t.remote, h)
		return opened{transport, h, err}
	})
	if !known {
		d.startPlain(false)
	}
	o, failure := d.decide(known)
	if o.err != nil && h.earlyAccepted() {
		o.err = firstSent(o.err)
	}
	if o.h != h || o.err != nil {
		h.release()
	}
	if failure != PathUnknown && o.err == nil {
		t.Paths.innerFailed(t.path, failure, t.cfg.Clock.Now())
	}
	return o, o.err
}

func (d *dual) startPlain(noResume bool) {
	ordinary := *d.attempt
	ordinary.gate = d.plain.gate
	ordinary.cfg.NoResume = ordinary.cfg.NoResume || noResume
	d.started = d.cfg.Clock.Now()
	d.plain.start(d.ctx, func(ctx context.Context) opened {
		o, err := ordinary.open(ctx)
		o.err = err
		return o
	})
}

// decide returns the connection that is kept, and what there is to remember of the other one.
func (d *dual) decide(known bool) (opened, PathInner) {
	wait := upgradedTime
	if known {
		wait = upgradedAlone
	}
	late, stop := after(d.cfg.Clock, wait)
	defer stop()
	var grace <-chan struct{}
	answered := d.plain.gate.answered
	for {
		select {
		case <-d.upgraded.gate.answered:
			d.plain.giveUp()
			return d.upgraded.take(), PathUnknown
		case o := <-d.upgraded.result:
			d.upgraded.result = nil
			if d.upgraded.gate.isAnswered() { // and reset since: its data may have been acted on
				d.plain.giveUp()
				return o, PathUnknown
			}
			return d.withoutUpgraded(o)
		case o := <-d.plain.result: // failed, or without ENO
			d.plain.result = nil
			if o.err != nil {
				return d.withoutPlain(o, late), PathUnknown
			}
			if d.upgraded.gate.isAnswered() { // at the same moment
				discard(o)
				return d.upgraded.take(), PathUnknown
			}
			d.upgraded.giveUp()
			return o, PathUnknown
		case <-answered:
			answered = nil
			var stop func() bool
			grace, stop = after(d.cfg.Clock, max(d.cfg.Clock.Now().Sub(d.started), minUpgradedGrace))
			defer stop()
		case <-grace:
			if d.upgraded.gate.isAnswered() { // at the same moment
				grace = nil
				continue
			}
			d.upgraded.giveUp()
			return d.plain.take(), PathEatsSYNData
		case <-late:
			late = nil
			if d.upgraded.gate.isAnswered() {
				continue
			}
			if known {
				d.startPlain(true)
			} else if answered != nil { // neither is answered
				d.upgraded.giveUp()
				return d.plain.take(), PathUnknown
			}
		}
	}
}

// withoutPlain waits for the answer to the upgraded SYN when the ordinary one has failed: it may have been refused for the
// option in its header, or there was no port left for it.
func (d *dual) withoutPlain(refused opened, late <-chan struct{}) opened {
	if d.upgraded.gate.isAnswered() {
		return d.upgraded.take()
	}
	if late == nil { // it has had its time
		d.upgraded.giveUp()
		return refused
	}
	select {
	case <-d.upgraded.gate.answered:
		return d.upgraded.take()
	case o := <-d.upgraded.result: // failed: it does not complete before its gate is open
		d.upgraded.result = nil
		if d.upgraded.gate.isAnswered() { // and reset since
			return o
		}
	case <-late:
		if d.upgraded.gate.isAnswered() {
			return d.upgraded.take()
		}
		d.upgraded.giveUp()
	}
	return refused
}

// withoutUpgraded goes on with the ordinary connection when the upgraded one has failed.
func (d *dual) withoutUpgraded(o opened) (opened, PathInner) {
	failure := PathEatsSYNData
	switch {
	case d.ctx.Err() != nil:
		d.plain.giveUp()
		return opened{err: context.Cause(d.ctx)}, PathUnknown
	case errors.Is(o.err, ErrNotUpgraded):
		failure = PathLegacy
	case errors.Is(o.err, syscall.EADDRNOTAVAIL):
		failure = PathUnknown // no port was left, which says nothing of the path
	case !isNetworkError(o.err): // the peer has answered with something that is wrong
		d.plain.giveUp()
		return o, PathUnknown
	}
	if d.plain.result == nil {
		d.startPlain(true)
	}
	return d.plain.take(), failure
}

// isNetworkError tells what the network, or the stack, says of a connection from what a peer got wrong.
func isNetworkError(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno)
}
