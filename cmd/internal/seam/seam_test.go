package seam

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"innertun/integration/lab"
	"innertun/stack"
	"innertun/stack/link"
	"innertun/tcpinc"
	"innertun/tcpinc/eno"
)

var (
	clientAddr = netip.MustParseAddr("198.18.0.1")
	serverAddr = netip.MustParseAddr("198.18.0.2")
	service    = netip.AddrPortFrom(serverAddr, 80)
)

// pair is two stacks joined by a path.
func pair(t *testing.T, elements ...lab.Element) (client, server *stack.Stack) {
	t.Helper()
	path := lab.NewPath(pathTime(clock), elements...)
	a, b := link.NewWire(1500, path.From(lab.A)), link.NewWire(1500, path.From(lab.B))
	path.Connect(a.Inject, b.Inject)
	t.Cleanup(path.Close)
	host := func(w *link.Wire, addr netip.Addr) *stack.Stack {
		s, err := stack.New(stack.Config{
			Clock:     clock.Clock,
			Link:      w,
			Addresses: []netip.Prefix{netip.PrefixFrom(addr, 32)},
			Routes:    []stack.Route{{Prefix: netip.MustParsePrefix("0.0.0.0/0")}},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	return host(a, clientAddr), host(b, serverAddr)
}

// echo sends back what each connection sends, to its end.
func echo(l *tcpinc.Listener) {
	for {
		c, err := l.AcceptConn()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
			c.CloseWrite()
		}()
	}
}

func serve(t *testing.T, s *stack.Stack, cfg tcpinc.ListenConfig) {
	t.Helper()
	l, err := listener(s, service, cfg)
	if err != nil {
		t.Fatal(err)
	}
	go echo(l)
	t.Cleanup(func() { l.Close() })
}

// talk sends octets there and back and returns the connection's state.
func talk(t *testing.T, client *stack.Stack, policy tcpinc.Policy) (tcpinc.ConnectionState, error) {
	t.Helper()
	d := tcpinc.Dialer{Connect: Connect(client), Config: tcpinc.Config{Clock: clock}}
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	defer cancel()
	c, err := d.Dial(ctx, netip.Addr{}, service, tcpinc.DialOptions{Policy: policy})
	if err != nil {
		return tcpinc.ConnectionState{}, err
	}
	defer c.Close()
	sent := bytes.Repeat([]byte("there and back "), 20_000)
	go func() {
		c.Write(sent)
		c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("reading: %v", err)
	}
	if !bytes.Equal(got, sent) {
		t.Errorf("%d octets came back of %d, or others", len(got), len(sent))
	}
	return c.ConnectionState(), nil
}

func TestEncrypted(t *testing.T) {
	client, server := pair(t)
	serve(t, server, tcpinc.ListenConfig{})
	state, err := talk(t, client, tcpinc.Require)
	if err != nil || !state.Encrypted || len(state.SessionID) != 33 {
		t.Errorf("%+v, %v", state, err)
	}
}

func TestPlain(t *testing.T) {
	client, server := pair(t)
	serve(t, server, tcpinc.ListenConfig{Policy: tcpinc.Off})
	state, err := talk(t, client, tcpinc.Opportunistic)
	if err != nil || state.Encrypted || state.FallbackReason != eno.PeerNoENO {
		t.Errorf("%+v, %v", state, err)
	}
	var required *tcpinc.RequiredError
	if _, err := talk(t, client, tcpinc.Require); !errors.As(err, &required) || required.Reason != eno.PeerNoENO {
		t.Errorf("under require: %v", err)
	}
	if state, err := talk(t, client, tcpinc.Off); err != nil || state.FallbackReason != eno.PolicyOff {
		t.Errorf("under off: %+v, %v", state, err)
	}
}

// The path strips ENO from SYNs: both ends fall back, nothing is lost.
func TestStripped(t *testing.T) {
	strip := lab.NewStripOption(69, lab.SYNs)
	client, server := pair(t, strip)
	serve(t, server, tcpinc.ListenConfig{})
	state, err := talk(t, client, tcpinc.Opportunistic)
	if err != nil || state.Encrypted || strip.Stripped() == 0 {
		t.Errorf("%+v, %v, %d options stripped", state, err, strip.Stripped())
	}
}

// Loss, reordering and duplicates on the way are TCP's affair and change nothing above.
func TestRoughPath(t *testing.T) {
	loss := lab.NewLoss(0.02, 1)
	client, server := pair(t, lab.Delay(2*time.Millisecond), loss,
		lab.NewReorder(0.05, time.Millisecond, 2), lab.NewDuplicate(0.02, time.Millisecond, 3))
	serve(t, server, tcpinc.ListenConfig{})
	for range 5 {
		if state, err := talk(t, client, tcpinc.Require); err != nil || !state.Encrypted {
			t.Errorf("%+v, %v", state, err)
		}
	}
	if loss.Dropped() == 0 {
		t.Error("the path lost nothing")
	}
}

func TestErrors(t *testing.T) {
	client, server := pair(t)
	if _, err := talk(t, client, tcpinc.Opportunistic); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody listens: %v", err)
	}
	if _, err := listener(server, service, tcpinc.ListenConfig{Policy: 99}); err == nil {
		t.Error("a policy that is none is taken")
	}
	if _, err := listener(server, service, tcpinc.ListenConfig{Config: tcpinc.Config{Clock: clock, TEPs: []eno.TEP{0}}}); err == nil {
		t.Error("a TEP that is none is taken")
	}
	serve(t, server, tcpinc.ListenConfig{}) // the port is free after failed attempts
	if _, err := listener(server, service, tcpinc.ListenConfig{}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("port in use: %v", err)
	}
}

// The two sides of the seam number the segments alike.
func TestSegments(t *testing.T) {
	for s, p := range map[stack.Segment]tcpinc.Segment{stack.SYN: tcpinc.SYN, stack.SYNACK: tcpinc.SYNACK, stack.NonSYN: tcpinc.NonSYN} {
		if tcpinc.Segment(s) != p {
			t.Errorf("%v is %d here and %d there", s, s, p)
		}
	}
	for s, p := range map[stack.Verdict]tcpinc.Verdict{stack.Deliver: tcpinc.Deliver, stack.Hold: tcpinc.Hold, stack.Drop: tcpinc.Drop} {
		if tcpinc.Verdict(s) != p {
			t.Errorf("verdict %d is %d there", s, p)
		}
	}
}
