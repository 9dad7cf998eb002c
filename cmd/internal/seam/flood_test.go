package seam

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"innertun/integration/lab"
	"innertun/stack"
	"innertun/stack/link"
	"innertun/tcpinc"
	"innertun/tcpinc/eno"
	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt"
)

// bounds of the server in a flood.
const maxFlows, maxHalfOpen = 200, 50

// wiredStack is a host at one end of a wire.
func wiredStack(t *testing.T, w *link.Wire, addr netip.Addr, cfg stack.Config) *stack.Stack {
	t.Helper()
	cfg.Clock, cfg.Link, cfg.Addresses = clock.Clock, w, []netip.Prefix{netip.PrefixFrom(addr, 32)}
	cfg.Routes = []stack.Route{{Prefix: netip.MustParsePrefix("0.0.0.0/0")}}
	s, err := stack.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// flooded is a client and a server with little room, and a flood on the path between them.
func flooded(t *testing.T, f *lab.Flood, server tcpinc.ListenConfig) (*tcpinc.Dialer, *stack.Stack) {
	t.Helper()
	f.Target, f.Sources = service, netip.MustParsePrefix("198.19.0.0/16")
	path := lab.NewPath(pathTime(clock), f, lab.Delay(time.Millisecond))
	a, b := link.NewWire(1500, path.From(lab.A)), link.NewWire(1500, path.From(lab.B))
	path.Connect(a.Inject, b.Inject)
	t.Cleanup(path.Close)
	c := wiredStack(t, a, clientAddr, stack.Config{})
	s := wiredStack(t, b, serverAddr, stack.Config{MaxFlows: maxFlows, MaxHalfOpen: maxHalfOpen})
	serve(t, s, server)
	return &tcpinc.Dialer{
		Connect: Connect(c), Paths: new(tcpinc.PathMemory), Config: tcpinc.Config{Clock: clock, InnerSpace: tcpinc.InnerSpaceAuto},
	}, s
}

// upgradedSYN is what an upgraded SYN of a new client carries.
func upgradedSYN(t testing.TB) []byte {
	t.Helper()
	x, err := tcpcrypt.NewExchange(tcpcrypt.Curve25519, tcpcrypt.Ciphers(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	suffix, err := eno.AppendOption(nil, eno.Option{Suboptions: []eno.Suboption{{TEP: tcpcrypt.Curve25519}}})
	if err != nil {
		t.Fatal(err)
	}
	if suffix, err = innerspace.AppendInit(suffix, x.Init1()); err != nil {
		t.Fatal(err)
	}
	data, err := innerspace.AppendSYN(nil, innerspace.SYN{Suffix: suffix})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func exchangeText(d *tcpinc.Dialer, policy tcpinc.Policy, o tcpinc.DialOptions) (tcpinc.ConnectionState, error) {
	ctx, cancel := context.WithTimeout(context.Background(), guard)
	defer cancel()
	o.Policy = policy
	c, err := d.Dial(ctx, netip.Addr{}, service, o)
	if err != nil {
		return tcpinc.ConnectionState{}, err
	}
	defer c.Close()
	c.SetDeadline(clock.Now().Add(guard))
	sent := bytes.Repeat([]byte("while it rains "), 4000)
	go func() {
		c.Write(sent[len(o.EarlyData):])
		c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err == nil && !bytes.Equal(got, sent) {
		err = fmt.Errorf("%d octets came back of %d", len(got), len(sent))
	}
	return c.ConnectionState(), err
}

// While SYNs with forged sources come in, good clients get encrypted connections, and the server's memory stays as it is.
func TestFlood(t *testing.T) {
	syn := upgradedSYN(t)
	for _, kind := range []struct {
		name string
		syn  func(i int) (options, payload []byte)
	}{
		{"SYN", nil},
		{"SYN with ENO", func(int) ([]byte, []byte) { return []byte{2, 4, 5, 180, 69, 3, 0x23, 1}, nil }},
		{"SYN-U", func(int) ([]byte, []byte) { return []byte{2, 4, 5, 180}, syn }},
		{"all of them", func(i int) ([]byte, []byte) {
			switch i % 3 {
			case 0:
				return []byte{2, 4, 5, 180}, nil
			case 1:
				return []byte{2, 4, 5, 180, 69, 3, 0x23, 1}, nil
			}
			return []byte{2, 4, 5, 180}, syn
		}},
	} {
		t.Run(kind.name, func(t *testing.T) {
			f := &lab.Flood{Rate: 2000, SYN: kind.syn}
			server := innerServer
			server.Config.Sessions, server.Config.EarlyData = &tcpcrypt.SessionCache{Clock: clock}, true
			defer server.Config.Sessions.Close()
			d, s := flooded(t, f, server)
			defer f.Stop()
			d.Config.Sessions = &tcpcrypt.SessionCache{Clock: clock}
			defer d.Config.Sessions.Close()
			if state, err := exchangeText(d, tcpinc.Require, tcpinc.DialOptions{}); err != nil || !state.InnerSpace {
				t.Fatalf("before: %+v, %v", state, err)
			}
			f.Start()
			exchangeText(d, tcpinc.Require, tcpinc.DialOptions{})
			eventually(t, 10*time.Second, "the flood is under way", func() bool { return f.Acted() > 3*maxFlows })
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			start := s.Stats()
			const good = 40
			for i := range good {
				o := tcpinc.DialOptions{NoResume: i%2 == 0}
				if i%4 == 3 {
					o.EarlyData = []byte("while it rains ")
				}
				state, err := exchangeText(d, tcpinc.Require, o)
				if err != nil || !state.Encrypted || !state.InnerSpace {
					t.Errorf("connection %d: %+v, %v", i, state, err)
				}
				st := s.Stats()
				if st.Flows > maxFlows+256 || st.HalfOpen > maxFlows || st.Endpoints > maxHalfOpen+2*good+10 {
					t.Fatalf("it grows: %+v", st)
				}
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
				t.Errorf("the heap has grown by %d octets", grown)
			}
			st := s.Stats()
			t.Logf("%d forged SYNs; %d answered without being kept, %d plainly, %d SYN cookies", f.Acted(), st.Fleeting-start.Fleeting, st.WithoutRoom-start.WithoutRoom, st.SYNCookies-start.SYNCookies)
			if st.Fleeting == start.Fleeting {
				t.Errorf("no SYN was answered without being kept: %+v", st)
			}
		})
	}
}

// What was declined with the state of a half-open connection works again when the flood is over.
func TestAfterFlood(t *testing.T) {
	syn := upgradedSYN(t)
	f := &lab.Flood{Rate: 2000, SYN: func(int) ([]byte, []byte) { return []byte{2, 4, 5, 180}, syn }}
	server := innerServer
	server.Config.Sessions = &tcpcrypt.SessionCache{Clock: clock}
	defer server.Config.Sessions.Close()
	d, s := flooded(t, f, server)
	defer f.Stop()
	d.Config.Sessions = &tcpcrypt.SessionCache{Clock: clock}
	defer d.Config.Sessions.Close()
	exchangeText(d, tcpinc.Require, tcpinc.DialOptions{})
	f.Start()
	exchangeText(d, tcpinc.Require, tcpinc.DialOptions{})
	eventually(t, 10*time.Second, "the flood is under way", func() bool { return s.Stats().Fleeting > 0 })
	state, err := exchangeText(d, tcpinc.Require, tcpinc.DialOptions{})
	if err != nil || state.Resumed || !state.InnerSpace {
		t.Errorf("during: %+v, %v", state, err)
	}
	f.Stop()
	eventually(t, 10*time.Second, "it resumes again", func() bool {
		state, err := exchangeText(d, tcpinc.Require, tcpinc.DialOptions{})
		return err == nil && state.Resumed && state.InnerSpace
	})
}

// An upgraded connection without a TEP in common is one of units in plain, during a flood too.
func TestFloodWithoutEncryption(t *testing.T) {
	syn := upgradedSYN(t)
	f := &lab.Flood{Rate: 2000, SYN: func(int) ([]byte, []byte) { return []byte{2, 4, 5, 180}, syn }}
	server := innerServer
	server.Config.TEPs = []eno.TEP{tcpcrypt.P521}
	d, s := flooded(t, f, server)
	defer f.Stop()
	d.Config.InnerSpace, d.Config.TEPs = tcpinc.InnerSpaceOn, []eno.TEP{tcpcrypt.Curve448}
	f.Start()
	exchangeText(d, tcpinc.Opportunistic, tcpinc.DialOptions{})
	eventually(t, 10*time.Second, "the flood is under way", func() bool { return s.Stats().Fleeting > 0 })
	state, err := exchangeText(d, tcpinc.Opportunistic, tcpinc.DialOptions{})
	if err != nil || state.Encrypted || !state.InnerSpace {
		t.Errorf("%+v, %v", state, err)
	}
}
