package tcpinc

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
	"innertun/tcpinc/tcpcrypt/crypttest"
)

// tcp is a transport that a RST can be delivered to.
type tcp struct {
	*crypttest.End
	rto       time.Duration
	delivered chan time.Time
}

func (c *tcp) RTO() time.Duration { return c.rto }
func (c *tcp) DeliverHeld() bool {
	select {
	case c.delivered <- time.Now():
	default:
	}
	c.End.Abort()
	return true
}

// guardedPair is an encrypted connection both of whose ends judge RSTs. The server echoes until it is stopped.
type guardedPair struct {
	a, b     *tcpcrypt.Conn
	la       *tcp
	ha, hb   *Handshake
	log      bytes.Buffer
	received uint32 // octets that A has of B's stream
}

func newGuardedPair(t *testing.T, mode ResetMode) *guardedPair {
	t.Helper()
	p := &guardedPair{ha: new(Handshake), hb: new(Handshake)}
	ea, eb := crypttest.Pipe(crypttest.Options{})
	p.la = &tcp{End: ea, delivered: make(chan time.Time, 8)}
	conn := func(lower Transport, role eno.Role) *tcpcrypt.Conn {
		c, err := tcpcrypt.New(lower, tcpcrypt.Config{Role: role, TEP: tcpcrypt.Curve25519})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	p.a, p.b = conn(p.la, eno.RoleA), conn(eb, eno.RoleB)
	var wg sync.WaitGroup
	wg.Go(func() { p.a.Handshake(context.Background()) })
	if err := p.b.Handshake(t.Context()); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	cfg := Config{RST: mode, Logger: slog.New(slog.NewTextHandler(&p.log, nil))}.filled()
	cfg.guardResets(p.ha, p.la, p.a)
	cfg.guardResets(p.hb, eb, p.b)
	p.received = uint32(p.a.ReceivedOctets())
	return p
}

// echo makes the server read and write.
func (p *guardedPair) echo() {
	go func() {
		buf := make([]byte, 100)
		for {
			n, err := p.b.Read(buf)
			if err != nil {
				return
			}
			p.b.Write(buf[:n])
		}
	}()
}

func (p *guardedPair) end() {
	p.a.Abort()
	p.b.Abort()
	synctest.Wait()
}

// rst is a RST for A whose sequence number is that which is expected, plus ahead.
func (p *guardedPair) rst(ahead int) Header {
	return Header{Seq: 12345, Offset: uint32(p.a.ReceivedOctets()) + 1 + uint32(ahead), Flags: 0x14}
}

func TestIncomingUnguarded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if v := new(Handshake).Incoming(Header{Offset: 1}); v != Deliver {
			t.Errorf("without keys: %v", v)
		}
		p := newGuardedPair(t, AcceptResets)
		if v := p.ha.Incoming(p.rst(0)); v != Deliver {
			t.Errorf("under accept: %v", v)
		}
		p.end()
		p = newGuardedPair(t, VerifyResets)
		if v := p.ha.Incoming(p.rst(-1)); v != Deliver {
			t.Errorf("of the past: %v", v)
		}
		p.a.CloseWrite()
		if v := p.ha.Incoming(p.rst(0)); v != Deliver {
			t.Errorf("after FINp was sent: %v", v)
		}
		p.b.Read(make([]byte, 1))
		if v := p.hb.Incoming(Header{}); v != Deliver {
			t.Errorf("after FINp was received: %v", v)
		}
		p.end()
	})
}

// The peer answers: the RST is forgotten, and said once.
func TestResetRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newGuardedPair(t, VerifyResets)
		p.echo()
		g := p.ha.resets.Load()
		for _, seg := range []Header{p.rst(0), p.rst(1000), {Seq: 7}} {
			if v := p.ha.Incoming(seg); v != Hold {
				t.Errorf("%+v: %v", seg, v)
			}
			time.Sleep(time.Hour)
		}
		synctest.Wait() // what was logged came of other goroutines
		if n := g.refused.Load(); n != 3 || len(p.la.delivered) != 0 || !p.a.Open() {
			t.Errorf("%d refused, %d delivered", n, len(p.la.delivered))
		}
		if n := bytes.Count(p.log.Bytes(), []byte("\n")); n != 1 {
			t.Errorf("%d lines: %s", n, p.log.String())
		}
		p.end()
	})
}

// The peer does not: the RST is taken after max(4 RTO, 1 s), at most 10 s.
func TestResetTaken(t *testing.T) {
	for rto, want := range map[time.Duration]time.Duration{
		0: time.Second, 200 * time.Millisecond: time.Second, 500 * time.Millisecond: 2 * time.Second, time.Minute: 10 * time.Second,
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newGuardedPair(t, VerifyResets)
			p.la.rto = rto
			start := time.Now()
			for range 100 { // its host answers the question by more of them
				p.ha.Incoming(p.rst(0))
			}
			at := <-p.la.delivered
			if took := at.Sub(start); took < want || took > want*9/8+time.Millisecond {
				t.Errorf("RTO %v: after %v, want %v", rto, took, want)
			}
			if _, err := p.a.Read(make([]byte, 1)); err == nil {
				t.Error("read")
			}
			time.Sleep(time.Minute)
			if n := bytes.Count(p.log.Bytes(), []byte("reset taken")); n != 1 || len(p.la.delivered) != 0 {
				t.Errorf("%s, %d more delivered", p.log.String(), len(p.la.delivered))
			}
			p.end()
		})
	}
}

