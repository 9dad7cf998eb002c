package tcpinc_test

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"innertun/tcpinc"
	"innertun/tcpinc/eno"
)

// fastClock is a clock on which ten times as much time passes.
type fastClock struct{ start time.Time }

func (c fastClock) Now() time.Time { return c.start.Add(10 * time.Since(c.start)) }
func (c fastClock) AfterFunc(d time.Duration, f func()) func() bool {
	return time.AfterFunc(d/10, f).Stop
}

// All that a Dialer waits for, it waits for by its own clock.
func TestDialerClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(tcpinc.Config{})
		clock := fastClock{time.Now()}
		d := &tcpinc.Dialer{Connect: n.connect, Config: tcpinc.Config{Clock: clock}, Paths: &tcpinc.PathMemory{}}
		start := time.Now()
		_, err := d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{Policy: tcpinc.Require})
		if took := time.Since(start); !errors.Is(err, tcpinc.ErrNoAnswer) || took != 320*time.Millisecond {
			t.Errorf("%v after %v", err, took)
		}

		n.path = dropENO
		start = time.Now()
		c, err := d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{})
		if err != nil || c.ConnectionState().FallbackReason != eno.SYNENODropped {
			t.Fatal(err)
		}
		if took, want := time.Since(start), 300*time.Millisecond+3*n.rtt; took != want || c.ConnectionState().HandshakeTime != 10*want {
			t.Errorf("took %v, want %v; handshake time %v", took, want, c.ConnectionState().HandshakeTime)
		}
		time.Sleep(tcpinc.DefaultPathTTL / 10)
		if got := d.Paths.Failed(server, clock.Now()); got != eno.NoReason {
			t.Errorf("still remembered: %v", got)
		}
	})
}
