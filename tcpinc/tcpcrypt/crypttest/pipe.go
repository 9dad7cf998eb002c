// Package crypttest has a double of the transport below tcpcrypt: a connection in memory, with half-close, reset,
// deadlines and a bounded buffer, that cuts and alters its stream as a test wants.
package crypttest

import (
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// DefaultCapacity is how many octets a direction holds unless Options say otherwise.
const DefaultCapacity = 1 << 20

// Options of a pipe.
type Options struct {
	// Capacity is how many octets each direction holds before Write blocks. 0: DefaultCapacity.
	Capacity int
	// Segment says how many octets, 1 to n, a Read returns when n are there and fit. nil: n. Calls of one direction are
	// serialized, those of the two are not.
	Segment func(n int) int
}

// Pipe returns the two ends of a connection.
func Pipe(o Options) (a, b *End) {
	if o.Capacity == 0 {
		o.Capacity = DefaultCapacity
	}
	ab, ba := newHalf(o), newHalf(o)
	return &End{in: ba, out: ab, name: "a", peer: "b"}, &End{in: ab, out: ba, name: "b", peer: "a"}
}

// End is one end of a Pipe: a net.Conn with CloseWrite, Abort, WaitRead and WaitFull.
type End struct {
	// Tap, if set before use, is called with a copy of what each Write sends and its offset in the stream. It may alter
	// the copy.
	Tap func(offset uint64, p []byte)

	in, out    *half
	name, peer string
	offset     uint64 // octets written; under out.mu
}

// half is one direction.
type half struct {
	mu       sync.Mutex
	changed  *sync.Cond
	ring     []byte
	start, n int // ring[start:start+n], wrapping round
	segment  func(int) int
	fin      bool
	readErr  error // stays
	writeErr error // stays

	readBy, writeBy deadline
}

type deadline struct {
	at    time.Time
	timer *time.Timer
}

func newHalf(o Options) *half {
	h := &half{ring: make([]byte, o.Capacity), segment: o.Segment}
	h.changed = sync.NewCond(&h.mu)
	return h
}

// set moves a deadline of the half.
func (h *half) set(d *deadline, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = t
	if !t.IsZero() {
		d.timer = time.AfterFunc(time.Until(t), func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.changed.Broadcast()
		})
	}
	h.changed.Broadcast()
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// readable waits, with mu held, until a Read would not block, and returns what it fails with.
func (h *half) readable() error {
	for {
		switch {
		case h.readErr != nil:
			return h.readErr
		case h.readBy.passed():
			return os.ErrDeadlineExceeded
		case h.n > 0:
			return nil
		case h.fin:
			return io.EOF
		}
		h.changed.Wait()
	}
}

// end sets the lasting errors of both sides, unless there are some, and with drop forgets what is under way.
func (h *half) end(read, write error, fin, drop bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.readErr == nil {
		h.readErr = read
	}
	if h.writeErr == nil {
		h.writeErr = write
	}
	h.fin = h.fin || fin
	if drop {
		h.n = 0
	}
	h.changed.Broadcast()
}

func (e *End) Read(p []byte) (int, error) {
	h := e.in
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	if err := h.readable(); err != nil {
		return 0, e.wrap("read", err)
	}
	n := min(len(p), h.n)
	if h.segment != nil {
		n = min(n, max(1, h.segment(n)))
	}
	k := copy(p[:n], h.ring[h.start:])
	copy(p[k:n], h.ring)
	h.start = (h.start + n) % len(h.ring)
	h.n -= n
	h.changed.Broadcast()
	return n, nil
}

// WaitRead blocks until a Read would not.
func (e *End) WaitRead() error {
	h := e.in
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.readable(); err != io.EOF {
		return e.wrap("read", err)
	}
	return nil
}

func (e *End) Write(p []byte) (int, error) {
	h := e.out
	h.mu.Lock()
	defer h.mu.Unlock()
	if e.Tap != nil {
		p = slices.Clone(p)
		e.Tap(e.offset, p)
	}
	total := 0
	for {
		switch {
		case h.writeErr != nil:
			return total, e.wrap("write", h.writeErr)
		case h.writeBy.passed():
			return total, e.wrap("write", os.ErrDeadlineExceeded)
		}
		for len(p) > 0 && h.n < len(h.ring) {
			at := (h.start + h.n) % len(h.ring)
			k := copy(h.ring[at:min(len(h.ring), at+len(h.ring)-h.n)], p)
			p, h.n, total, e.offset = p[k:], h.n+k, total+k, e.offset+uint64(k)
		}
		h.changed.Broadcast()
		if len(p) == 0 {
			return total, nil
		}
		h.changed.Wait()
	}
}

// WaitFull blocks until what was written leaves no room, so that a Write waits if it has more, or Writes fail.
func (e *End) WaitFull() error {
	h := e.out
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.n < len(h.ring) {
		if h.writeErr != nil {
			return e.wrap("write", h.writeErr)
		}
		h.changed.Wait()
	}
	return nil
}

// CloseWrite is FIN: the peer reads io.EOF after what was written.
func (e *End) CloseWrite() error {
	e.out.end(nil, syscall.EPIPE, true, false)
	return nil
}

// Close ends both directions; what was written still arrives.
func (e *End) Close() error {
	e.out.end(nil, net.ErrClosed, true, false)
	e.in.end(net.ErrClosed, syscall.EPIPE, false, true)
	return nil
}

// Abort is RST: what is under way is lost, and the peer's calls fail with ECONNRESET.
func (e *End) Abort() error {
	e.out.end(syscall.ECONNRESET, net.ErrClosed, false, true)
	e.in.end(net.ErrClosed, syscall.ECONNRESET, false, true)
	return nil
}

func (e *End) LocalAddr() net.Addr  { return addr(e.name) }
func (e *End) RemoteAddr() net.Addr { return addr(e.peer) }

func (e *End) SetDeadline(t time.Time) error {
	e.in.set(&e.in.readBy, t)
	e.out.set(&e.out.writeBy, t)
	return nil
}

func (e *End) SetReadDeadline(t time.Time) error {
	e.in.set(&e.in.readBy, t)
	return nil
}

func (e *End) SetWriteDeadline(t time.Time) error {
	e.out.set(&e.out.writeBy, t)
	return nil
}

func (e *End) wrap(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "pipe", Source: e.LocalAddr(), Addr: e.RemoteAddr(), Err: err}
}

type addr string

func (addr) Network() string  { return "pipe" }
func (a addr) String() string { return string(a) }
