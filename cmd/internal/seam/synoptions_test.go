package seam

import (
	"io"
	"net/netip"
	"testing"

	"innertun/stack"
	"innertun/tcpinc"
	"innertun/tcpinc/eno"
	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt"
)

// Options of the SYN and SYN-ACK that nobody here deals with are counted, and shown as what nothing vouches for.
func TestOptionsOfSYNs(t *testing.T) {
	own := func(kind byte) tcpinc.OwnOptions {
		outer, err := innerspace.AppendOuter(nil, innerspace.Option{28, 4, kind, 0})
		if err != nil {
			t.Fatal(err)
		}
		return tcpinc.OwnOptions{Prefix: []byte{kind, 3, 1}, Suffix: append([]byte{kind + 1, 2}, outer...)}
	}
	for _, common := range []bool{true, false} { // a TEP
		client, server := pair(t)
		cfg := innerServer
		cfg.Config.Own = own(200)
		d := tcpinc.Dialer{Connect: Connect(client), Paths: new(tcpinc.PathMemory), Config: tcpinc.Config{Clock: clock, InnerSpace: tcpinc.InnerSpaceOn, Own: own(100)}}
		if !common {
			cfg.Config.TEPs, d.Config.TEPs = []eno.TEP{tcpcrypt.P521}, []eno.TEP{tcpcrypt.Curve448}
		}
		accepted := acceptedBy(t, server, cfg)
		c, err := d.Dial(t.Context(), netip.Addr{}, service, tcpinc.DialOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Write([]byte("x"))
		s := <-accepted
		defer s.Close()
		io.ReadFull(s, make([]byte, 1))
		for _, x := range []struct {
			conn *tcpinc.Conn
			kind byte
		}{{c, 200}, {s, 100}} {
			var got []byte
			for r := range x.conn.Options() {
				if !r.SYN || r.Position != 0 {
					t.Errorf("%+v", r)
				}
				if o, ok := r.Outer(); ok {
					got = append(got, o...)
				} else {
					got = append(got, r.Option...)
				}
			}
			if want := []byte{x.kind, 3, 1, x.kind + 1, 2, 28, 4, x.kind, 0}; string(got) != string(want) {
				t.Errorf("options % x, want % x", got, want)
			}
			if st := x.conn.ConnectionState().Options; st.Unknown != 2 || st.OptionsReceived < 3 {
				t.Errorf("%+v", st)
			}
		}
		c.SendOption(innerspace.Option{77, 2})
		c.Write([]byte("x"))
		io.ReadFull(s, make([]byte, 1))
		for r := range s.Options() {
			if r.SYN {
				t.Errorf("in the stream: %+v", r)
			}
		}
	}
}

// acceptedBy serves, and hands on what is accepted.
func acceptedBy(t *testing.T, s *stack.Stack, cfg tcpinc.ListenConfig) <-chan *tcpinc.Conn {
	t.Helper()
	l, err := listener(s, service, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	out := make(chan *tcpinc.Conn, 1)
	go func() {
		for {
			c, err := l.AcceptConn()
			if err != nil {
				return
			}
			out <- c
		}
	}()
	return out
}
