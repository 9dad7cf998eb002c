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
	"innertun/stack/link"
	"innertun/stack/virtual"
	"innertun/tcpinc"
	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
)

func TestResumed(t *testing.T) {
	client, server := pair(t)
	cfg := func() tcpinc.Config {
		s := new(tcpcrypt.SessionCache)
		t.Cleanup(func() { s.Close() })
		return tcpinc.Config{Sessions: s}
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
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := d.Dial(ctx, netip.Addr{}, service, tcpinc.DialOptions{Policy: p})
	if err != nil {
		return tcpinc.ConnectionState{}, nil, err
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
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
				atServer, atClient := new(tcpcrypt.SessionCache), new(tcpcrypt.SessionCache)
				defer atServer.Close()
				defer atClient.Close()
				given := make(chan []byte, 100)
				l, err := Listen(server, service, tcpinc.ListenConfig{Config: tcpinc.Config{Sessions: atServer}})
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
				d := &tcpinc.Dialer{Connect: Connect(client), Config: tcpinc.Config{Sessions: atClient}}
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

// virtualClock is a virtual clock as a path and as tcpinc know it.
type virtualClock struct{ *virtual.Clock }

func (c virtualClock) AfterFunc(d time.Duration, f func()) lab.Timer { return c.Clock.AfterFunc(d, f) }

type protocolClock struct{ *virtual.Clock }

func (c protocolClock) AfterFunc(d time.Duration, f func()) func() bool {
	return c.Clock.AfterFunc(d, func() { go f() }).Stop
}

// Round trips from the call of Dial to the first octet of the reply, on a clock that moves only while nothing has anything
// to do: a fresh exchange costs one more than plain TCP, a resumed one none.
func TestRoundTrips(t *testing.T) {
	const rtt = 100 * time.Millisecond
	clock := virtual.New(time.Unix(1_600_000_000, 0))
	path := lab.NewPath(virtualClock{clock}, lab.Delay(rtt/2))
	a, b := link.NewWire(1500, path.From(lab.A)), link.NewWire(1500, path.From(lab.B))
	path.Connect(a.Inject, b.Inject)
	defer path.Close()
	host := func(w *link.Wire, addr netip.Addr) *stack.Stack {
		s, err := stack.New(stack.Config{
			Link:      w,
			Clock:     clock,
			Addresses: []netip.Prefix{netip.PrefixFrom(addr, 32)},
			Routes:    []stack.Route{{Prefix: netip.MustParsePrefix("0.0.0.0/0")}},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	client, server := host(a, clientAddr), host(b, serverAddr)
	cfg := func() tcpinc.Config {
		s := &tcpcrypt.SessionCache{Clock: protocolClock{clock}}
		t.Cleanup(func() { s.Close() })
		return tcpinc.Config{Sessions: s, Clock: protocolClock{clock}}
	}
	serve(t, server, tcpinc.ListenConfig{Config: cfg()})
	d := tcpinc.Dialer{Connect: Connect(client), Config: cfg()}

	for _, v := range []struct {
		name   string
		policy tcpinc.Policy
		want   float64
	}{{"fresh", tcpinc.Require, 3}, {"resumed", tcpinc.Require, 2}, {"resumed again", tcpinc.Require, 2}, {"plain", tcpinc.Off, 2}} {
		type result struct {
			took    time.Duration
			resumed bool
			err     error
		}
		done := make(chan result, 1)
		start := clock.Now()
		go func() {
			c, err := d.Dial(t.Context(), netip.Addr{}, service, tcpinc.DialOptions{Policy: v.policy})
			if err != nil {
				done <- result{err: err}
				return
			}
			defer c.Close()
			c.Write([]byte("request"))
			_, err = c.Read(make([]byte, 7))
			done <- result{clock.Now().Sub(start), c.ConnectionState().Resumed, err}
		}()
		for got := false; !got; {
			if !virtual.Quiet(30 * time.Second) {
				t.Fatal("does not come to rest")
			}
			select {
			case r := <-done:
				got = true
				if trips := float64(r.took) / float64(rtt); r.err != nil || trips != v.want || r.resumed != (v.name[0] == 'r') {
					t.Errorf("%s: %v round trips, resumed %v, %v; want %v", v.name, trips, r.resumed, r.err, v.want)
				}
			default:
				if clock.Now().Sub(start) > time.Minute {
					t.Fatal(v.name, "takes too long")
				}
				clock.Step(start.Add(2 * time.Minute))
			}
		}
		for range 20 { // let the connection end
			virtual.Quiet(30 * time.Second)
			clock.Advance(rtt)
		}
	}
}
