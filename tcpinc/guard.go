package tcpinc

import (
	"encoding/binary"
	"io"
	"sync"

	"innertun/tcpinc/tcpcrypt"
)

// guarded is the transport of a host B that sent ENO in its SYN-ACK and yet saw a first ACK without it. Either host A
// fell back as well, or its options were stripped from non-SYN segments and it will encrypt: then the stream begins with
// Init1, which must not reach an application. The first octets tell. Writing is not held up, for protocols in which the
// server speaks first; reading only while the octets so far are a prefix of the magic number.
type guarded struct {
	Transport
	mu      sync.Mutex // held while reading, as long as the case is open
	first   [4]byte
	have    int // octets in first
	given   int // of those, handed to the application
	decided bool
	err     error // after the octets in first
}

var magic = binary.BigEndian.AppendUint32(nil, tcpcrypt.Init1Magic)

// decide reads until it is known whether the stream is Init1. A passed deadline is returned and leaves all as it is.
func (g *guarded) decide() error {
	for !g.decided {
		n, err := g.Transport.Read(g.first[g.have:])
		g.have += n
		switch prefix := string(g.first[:g.have]) == string(magic[:g.have]); {
		case prefix && g.have == len(magic):
			g.Transport.Abort()
			g.have, g.err, g.decided = 0, ErrInitInPlain, true
		case !prefix:
			g.decided = true
		case err != nil && isTimeout(err):
			return err
		case err != nil:
			g.err, g.decided = err, true
		}
	}
	return nil
}

// pending returns the octets that were read to decide and not handed over yet. When there are none the transport goes
// on, unless err says otherwise.
func (g *guarded) pending() (octets []byte, err error) {
	if err := g.decide(); err != nil {
		return nil, err
	}
	if octets = g.first[g.given:g.have]; len(octets) > 0 {
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
		if err := waitRead(g.Transport); err != nil && err != io.EOF {
			g.mu.Unlock()
			return err
		}
		if err := g.decide(); err != nil {
			g.mu.Unlock()
			return err
		}
	}
	ready := g.given < g.have || g.err != nil
	g.mu.Unlock()
	if ready {
		return nil
	}
	return waitRead(g.Transport)
}