// A flood makes few questions, ever fewer, and they begin anew after a quiet time. A peer that dies in a pause is found
// out when that is over.
func TestResetRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newGuardedPair(t, VerifyResets)
		p.echo()
		flood := func(d time.Duration) uint32 {
			before := p.a.State().Sent.Generation
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Millisecond) {
				p.ha.Incoming(p.rst(0))
			}
			time.Sleep(maxResetPause)
			return p.a.State().Sent.Generation - before
		}
		// At 0, 1, 3, 7, 15, 31 and then every 30 s.
		if n := flood(time.Minute); n < 6 || n > 8 {
			t.Errorf("%d questions in a minute", n)
		}
		if n := flood(time.Minute); n < 2 || n > 3 {
			t.Errorf("%d questions in the next one", n)
		}
		time.Sleep(resetPeace)
		if n := flood(time.Second); n < 1 || n > 2 {
			t.Errorf("%d questions in a second", n)
		}
		p.end()
	})
}

func TestResetAuthenticated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newGuardedPair(t, AuthenticateResets)
		p.echo()
		ga, gb := p.ha.resets.Load(), p.hb.resets.Load()
		from := func() Header { return Header{Seq: 1, Offset: uint32(p.a.ReceivedOctets()) + 1, Flags: 0x14} }
		out := from()
		sign := func() []byte { return p.hb.AppendResetOptions(nil, out, 28) }
		if o := sign(); o != nil {
			t.Errorf("signed for a peer that did not announce it: %x", o)
		}
		unannounced := p.rst(0)
		unannounced.Options = p.b.AppendResetMAC([]byte{253, 20, 0x49, 0x54}, out.Offset, out.Flags)
		if v := p.ha.Incoming(unannounced); v != Hold {
			t.Errorf("signed by a peer that did not announce it: %v", v)
		}
		time.Sleep(time.Millisecond) // the peer answers; the next question is a pause away
		if n := ga.refused.Load(); n != 1 {
			t.Errorf("%d refused", n)
		}
		out = from()
		ga.SetPeerAuthenticates(true)
		gb.SetPeerAuthenticates(true)
		if o := p.hb.AppendResetOptions(nil, out, 19); o != nil {
			t.Errorf("no room: %x", o)
		}
		o := sign()
		if len(o) != 20 || !bytes.Equal(o[:4], []byte{253, 20, 0x49, 0x54}) {
			t.Fatalf("%x", o)
		}
		in := p.rst(0)
		for name, bad := range map[string][]byte{
			"none": nil, "cut": o[:19], "altered": append(bytes.Clone(o[:19]), o[19]^1), "another ExID": append([]byte{253, 20, 1, 1}, o[4:]...),
			"ill-formed": {253, 0, 0x49}, "its own": p.ha.AppendResetOptions(nil, out, 28),
		} {
			in.Options = append([]byte{1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0}, bad...)
			if v := p.ha.Incoming(in); v != Hold {
				t.Errorf("%s: %v", name, v)
			}
		}
		in.Options = o
		in.Offset++
		if v := p.ha.Incoming(in); v != Hold {
			t.Errorf("replayed at another place: %v", v)
		}
		in.Offset--
		in.Seq += 99 // as a path may change it, with the initial one
		in.Options = append([]byte{1, 1}, o...)
		if v := p.ha.Incoming(in); v != Deliver {
			t.Errorf("signed: %v", v)
		}
		if v := p.ha.Incoming(p.rst(0)); v != Deliver {
			t.Errorf("the answer to TCP's challenge after that: %v", v)
		}
		p.end()
		if o := sign(); len(o) != 0 {
			t.Errorf("signed without keys: %x", o)
		}
	})
}

// An end that only verifies does not sign, nor believe signatures.
func TestResetSignedToOneThatVerifies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newGuardedPair(t, VerifyResets)
		p.ha.resets.Load().SetPeerAuthenticates(true)
		if o := p.ha.AppendResetOptions(nil, p.rst(0), 28); o != nil {
			t.Errorf("%x", o)
		}
		p.echo()
		seg := p.rst(0)
		seg.Options = p.b.AppendResetMAC([]byte{253, 20, 0x49, 0x54}, seg.Offset, seg.Flags)
		if v := p.ha.Incoming(seg); v != Hold {
			t.Error(v)
		}
		p.end()
	})
}

// A transport that cannot deliver what was held is reset.
func TestResetTakenByAbort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newGuardedPair(t, VerifyResets)
		p.hb.Incoming(Header{})
		time.Sleep(2 * time.Second)
		if _, err := p.b.Read(make([]byte, 1)); err == nil || errors.Is(err, syscall.ETIMEDOUT) {
			t.Error(err)
		}
		p.end()
	})
}

func TestParseResetMode(t *testing.T) {
	for _, m := range []ResetMode{VerifyResets, AcceptResets, AuthenticateResets} {
		if got, err := ParseResetMode(m.String()); err != nil || got != m {
			t.Errorf("%v: %v, %v", m, got, err)
		}
	}
	if _, err := ParseResetMode("ignore"); err == nil {
		t.Error("ignore is taken")
	}
}
