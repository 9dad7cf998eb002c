package innerspace

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// Lower is the byte stream below: one TCP connection after its SYN data, or an encrypted stream over one.
//
// It may have a method WaitRead() error as well, which blocks until a Read would not, under the read deadline: a Stream then
// holds no buffer while it is idle.
type Lower interface {
	net.Conn
	CloseWrite() error
	Abort() error // resets the connection and unblocks every call
}

// framed is a Lower that sends in frames of its own and lets data be read straight into and out of them, as tcpcrypt.Conn does.
// A Write of at most FrameData octets leaves whole or not at all, and so does each read of ReadFrom, also beside each other.
// Its Read does not cost a system call.
type framed interface {
	io.ReaderFrom
	io.WriterTo
	FrameData() int
	WriteBehind(head, p []byte) (int, error) // a Write of both
}

type waiter interface{ WaitRead() error }

// StreamConfig says how a Stream treats options. Its zero value will do.
type StreamConfig struct {
	// Handler, if not nil, is shown each option of the peer first, in the order of the stream, before the payload that
	// follows it is delivered; it reports whether it has dealt with it. The option is its own only during the call, which
	// must not block or read. SendOption is allowed.
	Handler func(Received) bool

	// SYN is a list of options that came in the peer's SYN or SYN-ACK. Options has them first; Handler does not see them.
	SYN []byte

	// Failing, if not nil, is called once, before the connection is aborted because of what the peer has sent or because of Fail, with
	// the reason: it may tell the peer by Leave. Whoever reads waits for it.
	Failing func(error)

	// SendLimit is how many octets of options may wait to be sent. 0: DefaultQueue.
	SendLimit int
	// ReceiveLimit is how many octets of options, with receivedCost for each, may wait to be taken by Options. 0: DefaultQueue.
	ReceiveLimit int

	// Now is the time of which deadlines are, here and at the stream below; nil: time.Now.
	Now func() time.Time
}

// Stream carries data and options over a Lower in units: a net.Conn with half-close. Reading and writing may go on at the same
// time. Reads return io.EOF only if the stream below ended in order, and between two units.
//
// A unit that cannot be read aborts the connection: ErrUnit, ErrOptions, ErrTruncated. Deadlines are those of the stream
// below, and end nothing.
type Stream struct {
	lower  Lower
	wait   waiter // lower, if it can wait without a buffer
	framed framed // lower, if it has frames
	cfg    StreamConfig
	in     inHalf
	out    outHalf
	taken  received
	cause  atomic.Pointer[error] // why the connection was aborted
}

var (
	_ Lower         = (*Stream)(nil)
	_ io.ReaderFrom = (*Stream)(nil)
	_ io.WriterTo   = (*Stream)(nil)
)

// minFrameData is how many octets the frames below must take at least, to be used as such: header and any option go in one.
const minFrameData = 1 << 10

// NewStream returns a Stream over lower, of which each direction stands before the first unit.
func NewStream(lower Lower, cfg StreamConfig) *Stream {
	s := &Stream{lower: lower, cfg: cfg}
	if s.cfg.Now == nil {
		s.cfg.Now = time.Now
	}
	s.wait, _ = lower.(waiter)
	if f, ok := lower.(framed); ok && f.FrameData() >= minFrameData {
		s.framed = f
	}
	s.out.encoder.Limit = cfg.SendLimit
	s.out.maxUnit = maxUnit
	if s.framed != nil {
		s.out.maxUnit = min(s.framed.FrameData(), unitBuffer)
	}
	s.taken.init(cfg.ReceiveLimit, s.cfg.Now)
	s.takeSYN()
	return s
}

// Stats is what a Stream has counted.
type Stats struct {
	OptionsSent, OptionsReceived uint64
	Unknown                      uint64 // of those received, not in the registry
	Missed                       uint64 // of those received, dropped as nobody took them
	UnitsSent, UnitsReceived     uint64 // those without payload too
}

// Stats never blocks on a Read or Write under way.
func (s *Stream) Stats() Stats {
	return Stats{
		OptionsSent: s.out.options.Load(), OptionsReceived: s.in.options.Load(), Unknown: s.in.unknown.Load(),
		Missed: s.taken.missedInAll(), UnitsSent: s.out.units.Load(), UnitsReceived: s.in.units.Load(),
	}
}

// fail aborts the connection because of err.
func (s *Stream) fail(err error) error {
	if s.cause.CompareAndSwap(nil, &err) {
		if s.cfg.Failing != nil {
			s.cfg.Failing(err)
		}
		s.out.closed.Store(true)
		s.lower.Abort()
		s.taken.end(err)
	}
	return *s.cause.Load()
}

// Fail aborts the connection; err is what later calls return. Called by the Handler, nothing behind the option is delivered.
func (s *Stream) Fail(err error) { s.fail(err) }

// because returns why the connection was aborted, rather than what the stream below says of it.
func (s *Stream) because(err error) error {
	if cause := s.cause.Load(); cause != nil {
		return *cause
	}
	return err
}

// Abort resets the connection.
func (s *Stream) Abort() error {
	s.ended()
	s.out.closed.Store(true)
	return s.lower.Abort()
}

// ended wakes whoever waits for options, or for room for them.
func (s *Stream) ended() {
	s.taken.end(net.ErrClosed)
	s.taken.deadline.set(time.Time{})
}

// closeTimeout bounds how long Close waits for room to send what waits.
const closeTimeout = 5 * time.Second

// Close sends the options that wait, within 5 s, and closes the stream below. If a part of a unit cannot be sent any more it
// aborts it, and returns an error. A Write under way is the business of the stream below.
func (s *Stream) Close() error {
	s.ended()
	if !s.lockForClose() {
		return s.lower.Close()
	}
	err := s.finish()
	cut := len(s.out.unsent) > 0
	s.out.closed.Store(true)
	s.out.drop()
	s.out.mu.Unlock()
	if cut {
		s.lower.Abort()
		return err
	}
	return s.lower.Close()
}

// lockForClose locks the sending direction unless a Write holds it. Options on their way are waited for.
func (s *Stream) lockForClose() bool {
	out := &s.out
	if out.mu.TryLock() {
		return true
	}
	out.queueMu.Lock()
	pushing := out.pushing
	out.queueMu.Unlock()
	if pushing {
		s.lower.SetWriteDeadline(s.cfg.Now().Add(closeTimeout))
		out.mu.Lock()
	}
	return pushing
}

// finish sends what waits.
func (s *Stream) finish() error {
	out := &s.out
	if out.err != nil || out.closed.Load() || len(out.unsent) == 0 && out.waiting() == 0 {
		return nil
	}
	s.lower.SetWriteDeadline(s.cfg.Now().Add(closeTimeout))
	if err := s.flush(); err != nil {
		return err
	}
	return s.sendOptions()
}

func (s *Stream) LocalAddr() net.Addr  { return s.lower.LocalAddr() }
func (s *Stream) RemoteAddr() net.Addr { return s.lower.RemoteAddr() }

func (s *Stream) SetDeadline(t time.Time) error {
	s.taken.deadline.set(t)
	return s.lower.SetDeadline(t)
}

func (s *Stream) SetReadDeadline(t time.Time) error {
	s.taken.deadline.set(t)
	return s.lower.SetReadDeadline(t)
}

func (s *Stream) SetWriteDeadline(t time.Time) error { return s.lower.SetWriteDeadline(t) }

// passing reports whether an error of the stream below leaves the connection usable.
func passing(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
