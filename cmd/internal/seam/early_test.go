package seam

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"sync"
	"testing"
	"time"

	"innertun/integration/lab"
	"innertun/tcpinc"
	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt"
)

const request = "GET / HTTP/1.0\r\n\r\n"

// answering accepts connections, notes the first octets of each, and answers them.
type answering struct {
	mu    sync.Mutex
	got   []string
	early int
	errs  []error
}

func (a *answering) serve(l *tcpinc.Listener) {
	for {
		c, err := l.AcceptConn()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			b := make([]byte, len(request))
			n, err := io.ReadFull(c, b)
			a.mu.Lock()
			a.got = append(a.got, string(b[:n]))
			if c.ConnectionState().EarlyData {
				a.early++
			}
			if err != nil {
				a.errs = append(a.errs, err)
			}
			a.mu.Unlock()
			c.Write([]byte("reply"))
			rest, err := io.ReadAll(c)
			if err != nil {
				a.mu.Lock()
				a.errs = append(a.errs, err)
				a.mu.Unlock()
				return
			}
			c.Write(rest)
			c.CloseWrite()
		}()
	}
}

func (a *answering) take() (got []string, early int, errs []error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	got, early, errs = a.got, a.early, a.errs
	a.got, a.early, a.errs = nil, 0, nil
	return got, early, errs
}

// earlyPair is a client and a server that accepts early data.
func earlyPair(t *testing.T, accept bool, elements ...lab.Element) (*tcpinc.Dialer, *answering) {
	t.Helper()
	c, s := pair(t, elements...)
	cfg := tcpinc.Config{Clock: clock, InnerSpace: tcpinc.InnerSpaceAuto, Sessions: &tcpcrypt.SessionCache{Clock: clock}, EarlyData: accept}
	t.Cleanup(func() { cfg.Sessions.Close() })
	l, err := listener(s, service, tcpinc.ListenConfig{Config: cfg})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	a := new(answering)
	go a.serve(l)
	d := &tcpinc.Dialer{Connect: Connect(c), Paths: new(tcpinc.PathMemory), Config: tcpinc.Config{Clock: clock,
		InnerSpace: tcpinc.InnerSpaceAuto, Sessions: &tcpcrypt.SessionCache{Clock: clock},
	}}
	t.Cleanup(func() { d.Config.Sessions.Close() })
	return d, a
}

// ask sends the request and returns the connection's state and how long the first octet of the reply took.
func ask(t *testing.T, d *tcpinc.Dialer) (tcpinc.ConnectionState, time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	defer cancel()
	start := clock.Now()
	c, err := d.Dial(ctx, netip.Addr{}, service, tcpinc.DialOptions{Policy: tcpinc.Require, EarlyData: []byte(request)})
	if err != nil {
		t.Fatalf("Dial: %v", err)
	}
	defer c.Close()
	reply := make([]byte, len("reply"))
	if _, err := io.ReadFull(c, reply); err != nil || string(reply) != "reply" {
		t.Fatalf("%q, %v", reply, err)
	}
	took := since(start)
	c.Write([]byte("more"))
	c.CloseWrite()
	if rest, err := io.ReadAll(c); string(rest) != "more" || err != nil {
		t.Fatalf("%q, %v", rest, err)
	}
	return c.ConnectionState(), took
}

// The reply to early data follows the SYN-ACK: it takes one round trip.
func TestEarlyData(t *testing.T) {
	const oneWay = 30 * time.Millisecond
	d, a := earlyPair(t, true, lab.Delay(oneWay))
	if d.CarriesEarlyData(service, tcpinc.DialOptions{}) {
		t.Error("early data to a stranger")
	}
	for i := range 4 {
		if i > 0 && !d.CarriesEarlyData(service, tcpinc.DialOptions{}) {
			t.Errorf("connection %d: nothing is known", i)
		}
		s, took := ask(t, d)
		got, early, errs := a.take()
		if len(got) != 1 || got[0] != request || len(errs) > 0 {
			t.Fatalf("connection %d: the server got %q, %v", i, got, errs)
		}
		if want := i > 0; s.EarlyData != want || s.Resumed != want || (early == 1) != want {
			t.Errorf("connection %d: %+v, %d early at the server", i, s, early)
		}
		if i > 0 && took > 4*oneWay-10*time.Millisecond {
			t.Errorf("connection %d: %v for a round trip of %v", i, took, 2*oneWay)
		}
	}
}

