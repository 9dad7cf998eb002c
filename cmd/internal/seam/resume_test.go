package seam

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"innertun/integration/lab"
	"innertun/stack"
	"innertun/tcpinc"
	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
)

func TestResumed(t *testing.T) {
	client, server := pair(t)
	cfg := func() tcpinc.Config {
		s := &tcpcrypt.SessionCache{Clock: clock}
		t.Cleanup(func() { s.Close() })
		return tcpinc.Config{Clock: clock, Sessions: s}
	}
	serve(t, server, tcpinc.ListenConfig{Config: cfg()})
	d := tcpinc.Dialer{Connect: Connect(client), Config: cfg()}
	sent := bytes.Repeat([]byte("there and back "), 20_000)
	for i := range 4 {
		s, got, err := thereAndBack(t, &d, tcpinc.Require, sent)
		if err != nil || !bytes.Equal(got, sent) || s.Resumed != (i > 0) {
			t.Errorf("%d: resumed %v, %d octets, %v", i, s.Resumed, len(got), err)
		}
	}
}

// thereAndBack sends octets there and back.
func thereAndBack(t *testing.T, d *tcpinc.Dialer, p tcpinc.Policy, sent []byte) (tcpinc.ConnectionState, []byte, error) {
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	defer cancel()
	c, err := d.Dial(ctx, netip.Addr{}, service, tcpinc.DialOptions{Policy: p})
	if err != nil {
		return tcpinc.ConnectionState{}, nil, err
	}
	defer c.Close()
	c.SetReadDeadline(clock.Now().Add(guard))
	go func() {
		c.Write(sent)
		c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	return c.ConnectionState(), got, err
}

// stripper takes the ENO option out of some segments, once it is switched on.
type stripper struct {
	syn, answer, others lab.Element
	on                  func() bool
}

func (s stripper) Packet(p lab.Packet, at lab.Place) {
	seg, ok := lab.ParseSegment(p.Data)
	if !ok || !s.on() {
		at.Send(p)
		return
	}
	e := s.others
	if seg.IsSYN() && p.To == lab.B {
		e = s.syn
	} else if seg.IsSYN() {
		e = s.answer
	}
	if e == nil {
		at.Send(p)
		return
	}
	e.Packet(p, at)
}

// ENO taken out of SYN, SYN-ACK and all other segments in every combination, on a path where sessions were made before:
// no application is given ciphertext, and nothing under require is plain on the wire or comes from plaintext.
func TestStrippedResumption(t *testing.T) {
	const text = "GET /private HTTP/1.1\r\n\r\n"
	for mask := 1; mask < 8; mask++ {
		for _, policy := range []tcpinc.Policy{tcpinc.Opportunistic, tcpinc.Require} {
			t.Run(fmt.Sprintf("%03b %v", mask, policy), func(t *testing.T) {
				var on bool
				gate := make(chan struct{}, 1)
				gate <- struct{}{}
				s := stripper{on: func() bool { <-gate; defer func() { gate <- struct{}{} }(); return on }}
				for bit, e := range map[int]*lab.Element{1: &s.syn, 2: &s.answer, 4: &s.others} {
					if mask&bit != 0 {
						*e = lab.NewStripOption(eno.Kind, lab.All)
					}
				}
				tap := new(lab.Tap)
				client, server := pair(t, s, tap)
				atServer, atClient := &tcpcrypt.SessionCache{Clock: clock}, &tcpcrypt.SessionCache{Clock: clock}
				defer atServer.Close()
				defer atClient.Close()
				given := make(chan []byte, 100)
				l, err := listener(server, service, tcpinc.ListenConfig{Config: tcpinc.Config{Clock: clock, Sessions: atServer}})
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				go func() {
					for {
						c, err := l.AcceptConn()
						if err != nil {
							return
						}
						go func() {
							defer c.Close()
							b := make([]byte, 4096)
							for {
								n, err := c.Read(b)
								if n > 0 {
									given <- bytes.Clone(b[:n])
									c.Write(b[:n])
								}
								if err != nil {
									c.CloseWrite()
									return
								}
							}
						}()
					}
				}()
				d := &tcpinc.Dialer{Connect: Connect(client), Config: tcpinc.Config{Clock: clock, Sessions: atClient}}
				if _, got, err := thereAndBack(t, d, policy, []byte(text)); err != nil || string(got) != text {
					t.Fatalf("first: %q, %v", got, err)
				}
				<-gate
				on = true
				gate <- struct{}{}
				for i := range 2 {
					state, got, err := thereAndBack(t, d, policy, []byte(text))
					if err == nil && (string(got) != text || policy == tcpinc.Require && !state.Encrypted) {
						t.Errorf("%d: %q, state %+v", i, got, state)
					}
					// Where only later segments lose the option the first one is lost, as it was resumed; the second is a fresh
					// exchange and falls back.
					if i == 1 && (err == nil) != (policy == tcpinc.Opportunistic) {
						t.Errorf("in the end %v", err)
					}
				}
				l.Close()
				for len(given) > 0 {
					if b := <-given; !strings.Contains(text, string(b)) { // its first octets may come on their own
						t.Errorf("the application was given %q", b)
					}
				}
				if policy != tcpinc.Require {
					return
				}
				for _, p := range tap.Packets() {
					if bytes.Contains(p.Data, []byte("private")) {
						t.Fatalf("plaintext on the wire: %q", p.Data)
					}
				}
			})
		}
	}
}

// virtualWorld is two hosts a round trip apart.
type virtualWorld struct {
	rtt            time.Duration
	client, server *stack.Stack
}

func newVirtualWorld(t *testing.T, rtt time.Duration) *virtualWorld {
	t.Helper()
	client, server := pair(t, lab.Delay(rtt/2))
	return &virtualWorld{rtt, client, server}
}

// config is that of a host which resumes sessions.
func (w *virtualWorld) config(t *testing.T) tcpinc.Config {
	s := &tcpcrypt.SessionCache{Clock: clock}
	t.Cleanup(func() { s.Close() })
	return tcpinc.Config{Clock: clock, Sessions: s}
}

// roundTrips are those from the call of Dial to the first octet of the reply.
func (w *virtualWorld) roundTrips(t *testing.T, d *tcpinc.Dialer, o tcpinc.DialOptions) (float64, tcpinc.ConnectionState, error) {
	t.Helper()
	start := clock.Now()
	c, err := d.Dial(t.Context(), netip.Addr{}, service, o)
	if err != nil {
		return 0, tcpinc.ConnectionState{}, err
	}
	c.Write([]byte("request"))
	_, err = c.Read(make([]byte, 7))
	took, state := since(start), c.ConnectionState()
	c.Close()
	sleep(20 * w.rtt) // let the connection end
	return float64(took) / float64(w.rtt), state, err
}

// A fresh exchange costs one round trip more than plain TCP, a resumed one none.
func TestRoundTrips(t *testing.T) {
	w := newVirtualWorld(t, 100*time.Millisecond)
	serve(t, w.server, tcpinc.ListenConfig{Config: w.config(t)})
	d := &tcpinc.Dialer{Connect: Connect(w.client), Config: w.config(t)}
	for _, v := range []struct {
		name   string
		policy tcpinc.Policy
		want   float64
	}{{"fresh", tcpinc.Require, 3}, {"resumed", tcpinc.Require, 2}, {"resumed again", tcpinc.Require, 2}, {"plain", tcpinc.Off, 2}} {
		trips, state, err := w.roundTrips(t, d, tcpinc.DialOptions{Policy: v.policy})
		if err != nil || trips != v.want || state.Resumed != (v.name[0] == 'r') {
			t.Errorf("%s: %v round trips, resumed %v, %v; want %v", v.name, trips, state.Resumed, err, v.want)
		}
	}
}
