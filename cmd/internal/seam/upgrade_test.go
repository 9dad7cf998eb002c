package seam

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"sync"
	"testing"
	"time"

	"innertun/integration/lab"
	"innertun/tcpinc"
	"innertun/tcpinc/eno"
	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt"
)

// witness notes the SYNs and what completes a handshake.
type witness struct {
	mu       sync.Mutex
	syns     int // ordinary ones
	upgraded int
	accepted int // third segments from the client
}

func (w *witness) Packet(p lab.Packet, at lab.Place) {
	if s, ok := lab.ParseSegment(p.Data); ok && p.To == lab.B {
		w.mu.Lock()
		switch {
		case s.Flags()&lab.SYN != 0:
			if _, o, _ := innerspace.ParseSYN(s.Payload()); o == innerspace.Upgraded {
				w.upgraded++
			} else {
				w.syns++
			}
		case s.Flags()&(lab.RST|lab.ACK) == lab.ACK && len(s.Payload()) == 0:
			w.accepted++
		}
		w.mu.Unlock()
	}
	at.Send(p)
}

func (w *witness) count() (ordinary, upgraded int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ordinary, upgraded = w.syns, w.upgraded
	w.syns, w.upgraded = 0, 0
	return ordinary, upgraded
}

// spoken is a client with a memory.
type spoken struct {
	dialer *tcpinc.Dialer
	seen   *witness
}

func inner(t *testing.T, mode tcpinc.InnerSpaceMode, server tcpinc.ListenConfig, elements ...lab.Element) *spoken {
	t.Helper()
	w := new(witness)
	c, s := pair(t, append([]lab.Element{w}, elements...)...)
	serve(t, s, server)
	return &spoken{&tcpinc.Dialer{
		Connect: Connect(c), Paths: new(tcpinc.PathMemory),
		Config: tcpinc.Config{Clock: clock, InnerSpace: mode},
	}, w}
}

// talk opens a connection, sends octets there and back, and says how many SYNs of either kind that took.
func (x *spoken) talk(t *testing.T, policy tcpinc.Policy) (s tcpinc.ConnectionState, ordinary, upgraded int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	defer cancel()
	c, err := x.dialer.Dial(ctx, netip.Addr{}, service, tcpinc.DialOptions{Policy: policy})
	if err != nil {
		t.Fatalf("Dial: %v", err)
	}
	defer c.Close()
	ordinary, upgraded = x.seen.count()
	sent := bytes.Repeat([]byte("there and back "), 20_000)
	go func() {
		c.Write(sent)
		c.CloseWrite()
	}()
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%d octets came back of %d, %v", len(got), len(sent), err)
	}
	return c.ConnectionState(), ordinary, upgraded
}

func (x *spoken) known() tcpinc.PathInner {
	for _, i := range x.dialer.Paths.List(clock.Now()) {
		if i.Inner != tcpinc.PathUnknown {
			return i.Inner
		}
	}
	return tcpinc.PathUnknown
}

var innerServer = tcpinc.ListenConfig{Config: tcpinc.Config{Clock: clock, InnerSpace: tcpinc.InnerSpaceAuto}}

// auto learns by the mark, and the next SYN is an upgraded one alone.
func TestUpgradeByMark(t *testing.T) {
	for _, tep := range tcpcrypt.TEPs() {
		t.Run(tcpinc.TEPName(tep), func(t *testing.T) {
			x := inner(t, tcpinc.InnerSpaceAuto, innerServer, lab.Delay(2*time.Millisecond))
			x.dialer.Config.TEPs = []eno.TEP{tep, tcpcrypt.P256, tcpcrypt.Curve25519}[:1+len(tcpinc.TEPName(tep))%2]
			for i, want := range [][2]int{{1, 0}, {0, 1}, {0, 1}} {
				s, ordinary, upgraded := x.talk(t, tcpinc.Require)
				if !s.Encrypted || !s.InnerSpace || s.TEP != tep || ordinary != want[0] || upgraded != want[1] {
					t.Errorf("connection %d: %+v, %d ordinary SYNs, %d upgraded", i, s, ordinary, upgraded)
				}
			}
		})
	}
}

// on tries at first contact.
func TestUpgradeAtFirstContact(t *testing.T) {
	x := inner(t, tcpinc.InnerSpaceOn, innerServer, lab.Delay(2*time.Millisecond))
	for i, want := range [][2]int{{1, 1}, {0, 1}} {
		s, ordinary, upgraded := x.talk(t, tcpinc.Opportunistic)
		if !s.Encrypted || !s.InnerSpace || ordinary != want[0] || upgraded != want[1] {
			t.Errorf("connection %d: %+v, %d ordinary SYNs, %d upgraded", i, s, ordinary, upgraded)
		}
	}
}

