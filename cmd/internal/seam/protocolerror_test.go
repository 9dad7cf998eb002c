package seam

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"innertun/integration/lab"
	"innertun/tcpinc"
	"innertun/tcpinc/innerspace"
)

// malformed is an option of the registry with contents that are none.
func malformed(t *testing.T) innerspace.Option {
	t.Helper()
	o, err := innerspace.AppendExperiment(nil, innerspace.ExIDMTU, []byte{1})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// Whoever breaks the protocol is told so before the RST, whatever is under way.
func TestProtocolErrorIsTold(t *testing.T) {
	for _, busy := range []bool{false, true} {
		bothOpenings(t, func(t *testing.T, upgraded bool) {
			x := connected(t, upgraded, tcpinc.Config{Clock: clock}, tcpinc.Config{Clock: clock}, lab.Delay(5*time.Millisecond))
			if busy {
				go func() {
					for b := make([]byte, 1<<10); ; sleep(time.Millisecond) {
						if _, err := x.server.Write(b); err != nil {
							return
						}
					}
				}()
			}
			x.client.SendOption(malformed(t))
			x.client.Write([]byte("x"))
			served := make(chan error, 1)
			go func() {
				_, err := x.server.Read(make([]byte, 1))
				x.server.Abort()
				served <- err
			}()
			_, err := io.Copy(io.Discard, x.client)
			var closed *tcpinc.CloseError
			if !errors.As(err, &closed) || closed.Reason.Code != innerspace.CloseProtocol || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("busy %v: the client: %v", busy, err)
			}
			if err := <-served; !errors.Is(err, innerspace.ErrBody) {
				t.Errorf("the server: %v", err)
			}
			if _, err := x.server.Write([]byte("x")); !errors.Is(err, innerspace.ErrBody) {
				t.Errorf("the server writes: %v", err)
			}
		})
	}
}

// A Listener that is closed says so to those whom nobody has accepted yet.
func TestListenerCloseIsTold(t *testing.T) {
	client, server := pair(t, lab.Delay(2*time.Millisecond))
	l, err := listener(server, service, innerServer)
	if err != nil {
		t.Fatal(err)
	}
	d := tcpinc.Dialer{Connect: Connect(client), Paths: new(tcpinc.PathMemory), Config: tcpinc.Config{Clock: clock, InnerSpace: tcpinc.InnerSpaceAuto}}
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	defer cancel()
	c, err := d.Dial(ctx, netip.Addr{}, service, tcpinc.DialOptions{Policy: tcpinc.Require})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	closed := make(chan struct{})
	go func() { l.Close(); close(closed) }()
	_, err = c.Read(make([]byte, 1))
	var told *tcpinc.CloseError
	if !errors.As(err, &told) || told.Reason.Code != innerspace.CloseShutdown {
		t.Errorf("%v", err)
	}
	select {
	case <-closed:
	case <-after(10 * time.Second):
		t.Error("the Listener is not closed")
	}
}

// severed is a path on which nothing passes any more once it is cut.
type severed struct{ cut atomic.Bool }

func (s *severed) Packet(p lab.Packet, at lab.Place) {
	if !s.cut.Load() {
		at.Send(p)
	}
}

// A Listener that is closed waits for no peer for long, however many have not been accepted.
func TestListenerCloseIsBounded(t *testing.T) {
	path := new(severed)
	client, server := pair(t, path, lab.Delay(2*time.Millisecond))
	l, err := listener(server, service, innerServer)
	if err != nil {
		t.Fatal(err)
	}
	d := tcpinc.Dialer{Connect: Connect(client), Paths: new(tcpinc.PathMemory), Config: tcpinc.Config{Clock: clock, InnerSpace: tcpinc.InnerSpaceAuto}}
	for range 4 {
		ctx, cancel := context.WithTimeout(t.Context(), guard)
		defer cancel()
		c, err := d.Dial(ctx, netip.Addr{}, service, tcpinc.DialOptions{Policy: tcpinc.Require})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Abort()
	}
	path.cut.Store(true)
	start := clock.Now()
	l.Close()
	if took := since(start); took > 1500*time.Millisecond {
		t.Errorf("it took %v", took)
	}
}
