package tcpinc_test

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"innertun/tcpinc"
	"innertun/tcpinc/eno"
)

// dialFrom dials from a port of the caller's, and checks that every connection tried was from there.
func (w *world) dialFrom(t *testing.T, port uint16, o tcpinc.DialOptions) (*tcpinc.Conn, error) {
	connect := w.d.Connect
	w.d.Connect = func(ctx context.Context, local, remote netip.AddrPort, h *tcpinc.Handshake) (tcpinc.Transport, error) {
		if local.Port() != port {
			t.Errorf("a connection from port %d, want %d", local.Port(), port)
		}
		return connect(ctx, local, remote, h)
	}
	o.LocalPort = port
	return w.d.Dial(context.Background(), netip.Addr{}, server, o)
}

// From a given port there is one connection only: instead of trying another beside it, its later SYNs do without ENO.
func TestDialLocalPort(t *testing.T) {
	lossOf := func(syns int) func(*segment) bool {
		return func(s *segment) bool { return s.kind != tcpinc.SYN || s.n < syns }
	}
	keeps := func(first int) func(*segment) bool {
		return func(s *segment) bool { return s.kind != tcpinc.SYN || s.n >= first }
	}
	withENO := func(s *segment) bool { return s.kind != tcpinc.SYN || len(s.options) == 0 }
	for _, c := range []struct {
		name   string
		policy tcpinc.Policy
		delay  time.Duration
		path   func(*segment) bool
		plain  eno.Reason // NoReason: encrypted
	}{
		{"good path", tcpinc.Opportunistic, 0, lossOf(9), eno.NoReason},
		{"one SYN lost", tcpinc.Opportunistic, 0, keeps(1), eno.NoReason},
		{"SYNs with ENO are dropped", tcpinc.Opportunistic, 0, withENO, eno.SYNENODropped},
		{"two SYNs lost under require", tcpinc.Require, 0, keeps(2), eno.NoReason},
		{"two SYNs lost, and patience", tcpinc.Opportunistic, 8 * time.Second, keeps(2), eno.NoReason},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
				defer w.host.close()
				w.path = c.path
				w.d.FallbackDelay = c.delay
				conn, err := w.dialFrom(t, 4711, tcpinc.DialOptions{Policy: c.policy})
				if c.plain == eno.NoReason {
					isEncrypted(t, conn, err)
				} else {
					isPlain(t, conn, err, c.plain)
				}
				if n := w.dials(); n != 1 {
					t.Errorf("%d connections were tried", n)
				}
			})
		})
	}
}

// A vacuous option says that ENO is known and switched off: whichever host sends it, the connection is plain, and the
// passive opener answers with an option only if it got one. RFC 8547, Section 4.6.
func TestVacuousOption(t *testing.T) {
	for _, c := range []struct {
		name           string
		client, server tcpinc.Config
		syn, synAck    string
	}{
		{"client", tcpinc.Config{Vacuous: true}, tcpinc.Config{}, "\x45\x02", ""},
		{"server", tcpinc.Config{}, tcpinc.Config{Vacuous: true}, "*", "\x45\x03\x01"},
		{"both", tcpinc.Config{Vacuous: true}, tcpinc.Config{Vacuous: true}, "\x45\x02", "\x45\x03\x01"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, c.client, c.server, tcpinc.Opportunistic)
				defer w.host.close()
				conn, err := w.dial(tcpinc.Opportunistic)
				if err != nil || conn.ConnectionState().Encrypted {
					t.Fatalf("%v, %v", conn, err)
				}
				echo(t, conn)
				want := map[tcpinc.Segment]string{tcpinc.SYN: c.syn, tcpinc.SYNACK: c.synAck, tcpinc.NonSYN: ""}
				for _, s := range w.sent {
					if want := want[s.kind]; want != "*" && string(s.options) != want {
						t.Errorf("%v with %x, want %x", s.kind, s.options, want)
					}
				}
			})
		})
	}
}