// Each way in which a destination or a path does without: the connection is an ordinary one, encrypted where it can be, and
// the next one is tried without an upgraded SYN.
func TestNoUpgrade(t *testing.T) {
	off := tcpinc.ListenConfig{}
	for _, c := range []struct {
		name      string
		server    tcpinc.ListenConfig
		elements  []lab.Element
		encrypted bool
		learnt    tcpinc.PathInner
	}{
		{"a server without Inner Space", off, nil, true, tcpinc.PathLegacy},
		{"a plain server", tcpinc.ListenConfig{Policy: tcpinc.Off}, nil, false, tcpinc.PathLegacy},
		{"a firewall that drops SYN data", innerServer, []lab.Element{lab.NewBlockSYNData(lab.Drop)}, true, tcpinc.PathUpgraded},
		{"a firewall that resets SYN data", innerServer, []lab.Element{lab.NewBlockSYNData(lab.Reset)}, true, tcpinc.PathUpgraded},
		{"a box that strips SYN data", innerServer, []lab.Element{new(lab.StripSYNData)}, true, tcpinc.PathUpgraded},
		{"the same before a plain server", tcpinc.ListenConfig{Policy: tcpinc.Off}, []lab.Element{lab.NewBlockSYNData(lab.Drop)}, false, tcpinc.PathEatsSYNData},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := inner(t, tcpinc.InnerSpaceOn, c.server, append(c.elements, lab.Delay(5*time.Millisecond))...)
			start := clock.Now()
			s, ordinary, upgraded := x.talk(t, tcpinc.Opportunistic)
			if s.Encrypted != c.encrypted || ordinary != 1 || upgraded != 1 {
				t.Errorf("%+v, %d ordinary SYNs, %d upgraded", s, ordinary, upgraded)
			}
			if took := since(start); took > 2*time.Second {
				t.Errorf("it took %v", took)
			}
			if s.InnerSpace != (c.learnt == tcpinc.PathUpgraded) || x.known() != c.learnt {
				t.Errorf("learnt %v: %+v", x.known(), x.dialer.Paths.List(clock.Now()))
			}
			s, ordinary, upgraded = x.talk(t, tcpinc.Opportunistic)
			if s.Encrypted != c.encrypted || ordinary != 1 || upgraded != 0 {
				t.Errorf("the second: %+v, %d ordinary SYNs, %d upgraded", s, ordinary, upgraded)
			}
		})
	}
}

// A SYN-ACK-U that is lost, a SYN-U that is lost: it is sent again, the same octets.
func TestUpgradeLosses(t *testing.T) {
	for _, to := range []lab.End{lab.A, lab.B} {
		first := new(firstSYN)
		first.to = to
		x := inner(t, tcpinc.InnerSpaceAuto, innerServer, first, lab.Delay(time.Millisecond))
		first.skip = 1 // the first connection is an ordinary one
		if s, _, _ := x.talk(t, tcpinc.Require); !s.InnerSpace {
			t.Fatalf("%+v", s)
		}
		s, ordinary, upgraded := x.talk(t, tcpinc.Require)
		if !s.Encrypted || !s.InnerSpace || upgraded+ordinary < 2 || first.lost != 1 {
			t.Errorf("to %v: %+v, %d ordinary SYNs, %d upgraded, %d lost", to, s, ordinary, upgraded, first.lost)
		}
	}
}

// firstSYN loses one SYN, or SYN-ACK.
type firstSYN struct {
	to         lab.End
	mu         sync.Mutex
	skip, lost int
}

func (f *firstSYN) Packet(p lab.Packet, at lab.Place) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s, ok := lab.ParseSegment(p.Data); ok && p.To == f.to && s.Flags()&lab.SYN != 0 {
		if f.skip > 0 {
			f.skip--
		} else if f.lost == 0 {
			f.lost++
			return
		}
	}
	at.Send(p)
}

