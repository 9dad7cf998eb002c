package tcpinc

import (
	"encoding/binary"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"innertun/tcpinc/tcpcrypt"
)

// holdTime bounds how long reading is held while what has come may be part of a frame. The first frame of a resumed session
// is one segment as this package sends it, so all of it comes at once.
const holdTime = 2 * time.Second

// guarded is the transport of a host B that sent ENO in its SYN-ACK and yet saw a first ACK without it. Either host A
// fell back as well, or its options were stripped from non-SYN segments and it will encrypt: then the stream begins with
// Init1, or with a frame if host B has agreed to resume a session, and neither must reach an application. The first octets
// tell. Writing is not held up, for protocols in which the server speaks first; reading only while the octets so far are a
// prefix of the magic number or may be one of a frame, the latter at most for holdTime.
type guarded struct {
	Transport
	clock Clock

	mu      sync.Mutex       // held while reading, as long as the case is open
	opener  *tcpcrypt.Opener // nil: no frame can come
	echoes  bool             // an echo cookie can come
	first   []byte
	given   int // octets of first that were handed to the application
	decided bool
	err     error // after the octets in first
	holding func() bool

	deadline struct {
		sync.Mutex
		set  time.Time // by the application
		late bool      // holdTime has passed
		over bool      // the case is decided
	}
}

var magic = binary.BigEndian.AppendUint32(nil, tcpcrypt.Init1Magic)

// guard guards t; opener tells frames, if not nil.
func guard(t Transport, opener *tcpcrypt.Opener, clock Clock) *guarded {
	return &guarded{Transport: t, opener: opener, clock: clock}
}

// verdict is what the first octets of a stream tell.
type verdict uint8

const (
	plaintext verdict = iota
	ciphertext
	undecided
	cookie
)

// judge looks at what has come so far. need is how many octets in all it takes to go on, if undecided.
func (g *guarded) judge() (v verdict, need int) {
	if n := min(len(g.first), len(magic)); string(g.first[:n]) == string(magic[:n]) && n > 0 {
		if n == len(magic) {
			return ciphertext, 0
		}
		return undecided, len(magic)
	}
	if len(g.first) == 0 {
		return undecided, len(magic)
	}
	if g.echoes {
		switch v, need := judgeEcho(g.first); {
		case v == undecided && need == echoHeadLen:
			return undecided, need
		case v != plaintext: // the head is enough
			return cookie, 0
		}
	}
	if g.opener == nil {
		return plaintext, 0
	}
	switch n, ok := tcpcrypt.FrameLen(g.first); {
	case !ok:
		return plaintext, 0
	case n == 0:
		return undecided, len(magic)
	case len(g.first) < n:
		return undecided, n
	case g.opener.Opens(g.first[:n]):
		return ciphertext, 0
	}
	return plaintext, 0
}

// decide reads until it is known what the stream is. A passed deadline is returned and leaves all as it is.
func (g *guarded) decide() error {
	for !g.decided {
		v, need := g.judge()
		switch v {
		case ciphertext:
			g.Transport.Abort()
			g.end(nil, ErrInitInPlain)
			return nil
		case cookie: // what could be a good one was waited for before the connection was accepted
			g.Transport.Abort()
			g.end(nil, ErrCookie)
			return nil
		case plaintext:
			g.end(g.first, nil)
			return nil
		}
		if len(g.first) > 0 && (g.opener != nil || g.echoes) && g.holding == nil && g.first[0] != magic[0] {
			g.holding = g.clock.AfterFunc(holdTime, g.hurry)
		}
		have := len(g.first)
		g.first = slices.Grow(g.first, need-have)
		n, err := g.Transport.Read(g.first[have:need])
		g.first = g.first[:have+n]
		switch {
		case n > 0 || err == nil:
		case isTimeout(err) && g.isLate():
			g.end(g.first, nil)
		case isTimeout(err):
			return err
		case err == io.EOF || g.opener == nil:
			g.end(g.first, err)
		default: // reset, or closed here: what may be a part of a frame goes to nobody
			g.end(nil, err)
		}
	}
	return nil
}

