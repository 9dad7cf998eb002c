// Package relay moves octets between two connections, both ways, and keeps their endings apart: a clean end of one
// side becomes a clean end of the other, and anything else an abort.
package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of Config.
const (
	DefaultBufferSize = 128 << 10
	DefaultDrain      = 2 * time.Second
)

// Conn is one side of a relay. A side may offer more, and is used better for it:
//
//   - Abort() error ends the connection with RST (a *net.TCPConn is reset through SO_LINGER instead);
//   - AbortFor(error) error does so too, and may take a moment to tell the other end why;
//   - WaitRead() error waits for something to read and holds no buffer while it does;
//   - io.WriterTo and io.ReaderFrom move the octets in the side's own buffers.
type Conn interface {
	net.Conn
	// CloseWrite ends the direction to the peer, after all that was written (FIN).
	CloseWrite() error
}

// Config holds what all connections of a Relay share.
type Config struct {
	// BufferSize is the size in octets of a pooled buffer. Zero: DefaultBufferSize.
	BufferSize int
	// Drain is how long the other direction may go on once one side takes no more octets: what that side had sent
	// before it went away can still be delivered. Zero: DefaultDrain.
	Drain time.Duration
}

// Relay runs any number of connections over one pool of buffers.
type Relay struct {
	drain time.Duration
	bufs  sync.Pool // of *[]byte
}

// New returns a Relay.
func New(cfg Config) *Relay {
	if cfg.BufferSize <= 0 {
		cfg.BufferSize = DefaultBufferSize
	}
	if cfg.Drain <= 0 {
		cfg.Drain = DefaultDrain
	}
	return &Relay{
		drain: cfg.Drain,
		bufs:  sync.Pool{New: func() any { b := make([]byte, cfg.BufferSize); return &b }},
	}
}

// Observer is told how a connection pair goes on. The counters are added to while it runs, once for each octet that one side
// gave and the other took; nil ones are not kept. HalfClosed, if there is one, is called once: when the first direction has
// ended in order.
type Observer struct {
	AToB, BToA *atomic.Uint64
	HalfClosed func()
}

// Error says which step of a relay failed. Both connections have then been aborted.
type Error struct {
	Op  string // "read" or "write"
	End string // "a" or "b"
	Err error
}

func (e *Error) Error() string { return fmt.Sprintf("relay: %s %s: %v", e.Op, e.End, e.Err) }
func (e *Error) Unwrap() error { return e.Err }

// Run relays between a and b until both directions have ended, and closes both. It returns nil only if each side ended
// with a clean end that was passed on to the other; otherwise both sides were aborted, and the error is an *Error, or
// the cause of ctx. Run uses one goroutine beside the caller's, and none remains when it returns.
func (r *Relay) Run(ctx context.Context, a, b Conn, o Observer) error {
	s := &session{a: a, b: b, drain: r.drain, half: o.HalfClosed}
	cancelled := make(chan struct{})
	unwatch := context.AfterFunc(ctx, func() {
		defer close(cancelled)
		s.fail(context.Cause(ctx))
	})
	ab := direction{src: a, dst: b, from: "a", to: "b", count: o.AToB}
	ba := direction{src: b, dst: a, from: "b", to: "a", count: o.BToA}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.finish(r.pump(&ba))
	}()
	s.finish(r.pump(&ab))
	<-done
	if !unwatch() {
		<-cancelled
	}
	return s.close()
}

// session is the ending of one connection pair, decided once.
type session struct {
	a, b  Conn
	drain time.Duration
	half  func() // may be nil

	mu    sync.Mutex
	ended int
	err   error
	late  *time.Timer // aborts when the drain takes too long

	aborted sync.Once
}

// finish takes the result of one direction.
func (s *session) finish(err error) {
	var e *Error
	switch {
	case err == nil:
	case errors.As(err, &e) && e.Op == "write":
		s.broken(err)
	default:
		s.fail(err)
	}
	s.mu.Lock()
	s.ended++
	first := s.ended == 1 && s.err == nil
	s.mu.Unlock()
	if first && s.half != nil {
		s.half()
	}
}

// broken notes that one side takes no more octets. What it sent before may still be on the way to the other side, so
// the other direction goes on until it ends by itself, for a bounded time.
func (s *session) broken(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = err
	if s.ended == 0 {
		s.late = time.AfterFunc(s.drain, func() { s.abort(err) })
	}
}

// fail ends both sides at once.
func (s *session) fail(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	s.mu.Unlock()
	s.abort(err)
}

// abort ends both sides, once; err is why. As one side ends, so does a direction, which wants to abort as well: that waits
// here, or it would cut short what the other side is telling its peer.
func (s *session) abort(err error) {
	s.aborted.Do(func() {
		var other sync.WaitGroup
		other.Go(func() { AbortFor(s.a, err) })
		AbortFor(s.b, err)
		other.Wait()
	})
}

// close is called when both directions have ended.
func (s *session) close() error {
	s.mu.Lock()
	err, late := s.err, s.late
	s.mu.Unlock()
	if late != nil {
		late.Stop()
	}
	if err != nil {
		s.abort(err)
		return err
	}
	s.a.Close()
	s.b.Close()
	return nil
}

// AbortFor is Abort, and tells the other end why if c can.
func AbortFor(c net.Conn, why error) {
	if c, ok := c.(interface{ AbortFor(error) error }); ok {
		c.AbortFor(why)
	}
	Abort(c)
}

// Abort ends c with RST where it can: by its Abort method, or SO_LINGER of a kernel socket, else by Close alone. It is
// harmless on a closed connection.
func Abort(c net.Conn) {
	switch c := c.(type) {
	case interface{ Abort() error }:
		c.Abort()
	case interface{ SetLinger(int) error }:
		c.SetLinger(0)
	}
	c.Close()
}
