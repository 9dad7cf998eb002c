package tcpcrypt

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"testing"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt/crypttest"
)

// pairs are two hosts with caches.
type pairs struct{ atA, atB *SessionCache }

// fresh lets two Conns leave a session in the caches.
func (p pairs) fresh(t *testing.T) {
	t.Helper()
	a, b, _, _ := connect(t, crypttest.Options{}, func(ca, cb *Config) {
		ca.Sessions, ca.Peer, cb.Sessions, cb.Peer = p.atA, hostB, p.atB, anyPort(hostA)
	})
	a.Abort()
	b.Abort()
}

// resumed returns two connected Conns that have resumed.
func (p pairs) resumed(t *testing.T, o crypttest.Options, edit ...func(a, b *Config)) (a, b *Conn, la, lb *crypttest.End) {
	t.Helper()
	ta := p.atA.Take(hostB, nil)
	tb := p.atB.Claim(ta.TEP(), ta.Suboption([]byte("a")), nil)
	return connect(t, o, append(edit, func(ca, cb *Config) {
		ca.Ticket, cb.Ticket = ta, tb
		ca.SessionNonce, cb.SessionNonce = []byte("ab"), []byte("ab")
		ca.TEPByte, cb.TEPByte = 0xa3, 0xa3
		ca.Peer, cb.Peer = hostB, anyPort(hostA)
	})...)
}

func newPairs(t *testing.T) pairs {
	p := pairs{new(SessionCache), new(SessionCache)}
	t.Cleanup(func() { p.atA.Close(); p.atB.Close() })
	return p
}

func TestResumedConn(t *testing.T) {
	p := newPairs(t)
	p.fresh(t)
	ids := map[string]bool{}
	for range 3 {
		a, b, _, _ := p.resumed(t, crypttest.Options{})
		if s := a.State(); s.Sent.Octets != 0 || s.Received.Octets != 0 || !s.Resumed {
			t.Errorf("state %+v", s)
		}
		data := randomBytes(300_000, 1)
		go func() { a.Write(data); a.Rekey(); a.Write(data); a.CloseWrite() }()
		got, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(got, append(data, data...)) {
			t.Fatalf("%d octets, %v", len(got), err)
		}
		if s := b.State(); s.Received.Generation != 1 {
			t.Errorf("generation %d", s.Received.Generation)
		}
		id, _ := a.SessionID()
		peer, _ := b.SessionID()
		if !bytes.Equal(id, peer) || id[0] != 0xa3 || ids[string(id)] {
			t.Errorf("session IDs %x and %x", id, peer)
		}
		ids[string(id)] = true
		a.Abort()
		b.Abort()
	}
	if n := len(p.atA.Sessions()); n != 1 {
		t.Errorf("%d sessions from one key exchange", n)
	}
}

// The first frame of a resumed session is one segment at most; later ones are not held small.
func TestFirstFrameIsShort(t *testing.T) {
	for name, send := range map[string]func(c *Conn, data []byte){
		"Write":    func(c *Conn, data []byte) { c.Write(data) },
		"ReadFrom": func(c *Conn, data []byte) { c.ReadFrom(bytes.NewReader(data)) },
	} {
		p := newPairs(t)
		p.fresh(t)
		a, b, la, _ := p.resumed(t, crypttest.Options{})
		var wire []byte
		la.Tap = func(_ uint64, b []byte) { wire = append(wire, b...) }
		data := randomBytes(200_000, 2)
		go func() { send(a, data); a.CloseWrite() }()
		if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%s: %d octets, %v", name, len(got), err)
		}
		var lens []int
		for at := 0; at < len(wire); {
			n, ok := FrameLen(wire[at:])
			if !ok {
				t.Fatal("no frame")
			}
			lens = append(lens, n)
			at += n
		}
		if lens[0] != maxFirstFrame || lens[1] != DefaultMaxFrame {
			t.Errorf("%s: frames of %v octets", name, lens)
		}
	}
}

