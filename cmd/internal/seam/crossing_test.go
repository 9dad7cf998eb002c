package seam

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"innertun/integration/lab"
	"innertun/stack"
	"innertun/tcpinc"
	"innertun/tcpinc/eno"
)

// kinds of segments, by SYN and ACK.
const (
	onlySYN = lab.SYN
	synACK  = lab.SYN | lab.ACK
	onlyACK = lab.ACK
)

// meddler loses the first n segments of a kind to one end; or hands all of them to another element.
type meddler struct {
	to   lab.End
	kind uint8
	n    int32
	hits atomic.Int32
	then lab.Element
}

func (m *meddler) Packet(p lab.Packet, at lab.Place) {
	s, ok := lab.ParseSegment(p.Data)
	switch {
	case p.To != m.to || !ok || s.Flags()&synACK != m.kind:
		at.Send(p)
	case m.then != nil:
		m.then.Packet(p, at)
	case m.hits.Add(1) > m.n:
		at.Send(p)
	}
}

func stripped(to lab.End, kind uint8) lab.Element {
	return &meddler{to: to, kind: kind, then: lab.NewStripOption(69, lab.All)}
}

// end is one host of a simultaneous open.
type end struct {
	stack    *stack.Stack
	from, to netip.AddrPort
	cfg      tcpinc.Config
	o        tcpinc.DialOptions
}

func (e end) dial(ctx context.Context) (*tcpinc.Conn, error) {
	e.cfg.Clock = clock
	d := tcpinc.Dialer{Connect: Connect(e.stack), Config: e.cfg}
	e.o.LocalPort = e.from.Port()
	return d.Dial(ctx, netip.Addr{}, e.to, e.o)
}

// atOnce dials from both ends at the same time.
func atOnce(t *testing.T, a, b end) (conns [2]*tcpinc.Conn, errs [2]error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	t.Cleanup(cancel)
	var wg sync.WaitGroup
	for i, e := range []end{a, b} {
		wg.Go(func() {
			if conns[i], errs[i] = e.dial(ctx); errs[i] == nil {
				t.Cleanup(func() { conns[i].Close() })
				conns[i].SetDeadline(clock.Now().Add(guard))
			}
		})
	}
	wg.Wait()
	return conns, errs
}

// exchange sends different octets either way and checks that they arrive, to their end.
func exchange(t *testing.T, conns [2]*tcpinc.Conn) {
	t.Helper()
	var wg sync.WaitGroup
	for i, c := range conns {
		wg.Go(func() {
			for n := range 5000 {
				if _, err := fmt.Fprintf(c, "end %d says %d\n", i, n); err != nil {
					t.Errorf("end %d, writing: %v", i, err)
					return
				}
			}
			c.CloseWrite()
		})
		wg.Go(func() {
			got, err := io.ReadAll(c)
			if err != nil {
				t.Errorf("end %d, reading: %v", i, err)
			}
			var want []byte
			for n := range 5000 {
				want = fmt.Appendf(want, "end %d says %d\n", 1-i, n)
			}
			if string(got) != string(want) {
				t.Errorf("end %d: %d octets came, or others than were sent", i, len(got))
			}
		})
	}
	wg.Wait()
}