// end settles the case: octets are the application's, then comes err.
func (g *guarded) end(octets []byte, err error) {
	g.first, g.err, g.decided = octets, err, true
	if g.opener != nil {
		g.opener.Erase()
		g.opener = nil
	}
	if g.holding != nil {
		g.holding()
	}
	d := &g.deadline
	d.Lock()
	defer d.Unlock()
	d.over = true
	if d.late {
		g.Transport.SetReadDeadline(d.set)
	}
}

// hurry ends a Read under way once holdTime has passed.
func (g *guarded) hurry() {
	d := &g.deadline
	d.Lock()
	defer d.Unlock()
	if !d.over {
		d.late = true
		g.Transport.SetReadDeadline(time.Unix(1, 0))
	}
}

// isLate reports whether it is not the application's deadline that has passed.
func (g *guarded) isLate() bool {
	d := &g.deadline
	d.Lock()
	defer d.Unlock()
	return d.late
}

func (g *guarded) SetDeadline(t time.Time) error {
	if err := g.SetReadDeadline(t); err != nil {
		return err
	}
	return g.Transport.SetWriteDeadline(t)
}

func (g *guarded) SetReadDeadline(t time.Time) error {
	d := &g.deadline
	d.Lock()
	defer d.Unlock()
	d.set = t
	if d.late && !d.over {
		return nil // set once the case is decided
	}
	return g.Transport.SetReadDeadline(t)
}

// Close and Abort erase the keys as well, unless a Read is under way: that one does it when it ends.
func (g *guarded) Close() error {
	defer g.giveUp()
	return g.Transport.Close()
}

func (g *guarded) Abort() error {
	defer g.giveUp()
	return g.Transport.Abort()
}

func (g *guarded) giveUp() {
	if g.mu.TryLock() {
		defer g.mu.Unlock()
		if !g.decided {
			g.end(nil, net.ErrClosed)
		}
	}
}

// pending returns the octets that were read to decide and not handed over yet. When there are none the transport goes
// on, unless err says otherwise.
func (g *guarded) pending() (octets []byte, err error) {
	if err := g.decide(); err != nil {
		return nil, err
	}
	if octets = g.first[g.given:]; len(octets) > 0 {
		return octets, nil
	}
	return nil, g.err
}

func (g *guarded) Read(p []byte) (int, error) {
	g.mu.Lock()
	octets, err := g.pending()
	n := copy(p, octets)
	g.given += n
	g.mu.Unlock()
	if n > 0 || err != nil || len(p) == 0 {
		return n, err
	}
	return g.Transport.Read(p)
}

func (g *guarded) WriteTo(w io.Writer) (int64, error) {
	g.mu.Lock()
	octets, err := g.pending()
	n := 0
	if err == nil && len(octets) > 0 {
		n, err = w.Write(octets)
		g.given += n
		if err == nil {
			err = g.err
		}
	}
	g.mu.Unlock()
	switch {
	case err == io.EOF:
		return int64(n), nil
	case err != nil:
		return int64(n), err
	}
	rest, err := writeTo(g.Transport, w)
	return int64(n) + rest, err
}

func (g *guarded) ReadFrom(r io.Reader) (int64, error) { return readFrom(g.Transport, r) }

func (g *guarded) WaitRead() error {
	g.mu.Lock()
	for !g.decided {
		if len(g.first) == 0 { // later the case is decided soon
			if err := waitRead(g.Transport); err != nil && err != io.EOF {
				g.mu.Unlock()
				return err
			}
		}
		if err := g.decide(); err != nil {
			g.mu.Unlock()
			return err
		}
	}
	ready := g.given < len(g.first) || g.err != nil
	g.mu.Unlock()
	if ready {
		return nil
	}
	return waitRead(g.Transport)
}
