package tcpinc

import (
	"context"
	"errors"
	"iter"

	"innertun/tcpinc/innerspace"
)

// ErrNoInnerSpace says that a connection carries no options, as it has no Inner Space: see ConnectionState.
var ErrNoInnerSpace = errors.New("tcpinc: the connection has no Inner Space to send options in")

// useInnerSpace makes the stream, of which nothing was sent or read yet, one of units, behind the early data if there was
// some.
func (c *Conn) useInnerSpace(h *Handshake) {
	y := h.earlyData()
	c.early = y
	c.early.data, c.early.opened = nil, nil
	c.inner = innerspace.NewStream(c.stream, innerspace.StreamConfig{Handler: c.handle, SYN: h.synOptions(), Failing: c.failing, Now: h.cfg.Clock.Now})
	c.clock = h.cfg.Clock
	c.stream = c.inner
	c.state.InnerSpace, c.state.EarlyData = true, y.accepted
	switch {
	case !y.offered:
	case y.opened != nil:
		c.stream = &first{Transport: c.inner, octets: y.opened}
	case y.sealed > 0:
		c.inner.SendOption(y.verdict()) // the queue is empty: there is room
	}
	c.tellMTU()
	if c.crypt != nil {
		c.crypt.SetAsk(func(generation uint32) bool { return c.requestRekey(generation) == nil })
	}
}

// SendOption sends one option to the peer, before any data that is written later. It is delivered in order, and is as safe
// on its way as the data. It never blocks. Errors: ErrNoInnerSpace; those of innerspace.Stream.
func (c *Conn) SendOption(o innerspace.Option) error {
	if c.inner == nil {
		return ErrNoInnerSpace
	}
	return c.inner.SendOption(o)
}

// Options takes the options of the peer that have come with what was read so far, in order, each with its place in the
// data. First come those of an upgraded SYN or SYN-ACK, for which encryption does not vouch: Received.SYN. Those that this package deals with itself are not among them. See innerspace.Stream.Options for what is kept of
// those that nobody takes.
func (c *Conn) Options() iter.Seq[innerspace.Received] {
	if c.inner == nil {
		return func(func(innerspace.Received) bool) {}
	}
	return c.inner.Options()
}

// WaitOption blocks until Options has one. Errors: ErrNoInnerSpace; those of innerspace.Stream.
func (c *Conn) WaitOption(ctx context.Context) error {
	if c.inner == nil {
		return ErrNoInnerSpace
	}
	return c.inner.WaitOption(ctx)
}