// A resumed connection on which the peer never shows that it has the keys makes the next one fresh.
func TestFailureBeforeTheFirstFrame(t *testing.T) {
	for name, v := range map[string]struct {
		end  func(a, b *Conn, la, lb *crypttest.End)
		kept bool
	}{
		"reset":             {func(_, _ *Conn, _, lb *crypttest.End) { lb.Abort() }, false},
		"plaintext":         {func(_, _ *Conn, _, lb *crypttest.End) { lb.Write([]byte("220 ready")); lb.CloseWrite() }, false},
		"end of stream":     {func(_, _ *Conn, _, lb *crypttest.End) { lb.CloseWrite() }, false},
		"reset, but later":  {func(a, b *Conn, _, lb *crypttest.End) { b.Write([]byte("x")); a.Read(make([]byte, 1)); lb.Abort() }, true},
		"application's own": {func(a, _ *Conn, _, _ *crypttest.End) { a.Abort() }, true},
	} {
		p := newPairs(t)
		p.fresh(t)
		p.fresh(t)
		a, b, la, lb := p.resumed(t, crypttest.Options{})
		v.end(a, b, la, lb)
		a.Read(make([]byte, 1))
		if n := len(p.atA.Sessions()); (n == 2) != v.kept || !v.kept && n != 0 {
			t.Errorf("%s: %d sessions are left", name, n)
		}
	}
}

// At the passive opener a reset says nothing: connections opened in advance end so. Octets that are no frame do.
func TestPassiveFailureBeforeTheFirstFrame(t *testing.T) {
	for name, v := range map[string]struct {
		end  func(la *crypttest.End)
		kept bool
	}{
		"reset":        {func(la *crypttest.End) { la.Abort() }, true},
		"not a frame":  {func(la *crypttest.End) { la.Write([]byte{0, 0, 16}) }, false},
		"another's":    {func(la *crypttest.End) { la.Write(append([]byte{0, 0, 17}, make([]byte, 17)...)) }, false},
		"end too soon": {func(la *crypttest.End) { la.CloseWrite() }, true},
	} {
		p := newPairs(t)
		p.fresh(t)
		_, b, la, _ := p.resumed(t, crypttest.Options{})
		v.end(la)
		if _, err := b.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("%s: %v", name, err)
		}
		if kept := len(p.atB.Sessions()) == 1; kept != v.kept {
			t.Errorf("%s: kept %v", name, kept)
		}
	}
}

func TestTicketMisuse(t *testing.T) {
	p := newPairs(t)
	p.fresh(t)
	k := p.atA.Take(hostB, nil)
	la, _ := crypttest.Pipe(crypttest.Options{})
	if _, err := New(la, Config{Role: eno.RoleA, TEP: P256, Ticket: k}); err == nil {
		t.Error("a ticket of another TEP")
	}
	k.Erase()
	c, err := New(la, Config{Role: eno.RoleA, TEP: Curve25519, Ticket: k})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Handshake(t.Context()); fmt.Sprint(err) == "<nil>" || c.State().Resumed {
		t.Errorf("resumed without a secret: %v", err)
	}
	if _, err := NewOpener(k, nil); err != ErrTicketUsed {
		t.Errorf("opener: %v", err)
	}
}

func BenchmarkResume(b *testing.B) {
	atA, atB := new(SessionCache), new(SessionCache)
	defer atA.Close()
	defer atB.Close()
	share(numbered(1), atA, atB)
	for b.Loop() {
		k := atA.Take(hostB, nil)
		c := atB.Claim(Curve25519, k.Suboption(nil), nil)
		k.Erase()
		c.Erase()
	}
}

// Keys that were kept for the key log go with what they were made from, if no connection comes of it.
func TestKeysForTheLogAreErased(t *testing.T) {
	isGone := func(what string, k *earlyLog, ab []byte) {
		t.Helper()
		if len(ab) == 0 || !bytes.Equal(ab, make([]byte, len(ab))) || k.ab != nil || k.ba != nil {
			t.Errorf("%s: % x is left", what, ab)
		}
	}
	cache := new(SessionCache)
	defer cache.Close()
	share(numbered(1), cache, new(SessionCache))
	ticket := cache.Take(hostB, nil)
	ticket.LogEarly = true
	if _, err := ticket.SealEarly(nil, []byte("data"), []byte("nonce678")); err != nil {
		t.Fatal(err)
	}
	ab := ticket.early.ab
	ticket.Erase()
	isGone("early data", ticket.early, ab)

	tep, ciphers := TEPs()[0], Ciphers()
	x, err := NewExchange(tep, ciphers, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Erase()
	_, p, err := AnswerExchange(tep, ciphers, rand.Reader, nil, x.Init1())
	if err != nil {
		t.Fatal(err)
	}
	p.LogFirst = true
	if _, err := p.SealFirst([]byte("who I am")); err != nil {
		t.Fatal(err)
	}
	ab = p.firstLog.ab
	p.Erase()
	isGone("the first message", &p.firstLog, ab)
}