// A server that accepts none, or has forgotten the session: the data arrives once.
func TestEarlyDataDeclined(t *testing.T) {
	d, a := earlyPair(t, false, lab.Delay(time.Millisecond))
	for i := range 3 {
		s, _ := ask(t, d)
		got, early, errs := a.take()
		if len(got) != 1 || got[0] != request || early != 0 || s.EarlyData || len(errs) > 0 || s.Resumed != (i > 0) {
			t.Errorf("connection %d: the server got %q, %v; %+v", i, got, errs, s)
		}
	}
}

// recorder keeps the first SYN with early data, and can send it again.
type recorder struct {
	mu   sync.Mutex
	syn  []byte
	lose int // SYN-ACKs to lose
}

func (r *recorder) Packet(p lab.Packet, at lab.Place) {
	r.mu.Lock()
	if s, ok := lab.ParseSegment(p.Data); ok && s.IsSYN() {
		if p.To == lab.B {
			if u, o, _ := innerspace.ParseSYN(s.Payload()); o == innerspace.Upgraded && len(u.Payload) > 0 && r.syn == nil {
				r.syn = append([]byte(nil), p.Data...)
			}
		} else if r.syn != nil && r.lose > 0 {
			r.lose--
			r.mu.Unlock()
			return
		}
	}
	r.mu.Unlock()
	at.Send(p)
}

// A SYN-ACK that is lost: the SYN is sent again, and the data is delivered once.
func TestEarlyDataSYNRepeated(t *testing.T) {
	r := &recorder{lose: 1}
	d, a := earlyPair(t, true, r, lab.Delay(time.Millisecond))
	ask(t, d)
	a.take()
	s, _ := ask(t, d)
	got, early, errs := a.take()
	if len(got) != 1 || got[0] != request || len(errs) > 0 || r.lose != 0 {
		t.Errorf("the server got %q, %v; %d early, %+v", got, errs, early, s)
	}
}

// Who alters the verdict in the SYN-ACK has the connection broken, not the data delivered twice on it.
type liar struct{ lied int }

func (l *liar) Packet(p lab.Packet, at lab.Place) {
	if s, ok := lab.ParseSegment(p.Data); ok && s.IsSYN() && p.To == lab.A {
		mark := []byte{253, 7, 0x49, 0x67, 1}
		b := s.Payload()
		for i := range len(b) - len(mark) {
			if string(b[i:i+len(mark)]) == string(mark) {
				b[i+4] = 0
				p = lab.Complete(p)
				checksums(p.Data)
				l.lied++
				break
			}
		}
	}
	at.Send(p)
}

func TestEarlyDataVerdictAltered(t *testing.T) {
	l := new(liar)
	d, a := earlyPair(t, true, l, lab.Delay(time.Millisecond))
	ask(t, d)
	a.take()
	c, err := d.Dial(t.Context(), netip.Addr{}, service, tcpinc.DialOptions{Policy: tcpinc.Require, EarlyData: []byte(request)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(clock.Now().Add(guard))
	_, err = io.ReadAll(c)
	if l.lied != 1 || err == nil {
		t.Fatalf("%d lies, %v", l.lied, err)
	}
	eventually(t, 5*time.Second, "the server finds out", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, err := range a.errs {
			if errors.Is(err, tcpinc.ErrEarlyMismatch) {
				return true
			}
		}
		return false
	})
}