// Two hosts open a connection to each other at once. With different "b" it is encrypted, in the roles that the bits say;
// with the same it is plain at both ends, or refused by who must encrypt. RFC 8547, Sections 4.3 and 4.6.
func TestSimultaneousOpen(t *testing.T) {
	for _, c := range []struct {
		name   string
		a, b   tcpinc.DialOptions
		off    bool // b without ENO
		path   func() lab.Element
		reason [2]eno.Reason // NoReason: encrypted
	}{
		{name: "roles A and B", b: tcpinc.DialOptions{B: true}},
		{name: "roles B and A", a: tcpinc.DialOptions{B: true}},
		{name: "both require", a: tcpinc.DialOptions{B: true, Policy: tcpinc.Require}, b: tcpinc.DialOptions{Policy: tcpinc.Require}},
		{name: "both A", reason: [2]eno.Reason{eno.RoleConflict, eno.RoleConflict}},
		{name: "both B", a: tcpinc.DialOptions{B: true}, b: tcpinc.DialOptions{B: true},
			reason: [2]eno.Reason{eno.RoleConflict, eno.RoleConflict}},
		{name: "one without ENO", a: tcpinc.DialOptions{B: true}, b: tcpinc.DialOptions{Policy: tcpinc.Off},
			reason: [2]eno.Reason{eno.PeerNoENO, eno.PolicyOff}},
		{name: "A's SYN lost", b: tcpinc.DialOptions{B: true}, path: func() lab.Element { return &meddler{to: lab.B, kind: onlySYN, n: 1} }},
		{name: "B's SYN lost", b: tcpinc.DialOptions{B: true}, path: func() lab.Element { return &meddler{to: lab.A, kind: onlySYN, n: 1} }},
		{name: "A's SYN-ACK lost", b: tcpinc.DialOptions{B: true}, path: func() lab.Element { return &meddler{to: lab.B, kind: synACK, n: 1} }},
		{name: "B's SYN-ACK lost", b: tcpinc.DialOptions{B: true}, path: func() lab.Element { return &meddler{to: lab.A, kind: synACK, n: 1} }},
		{name: "A's data lost", b: tcpinc.DialOptions{B: true}, path: func() lab.Element { return &meddler{to: lab.B, kind: onlyACK, n: 2} }},
		{name: "ENO stripped from A's SYN", b: tcpinc.DialOptions{B: true},
			path:   func() lab.Element { return stripped(lab.B, onlySYN) },
			reason: [2]eno.Reason{eno.PeerNoENO, eno.PeerNoENO}},
	} {
		t.Run(c.name, func(t *testing.T) {
			elements := []lab.Element{lab.Delay(20 * time.Millisecond)}
			if c.path != nil {
				elements = append(elements, c.path())
			}
			client, server := pair(t, elements...)
			from := netip.AddrPortFrom(clientAddr, 5000)
			conns, errs := atOnce(t, end{stack: client, from: from, to: service, o: c.a}, end{stack: server, from: service, to: from, o: c.b})
			if errs != [2]error{} {
				t.Fatal(errs)
			}
			for i, o := range []tcpinc.DialOptions{c.a, c.b} {
				role := eno.RoleA
				if o.B {
					role = eno.RoleB
				}
				s := conns[i].ConnectionState()
				if s.FallbackReason != c.reason[i] || s.Encrypted != (c.reason[i] == eno.NoReason) || s.Encrypted && s.Role != role {
					t.Errorf("end %d: %+v", i, s)
				}
			}
			a, b := conns[0].ConnectionState(), conns[1].ConnectionState()
			if string(a.SessionID) != string(b.SessionID) || string(a.Transcript) != string(b.Transcript) {
				t.Errorf("the ends differ: %+v, %+v", a, b)
			}
			exchange(t, conns)
		})
	}
}

// Who must encrypt refuses a connection whose roles conflict.
func TestSimultaneousOpenRequired(t *testing.T) {
	client, server := pair(t, lab.Delay(20*time.Millisecond))
	from := netip.AddrPortFrom(clientAddr, 5000)
	_, errs := atOnce(t,
		end{stack: client, from: from, to: service, o: tcpinc.DialOptions{Policy: tcpinc.Require}},
		end{stack: server, from: service, to: from, o: tcpinc.DialOptions{Policy: tcpinc.Require}})
	for i, err := range errs {
		var required *tcpinc.RequiredError
		if !errors.As(err, &required) || required.Reason != eno.RoleConflict {
			t.Errorf("end %d: %v", i, err)
		}
	}
}

// ENO is stripped from one SYN-ACK only: the end that gets it falls back, the other must encrypt. No application is given
// what was not meant for it: neither key exchange messages as data, nor data of a connection that is encrypted.
func TestSimultaneousOpenStrippedOneWay(t *testing.T) {
	for _, to := range []lab.End{lab.A, lab.B} {
		t.Run(fmt.Sprint(to), func(t *testing.T) {
			client, server := pair(t, lab.Delay(20*time.Millisecond), stripped(to, synACK))
			from := netip.AddrPortFrom(clientAddr, 5000)
			ends := [2]end{
				{stack: client, from: from, to: service},
				{stack: server, from: service, to: from, o: tcpinc.DialOptions{B: true}},
			}
			plain, must := 0, 1
			if to == lab.B {
				plain, must = 1, 0
			}
			ctx, cancel := context.WithTimeout(t.Context(), guard)
			defer cancel()
			var wg sync.WaitGroup
			wg.Go(func() {
				if c, err := ends[must].dial(ctx); err == nil {
					t.Errorf("the end that must encrypt has a connection: %+v", c.ConnectionState())
					c.Close()
				}
			})
			wg.Go(func() {
				c, err := ends[plain].dial(ctx)
				if err != nil {
					t.Errorf("the end that falls back: %v", err)
					return
				}
				defer c.Close()
				c.Write([]byte("hello"))
				got, err := io.ReadAll(c)
				if len(got) > 0 || err == nil || c.ConnectionState().Encrypted {
					t.Errorf("read %q, %v, %+v", got, err, c.ConnectionState())
				}
			})
			wg.Wait()
		})
	}
}