// A destination that spoke Inner Space and does not any more is a downgrade, and refused where encryption is required.
func TestUpgradeMissing(t *testing.T) {
	w := new(witness)
	c, s := pair(t, w, lab.Delay(time.Millisecond))
	x := &spoken{&tcpinc.Dialer{
		Connect: Connect(c), Paths: new(tcpinc.PathMemory),
		Config: tcpinc.Config{Clock: clock, InnerSpace: tcpinc.InnerSpaceAuto},
	}, w}
	l, err := listener(s, service, innerServer)
	if err != nil {
		t.Fatal(err)
	}
	go echo(l)
	x.talk(t, tcpinc.Require)
	l.Close()
	eventually(t, 5*time.Second, "the port is free", func() bool {
		l, err := listener(s, service, tcpinc.ListenConfig{})
		if err == nil {
			go echo(l)
			t.Cleanup(func() { l.Close() })
		}
		return err == nil
	})
	state, ordinary, upgraded := x.talk(t, tcpinc.Opportunistic)
	if !state.Encrypted || state.InnerSpace || !state.Downgraded || x.dialer.Downgrades() != 1 || ordinary != 1 || upgraded != 1 {
		t.Errorf("%+v, %d downgrades, %d ordinary SYNs, %d upgraded", state, x.dialer.Downgrades(), ordinary, upgraded)
	}
	if _, err := x.dialer.Dial(t.Context(), netip.Addr{}, service, tcpinc.DialOptions{Policy: tcpinc.Require}); !errors.Is(err, tcpinc.ErrInnerSpaceMissing) {
		t.Errorf("under require: %v", err)
	}
	if x.dialer.Paths.FlushDestination(service) == 0 {
		t.Error("nothing was known")
	}
	if state, _, _ := x.talk(t, tcpinc.Require); !state.Encrypted || state.Downgraded {
		t.Errorf("%+v", state)
	}
}

// Resumed sessions speak Inner Space as they did before, though their SYNs have no room for the mark.
func TestUpgradeResumed(t *testing.T) {
	serverCfg := innerServer
	serverCfg.Config.Sessions = &tcpcrypt.SessionCache{Clock: clock}
	x := inner(t, tcpinc.InnerSpaceAuto, serverCfg, lab.Delay(time.Millisecond))
	x.dialer.Config.Sessions = &tcpcrypt.SessionCache{Clock: clock}
	t.Cleanup(func() { serverCfg.Config.Sessions.Close() })
	t.Cleanup(func() { x.dialer.Config.Sessions.Close() })
	for i, want := range []struct {
		resumed           bool
		ordinary, upgrade int
	}{{false, 1, 0}, {true, 0, 1}, {true, 1, 0}} {
		if i == 2 {
			x.dialer.Paths.FlushDestination(service)
		}
		s, ordinary, upgraded := x.talk(t, tcpinc.Require)
		if s.Resumed != want.resumed || !s.InnerSpace || ordinary != want.ordinary || upgraded != want.upgrade {
			t.Errorf("connection %d: %+v, %d ordinary SYNs, %d upgraded", i, s, ordinary, upgraded)
		}
	}
}

// Options travel in order with the data, confidential and authenticated as it is.
func TestOptions(t *testing.T) {
	c, s := pair(t, lab.Delay(time.Millisecond))
	l, err := listener(s, service, innerServer)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan *tcpinc.Conn, 1)
	go func() {
		conn, err := l.AcceptConn()
		if err != nil {
			t.Error(err)
		}
		accepted <- conn
	}()
	d := tcpinc.Dialer{Connect: Connect(c), Config: tcpinc.Config{Clock: clock, InnerSpace: tcpinc.InnerSpaceOn}}
	client, err := d.Dial(t.Context(), netip.Addr{}, service, tcpinc.DialOptions{Policy: tcpinc.Require})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server := <-accepted
	if server == nil {
		t.FailNow()
	}
	defer server.Close()
	option, err := innerspace.AppendOption(nil, 200, []byte("control"))
	if err != nil {
		t.Fatal(err)
	}
	client.Write([]byte("before"))
	if err := client.SendOption(option); err != nil {
		t.Fatal(err)
	}
	client.Write([]byte("after"))
	client.CloseWrite()
	if got, err := io.ReadAll(server); string(got) != "beforeafter" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	n := 0
	for o := range server.Options() {
		n++
		if !bytes.Equal(o.Option, option) || o.Position != uint64(len("before")) {
			t.Errorf("%+v", o)
		}
	}
	if n != 1 {
		t.Errorf("%d options", n)
	}
	plain := tcpinc.Dialer{Connect: Connect(c), Config: tcpinc.Config{Clock: clock}}
	without, err := plain.Dial(t.Context(), netip.Addr{}, service, tcpinc.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer without.Close()
	if err := without.SendOption(option); !errors.Is(err, tcpinc.ErrNoInnerSpace) {
		t.Errorf("without Inner Space: %v", err)
	}
}
