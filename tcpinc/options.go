package tcpinc

import (
	"context"
	"errors"
	"iter"

	"innertun/tcpinc/innerspace"
)

// ErrNoInnerSpace says that a connection carries no options, as it has no Inner Space: see ConnectionState.
var ErrNoInnerSpace = errors.New("tcpinc: the connection has no Inner Space to send options in")

// useInnerSpace makes the stream, of which nothing was sent or read yet, one of units.
func (c *Conn) useInnerSpace() {
	c.inner = innerspace.NewStream(c.stream, innerspace.StreamConfig{})
	c.stream = c.inner
	c.state.InnerSpace = true
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
// data. Those that this package deals with itself are not among them. See innerspace.Stream.Options for what is kept of
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
