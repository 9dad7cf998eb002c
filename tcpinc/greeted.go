package tcpinc

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"innertun/tcpinc/hello"
	"innertun/tcpinc/tcpcrypt"
)

// farewell bounds how long Close waits for a hello that was never read.
const farewell = 5 * time.Second

// greeted is an encrypted stream that may begin with the peer's hello, which is not the application's. Whoever reads first
// finds out. Writing is not held up.
//
//	            the first frame is no hello                taken by readers
//	undecided -+---------------------------> beginning ------------------+-> over
//	           |                                                         |
//	           +-- a good hello -----------------------------------------+
//	           +-- a bad one ---> failed
//
// A hello has a frame of its own, and a frame is handed on whole: the first octets that can be read are all of it or none.
// A peer that sends "I" and waits is not waited for.
type greeted struct {
	*tcpcrypt.Conn
	now   func() time.Time                       // by which deadlines are set
	judge func(*hello.Hello) (*peerHello, error) // nil: there is none

	mu   sync.Mutex
	buf  []byte                    // what was read to find out and is the application's
	err  error                     // stays, after buf
	said atomic.Pointer[peerHello] // nil: undecided, or failed
	over atomic.Bool               // nothing of buf is left: the stream below goes on
}

// decide reads until the hello is there, or it is known that there is none. A passed deadline leaves all as it is.
func (g *greeted) decide() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.find()
}

// find is decide with the lock held.
func (g *greeted) find() error {
	if g.said.Load() != nil || g.err != nil {
		return g.err
	}
	buf := make([]byte, hello.MaxLen)
	n, err := g.Conn.Read(buf)
	switch {
	case n > 0: // an error, if any, comes again
	case err == io.EOF:
		g.err = err
		return g.settle(nil)
	case isTimeout(err):
		return err
	default:
		g.err = err
		return err
	}
	h, used, err := hello.Parse(buf[:n])
	switch {
	case err == hello.ErrNone, err == hello.ErrIncomplete:
		g.buf = buf[:n]
		return g.settle(nil)
	case err != nil:
		return g.fail(fmt.Errorf("%w: %w", ErrHello, err))
	}
	g.buf = buf[used:n]
	return g.settle(&h)
}

// settle takes what the peer said; nil: it begins with data.
func (g *greeted) settle(h *hello.Hello) error {
	said, err := g.judge(h)
	if err != nil {
		return g.fail(err)
	}
	g.said.Store(said)
	if len(g.buf) == 0 && g.err == nil {
		g.over.Store(true)
	}
	return nil
}

func (g *greeted) fail(err error) error {
	g.Conn.Abort()
	g.buf, g.err = nil, err
	return err
}

// begin hands the octets that were read and are the application's to take, until there are none. It returns whether
// the stream below goes on.
func (g *greeted) begin(take func([]byte) (int, error)) (n int, goOn bool, err error) {
	if g.over.Load() {
		return 0, true, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.said.Load() == nil {
		if err := g.find(); err != nil {
			return 0, false, err
		}
	}
	if len(g.buf) == 0 {
		return 0, g.err == nil, g.err
	}
	n, err = take(g.buf)
	g.buf = g.buf[n:]
	if len(g.buf) == 0 && g.err == nil {
		g.over.Store(true)
	}
	return n, false, err
}

func (g *greeted) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return g.Conn.Read(p)
	}
	n, goOn, err := g.begin(func(b []byte) (int, error) { return copy(p, b), nil })
	if !goOn {
		return n, err
	}
	return g.Conn.Read(p)
}

func (g *greeted) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		n, goOn, err := g.begin(func(b []byte) (int, error) {
			n, err := w.Write(b)
			if err == nil && n < len(b) {
				err = io.ErrShortWrite
			}
			return n, err
		})
		total += int64(n)
		switch {
		case err == io.EOF:
			return total, nil
		case err != nil:
			return total, err
		case goOn:
			rest, err := g.Conn.WriteTo(w)
			return total + rest, err
		}
	}
}

// WaitRead blocks until the application has something to read, as far as that can be told without reading it.
func (g *greeted) WaitRead() error {
	if _, goOn, err := g.begin(func([]byte) (int, error) { return 0, nil }); !goOn {
		return err
	}
	return waitRead(g.Conn)
}

// Close ends the stream in order. A hello that nobody has read would make TCP reset the connection, and what was written
// be lost: it is waited for.
func (g *greeted) Close() error {
	if g.said.Load() == nil && g.mu.TryLock() {
		if g.err == nil && g.Conn.CloseWrite() == nil && g.Conn.SetReadDeadline(g.now().Add(farewell)) == nil {
			g.find()
		}
		g.mu.Unlock()
	}
	return g.Conn.Close()
}

var (
	_ Transport     = (*greeted)(nil)
	_ io.WriterTo   = (*greeted)(nil)
	_ io.ReaderFrom = (*greeted)(nil)
)
