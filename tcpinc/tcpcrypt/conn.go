package tcpcrypt

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// closeTimeout bounds how long Close waits for room to send the last frame.
const closeTimeout = 5 * time.Second

// Conn is the encrypted stream of one connection: a net.Conn with half-close. Handshake comes first. Reading and
// writing may go on at the same time; each direction has a lock and one error that stays.
//
// An error of the protocol aborts the transport. Reads return io.EOF when, and only when, the peer's last frame was
// marked as such (FINp).
//
// A passed write deadline does not end the connection: what was sealed is kept, counted as written, and leaves before
// anything else once the deadline is moved. A passed read deadline loses nothing either.
//
// Rekeys of the peer are noticed by reading, and answered at once, whether or not anything is written. New keys come into
// use by themselves, see KeyLimits, and a peer that is silent for too long is found out, see Liveness.
type Conn struct {
	lower Transport
	wait  waiter // lower, if it can wait without a buffer
	cfg   Config

	handshake struct {
		sync.Mutex
		started atomic.Bool
		err     error
	}
	// Set by the handshake before ready.
	cipher    Cipher
	sessionID [sessionIDLen]byte
	chain     *chain // what the session came from or has left; nil: nothing in a cache
	ready     atomic.Bool

	in  inHalf
	out outHalf

	ended  atomic.Pointer[ending]
	closed atomic.Bool

	watch watch
	probe probing

	resets resetKeys
	born   struct { // the sending key in use
		at   atomic.Int64  // when it came into use, UnixNano
		data atomic.Uint64 // octets of data that had gone either way by then
	}

	asker atomic.Pointer[func(generation uint32) bool] // nil: the peer cannot be asked for keys

	keyLog struct {
		sync.Mutex
		next uint64 // generation to be logged next
	}
}

// ending says why a connection is over.
type ending struct {
	err   error
	phase Phase
	local bool // the application's own doing: what is still unread is dropped
}

// counters is what State tells of one direction; it is read without the direction's lock.
type counters struct {
	generation                   atomic.Uint32
	octets, frames, octetsOfData atomic.Uint64
}

func (n *counters) load() Count {
	return Count{n.generation.Load(), n.octets.Load(), n.frames.Load(), n.octetsOfData.Load()}
}

// New prepares a connection over lower and sends nothing. Errors: ErrConfig.
func New(lower Transport, cfg Config) (*Conn, error) {
	cfg, err := cfg.filled()
	if err != nil {
		return nil, err
	}
	cfg.Transcript = slices.Clone(cfg.Transcript)
	cfg.Ciphers = slices.Clone(cfg.Ciphers)
	cfg.SessionNonce = slices.Clone(cfg.SessionNonce)
	c := &Conn{lower: lower, cfg: cfg}
	c.wait, _ = lower.(waiter)
	c.out.counters.octets.Store(cfg.SentBefore)
	c.in.counters.octets.Store(cfg.ReceivedBefore)
	return c, nil
}

// SessionID returns the session ID, 33 octets: equal at both ends, and unique to the connection. Error: ErrNoSession.
// RFC 8548, Section 3.4.
func (c *Conn) SessionID() ([]byte, error) {
	if !c.ready.Load() {
		return nil, ErrNoSession
	}
	return slices.Clone(c.sessionID[:]), nil
}

// State describes the connection. It never blocks on a Read or Write under way.
func (c *Conn) State() State {
	s := State{Phase: c.phase(), Role: c.cfg.Role, TEP: c.cfg.TEP, Sent: c.out.counters.load(), Received: c.in.counters.load()}
	if c.ready.Load() {
		s.Cipher, s.SessionID = c.cipher, slices.Clone(c.sessionID[:])
		s.Resumed, s.SessionRole = c.cfg.Ticket != nil, c.originalRole()
	}
	if e := c.ended.Load(); e != nil && e.phase == PhaseFailed {
		s.Err = e.err
	}
	return s
}

func (c *Conn) phase() Phase {
	if e := c.ended.Load(); e != nil {
		return e.phase
	}
	sent, received := c.out.finished.Load(), c.in.finished.Load()
	switch {
	case !c.handshake.started.Load():
		return PhaseNew
	case !c.ready.Load():
		return PhaseHandshake
	case sent && received:
		return PhaseDone
	case sent:
		return PhaseWriteClosed
	case received:
		return PhaseReadClosed
	}
	return PhaseOpen
}

// end records why the connection is over, unless that is known already, and forgets the keys of each direction as soon
// as no call is using them. It reports whether it was the first.
func (c *Conn) end(e ending) bool {
	first := c.ended.CompareAndSwap(nil, &e)
	if first && e.phase == PhaseFailed && !e.local {
		c.doubtSession(e.err)
	}
	c.watch.end()
	c.probe.cancel()
	c.eraseIn()
	c.eraseOut()
	return first
}

// fail aborts the connection because of err and returns what ended it.
func (c *Conn) fail(err error) error {
	if c.end(ending{err: err, phase: PhaseFailed}) {
		c.abortLower()
	}
	return c.ended.Load().err
}

// Abort resets the connection: nothing more is sent or delivered.
func (c *Conn) Abort() error {
	c.closed.Store(true)
	if !c.end(ending{err: net.ErrClosed, phase: PhaseFailed, local: true}) {
		return nil
	}
	return c.abortLower()
}

// abortLower aborts the transport. The RST may be signed: the key for that goes last.
func (c *Conn) abortLower() error {
	defer c.resets.erase()
	return c.lower.Abort()
}

// Close ends the stream to the peer, if CloseWrite has not, and closes the transport. It waits at most 5 s for room to
// send the last frame. A connection that cannot be ended in order, because its handshake is not complete or a Write is
// under way or has failed, is aborted.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	defer c.resets.erase()
	if c.ended.Load() != nil {
		c.lower.Close() // aborted before: nothing to report
		return nil
	}
	err := c.finish()
	if !c.end(ending{err: net.ErrClosed, phase: PhaseClosed, local: true}) {
		return nil
	}
	switch {
	case err == nil:
		return c.lower.Close()
	case err == ErrNoSession:
		return c.lower.Abort()
	}
	c.lower.Abort()
	return fmt.Errorf("tcpcrypt: closed by reset: %w", err)
}

// finish sends the last frame for Close.
func (c *Conn) finish() error {
	if !c.ready.Load() {
		return ErrNoSession
	}
	if c.out.busy.Load() > 0 {
		return errors.New("a write was under way")
	}
	if c.out.finished.Load() {
		return nil
	}
	c.lower.SetWriteDeadline(c.cfg.Clock.Now().Add(closeTimeout))
	return c.CloseWrite()
}

func (c *Conn) LocalAddr() net.Addr  { return c.lower.LocalAddr() }
func (c *Conn) RemoteAddr() net.Addr { return c.lower.RemoteAddr() }

func (c *Conn) SetDeadline(t time.Time) error {
	defer c.flushLater()
	return c.lower.SetDeadline(t)
}

func (c *Conn) SetReadDeadline(t time.Time) error { return c.lower.SetReadDeadline(t) }

func (c *Conn) SetWriteDeadline(t time.Time) error {
	defer c.flushLater()
	return c.lower.SetWriteDeadline(t)
}

// passing reports whether an error of the transport leaves the connection usable. A deadline does; ETIMEDOUT, which
// calls itself a timeout too, does not.
func passing(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
