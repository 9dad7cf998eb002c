package seam

import (
	"net/netip"
	"testing"
	"time"

	"innertun/integration/lab"
	"innertun/stack"
	"innertun/stack/link"
	"innertun/tcpinc"
)

// attackedCookie is attackedConn with a server so flooded that the connection came up by an echo cookie.
func attackedCookie(t *testing.T, mode tcpinc.ResetMode) attacked {
	t.Helper()
	syn := upgradedSYN(t)
	f := &lab.Flood{Rate: 50, SYN: func(int) ([]byte, []byte) { return []byte{2, 4, 5, 180}, syn }}
	f.Target, f.Sources = service, netip.MustParsePrefix("198.19.0.0/16")
	x := attacked{attacker: new(attacker), log: new(lines)}
	path := lab.NewPath(pathTime(clock), x.attacker, f, lab.Delay(time.Millisecond))
	a, b := link.NewWire(1500, path.From(lab.A)), link.NewWire(1500, path.From(lab.B))
	path.Connect(a.Inject, b.Inject)
	t.Cleanup(path.Close)
	x.client = wiredStack(t, a, clientAddr, stack.Config{})
	x.server = wiredStack(t, b, serverAddr, stack.Config{MaxHalfOpen: 1})
	server := innerServer
	server.Config.RST = mode
	serve(t, x.server, server)
	d := &tcpinc.Dialer{Connect: Connect(x.client), Paths: new(tcpinc.PathMemory), Config: tcpinc.Config{Clock: clock, InnerSpace: tcpinc.InnerSpaceAuto, RST: mode}}
	if _, err := exchangeText(d, tcpinc.Require, tcpinc.DialOptions{}); err != nil { // to know the server
		t.Fatal(err)
	}
	f.Start()
	t.Cleanup(f.Stop)
	exchangeText(d, tcpinc.Require, tcpinc.DialOptions{})
	eventually(t, 10*time.Second, "the server is crowded", func() bool { return x.server.Stats().Fleeting > 5 })
	c, err := d.Dial(t.Context(), netip.Addr{}, service, tcpinc.DialOptions{Policy: tcpinc.Require})
	if err != nil {
		t.Fatal(err)
	}
	f.Stop()
	t.Cleanup(func() { c.Close() })
	x.mu.Lock()
	x.last = [2][]byte{} // of other connections
	x.mu.Unlock()
	if s := c.ConnectionState(); !s.InnerSpace {
		t.Fatalf("%+v", s)
	}
	x.conn = c
	x.talk(t)
	return x
}

// A connection that came up by an echo cookie judges RSTs as any other does, at both ends.
func TestForgedResetAfterCookie(t *testing.T) {
	for _, mode := range []tcpinc.ResetMode{tcpinc.VerifyResets, tcpinc.AuthenticateResets} {
		t.Run(mode.String(), func(t *testing.T) {
			x := attackedCookie(t, mode)
			before := x.server.Stats()
			for _, to := range []lab.End{lab.B, lab.A} {
				x.forge(to, lab.RST, exact)
			}
			x.talk(t)
			eventually(t, 5*time.Second, "judged", func() bool {
				return x.server.Stats().ResetsHeld > before.ResetsHeld && x.conn.ConnectionState().ResetsRefused == 1
			})
			x.talk(t)
			if s := x.server.Stats(); s.ResetsTaken != before.ResetsTaken {
				t.Errorf("%+v, before %+v", s, before)
			}
			sleep(50 * time.Millisecond) // for what is under way: TCP answers what comes after the end by a RST of its own
			open := x.serverOpen()
			rsts, macs := x.seen(lab.B)
			held := x.server.Stats().ResetsHeld
			x.conn.Abort()
			eventually(t, 10*time.Second, "the server's connection ends", func() bool { return x.serverOpen() < open })
			if mode != tcpinc.AuthenticateResets {
				return
			}
			after, signed := x.seen(lab.B)
			if now := x.server.Stats().ResetsHeld; now != held || signed-macs != 1 || after-rsts != 1 {
				t.Errorf("%d RSTs, %d signed; %d were held, %d before", after-rsts, signed-macs, now, held)
			}
		})
	}
}

// The server of such a connection signs its own RSTs too.
func TestSignedResetAfterCookie(t *testing.T) {
	x := attackedCookie(t, tcpinc.AuthenticateResets)
	x.server.Close()
	eventually(t, 5*time.Second, "a signed RST has come", func() bool {
		_, macs := x.seen(lab.A)
		return macs > 0
	})
	if _, err := x.conn.Read(make([]byte, 1)); err == nil {
		t.Error("it goes on")
	}
	if s := x.client.Stats(); s.ResetsHeld != 0 || s.ResetsReceived == 0 {
		t.Errorf("%+v", s)
	}
}
