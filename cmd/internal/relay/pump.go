package relay

import (
	"io"
	"net"
	"sync/atomic"
)

// direction is one way of a connection pair.
type direction struct {
	src, dst Conn
	from, to string
	count    *atomic.Uint64
}

// pump moves octets from src to dst until src ends, then ends dst's incoming side. Its errors are *Error.
//
// The ways, best first: the destination reads into its own frames, where the octets are then sealed; the source writes
// what it has received itself; a loop over pooled buffers. Kernel sockets never choose for themselves: their WriteTo and
// ReadFrom end in io.Copy's 32 KiB buffer, held while idle.
func (r *Relay) pump(d *direction) error {
	err := r.move(d)
	if err != nil {
		return err
	}
	if err := d.dst.CloseWrite(); err != nil {
		return &Error{Op: "write", End: d.to, Err: err}
	}
	return nil
}

func (r *Relay) move(d *direction) error {
	wait := waiter(d.src)
	if dst, ok := d.dst.(io.ReaderFrom); ok && !isKernel(d.dst) {
		rd := &reader{d: d, wait: wait}
		_, err := dst.ReadFrom(rd)
		switch {
		case rd.err != nil:
			return rd.err
		case err != nil:
			return &Error{Op: "write", End: d.to, Err: err}
		case !rd.eof:
			// It stopped before the end: octets would be lost silently.
			return &Error{Op: "write", End: d.to, Err: io.ErrShortWrite}
		}
		return nil
	}
	if src, ok := d.src.(io.WriterTo); ok && !isKernel(d.src) {
		w := &writer{d: d}
		_, err := src.WriteTo(w)
		if w.err != nil {
			return w.err
		}
		return d.readError(err)
	}
	if raw := rawReader(d.src); raw != nil {
		return r.loop(d, func() (*[]byte, int, error) { return raw.read(&r.bufs) })
	}
	return r.loop(d, func() (*[]byte, int, error) {
		if err := wait(); err != nil && err != io.EOF {
			return nil, 0, err
		}
		buf := r.bufs.Get().(*[]byte)
		n, err := d.src.Read(*buf)
		return buf, n, err
	})
}

// loop relays what next returns: a pooled buffer (or nil), the octets in it, and the end.
func (r *Relay) loop(d *direction, next func() (*[]byte, int, error)) error {
	w := &writer{d: d}
	for {
		buf, n, err := next()
		if buf != nil {
			if n > 0 {
				w.Write((*buf)[:n])
			}
			r.bufs.Put(buf)
		}
		if w.err != nil {
			return w.err
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return d.readError(err)
		}
	}
}

func (d *direction) readError(err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: "read", End: d.from, Err: err}
}

func (d *direction) counted(n int) {
	if d.count != nil && n > 0 {
		d.count.Add(uint64(n))
	}
}

// writer hands octets to the destination and remembers why it failed, so that a failed write is never taken for a
// failed read.
type writer struct {
	d   *direction
	err error
}

func (w *writer) Write(p []byte) (int, error) {
	n, err := w.d.dst.Write(p)
	w.d.counted(n)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		w.err = &Error{Op: "write", End: w.d.to, Err: err}
	}
	return n, err
}

// reader hands the source's octets to a destination that reads by itself. It always offers WaitRead, so that the
// destination need not hold a buffer while the source is idle.
type reader struct {
	d    *direction
	wait func() error
	eof  bool
	err  error
}

// Read counts an octet once it was handed over; only a failure of the destination itself can lose it then, and that
// is an error of the relay.
func (rd *reader) Read(p []byte) (int, error) {
	n, err := rd.d.src.Read(p)
	rd.d.counted(n)
	rd.note(err)
	return n, err
}

// WaitRead waits until Read has octets, an end or an error to give.
func (rd *reader) WaitRead() error {
	err := rd.wait()
	rd.note(err) // io.EOF too: the destination may take its word for it and not read again
	return err
}

func (rd *reader) note(err error) {
	switch {
	case err == nil:
	case err == io.EOF:
		rd.eof = true
	default:
		rd.err = rd.d.readError(err)
	}
}

// waiter returns how to wait for something to read from c without a buffer.
func waiter(c Conn) func() error {
	if w, ok := c.(interface{ WaitRead() error }); ok {
		return w.WaitRead
	}
	if raw := rawReader(c); raw != nil {
		return raw.wait
	}
	return func() error { return nil }
}

func isKernel(c Conn) bool {
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}
