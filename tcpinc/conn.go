package tcpinc

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt"
)

// Conn is one connection, encrypted or plain: a net.Conn with half-close. Reads return io.EOF when the peer has ended
// its stream in order, and then only.
type Conn struct {
	stream Transport          // what the application sees: crypt, or the transport itself
	lower  Transport          // what it runs over
	crypt  *tcpcrypt.Conn     // nil: plain
	inner  *innerspace.Stream // nil: no Inner Space
	clock  Clock              // nil: no Inner Space
	early  early
	resets *resetGuard // nil: RSTs are TCP's affair
	hello  *greeted    // nil: the stream has no hello
	proof  *proof      // nil: there is no Inner Space, or no encryption

	peerMTU atomic.Uint32 // what the peer has told, in octets; 0: nothing

	ended func(aborted bool) // told once of the end, if not nil
	over  sync.Once

	note  *sessionNote // of an encrypted connection
	state ConnectionState
}

var (
	_ Transport     = (*Conn)(nil)
	_ io.WriterTo   = (*Conn)(nil)
	_ io.ReaderFrom = (*Conn)(nil)
)

// Plain wraps a connection that was opened without any of this package, and says why.
func Plain(t Transport, why eno.Reason) *Conn {
	return &Conn{stream: t, lower: t, state: ConnectionState{FallbackReason: why}}
}

// ConnectionState describes the connection. It never blocks.
func (c *Conn) ConnectionState() ConnectionState {
	s := c.state
	if c.crypt != nil {
		now := c.crypt.State()
		s.Cipher, s.SessionID, s.Resumed = now.Cipher, now.SessionID, now.Resumed
		s.SessionRole = now.SessionRole
		s.Sent, s.Received = now.Sent, now.Received
		if c.resets != nil {
			s.ResetsRefused = c.resets.refused.Load()
		}
	}
	var said *peerHello
	switch {
	case c.proof != nil:
		said = c.proof.said.Load()
	case c.hello != nil:
		said = c.hello.said.Load()
	}
	if said != nil {
		s.PeerIdentity, s.PeerCapabilities = said.identity, said.capabilities
	}
	if c.inner != nil {
		s.Options, s.PeerMTU = c.inner.Stats(), int(c.peerMTU.Load())
	}
	return s
}

// SessionID returns what identifies the encrypted connection at both ends, for authentication by the application.
// Error: ErrNoSession. RFC 8547, Section 5.1.
func (c *Conn) SessionID() ([]byte, error) {
	if c.crypt == nil {
		return nil, ErrNoSession
	}
	return c.crypt.SessionID()
}

// FlushSession drops from the session cache what was used for this connection or has resulted from it. RFC 8548,
// Section 3.5.
func (c *Conn) FlushSession() {
	if c.crypt != nil {
		c.crypt.FlushSession()
	}
}

// SetSessionNote keeps a value with the cached session for the connections that are resumed from it later: what was proven
// of the peer, for instance. SessionNote is what a resumed connection has found, nil for others. Config.Resumable is asked
// with it.
func (c *Conn) SetSessionNote(note any) {
	if c.crypt != nil {
		c.note.setUser(note)
	}
}

// SessionNote is what SetSessionNote has left on an earlier connection of the session.
func (c *Conn) SessionNote() any {
	if c.crypt == nil {
		return nil
	}
	n, _ := c.crypt.SessionNote().(*sessionNote)
	_, user := n.read()
	return user
}

func (c *Conn) Read(p []byte) (int, error)         { return c.stream.Read(p) }
func (c *Conn) Write(p []byte) (int, error)        { return c.stream.Write(p) }
func (c *Conn) LocalAddr() net.Addr                { return c.stream.LocalAddr() }
func (c *Conn) RemoteAddr() net.Addr               { return c.stream.RemoteAddr() }
func (c *Conn) SetDeadline(t time.Time) error      { return c.stream.SetDeadline(t) }
func (c *Conn) SetReadDeadline(t time.Time) error  { return c.stream.SetReadDeadline(t) }
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.stream.SetWriteDeadline(t) }

// Close ends the stream in order: what was written is delivered.
func (c *Conn) Close() error {
	c.proof.await()
	c.end(false)
	return c.stream.Close()
}

func (c *Conn) end(aborted bool) {
	if c.ended != nil {
		c.over.Do(func() { c.ended(aborted) })
	}
}

// CloseWrite ends the stream to the peer; the other way stays open.
func (c *Conn) CloseWrite() error { return c.stream.CloseWrite() }

// Abort resets the connection.
func (c *Conn) Abort() error {
	c.end(true)
	return c.stream.Abort()
}

// WriteTo writes what is received to w until the end, by the shortest way that the stream below knows.
func (c *Conn) WriteTo(w io.Writer) (int64, error) { return writeTo(c.stream, w) }

// ReadFrom sends what r has until its end, by the shortest way that the stream below knows.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	return readFrom(c.stream, r)
}

// NetConn returns the connection that this one runs over, in the manner of crypto/tls: for its statistics and options.
// To read or write there breaks the stream.
func (c *Conn) NetConn() net.Conn { return c.lower }

// WaitRead blocks until something can be read, so that a caller holds no buffer meanwhile. Where the stream below cannot
// tell it returns at once, and Read does the waiting.
func (c *Conn) WaitRead() error { return waitRead(c.stream) }

func writeTo(t Transport, w io.Writer) (int64, error) {
	if s, ok := t.(io.WriterTo); ok {
		return s.WriteTo(w)
	}
	return io.Copy(w, onlyReader{t})
}

// readFrom is ReadFrom for a transport that may have none of its own. Like tcpcrypt's it holds no buffer while r, asked by
// WaitRead, has nothing to give.
func readFrom(t Transport, r io.Reader) (int64, error) {
	if s, ok := t.(io.ReaderFrom); ok {
		return s.ReadFrom(r)
	}
	wait, _ := r.(interface{ WaitRead() error })
	var total int64
	for {
		if wait != nil {
			if err := wait.WaitRead(); err != nil && err != io.EOF {
				return total, err
			}
		}
		n, err := copyOnce(t, r)
		total += n
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// copyBuffers is a cache of what the allocator would give, and holds no state.
var copyBuffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

func copyOnce(t Transport, r io.Reader) (int64, error) {
	buf := copyBuffers.Get().(*[256 << 10]byte)
	defer copyBuffers.Put(buf)
	n, err := r.Read(buf[:])
	if n == 0 {
		return 0, err
	}
	sent, werr := t.Write(buf[:n])
	if werr != nil {
		err = werr
	}
	return int64(sent), err
}

func waitRead(t Transport) error {
	if s, ok := t.(interface{ WaitRead() error }); ok {
		return s.WaitRead()
	}
	return nil
}

// onlyReader hides all other methods from io.Copy.
type onlyReader struct{ io.Reader }
