package tcpinc_test

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"innertun/tcpinc"
	"innertun/tcpinc/eno"
)

// A box refuses SYNs with ENO, by RST or by ICMP: the connection is plain, and the next one is at once. RFC 8547,
// Section 4.6, lets SYNs be sent without ENO after a failure.
func TestRefusedForENO(t *testing.T) {
	for _, how := range []syscall.Errno{syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.EACCES} {
		for _, port := range []uint16{0, 4000} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
				defer w.host.close()
				w.refuseENO = how
				start := time.Now()
				dial := func() (*tcpinc.Conn, error) {
					return w.d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{LocalPort: port})
				}
				c, err := dial()
				trips := time.Duration(3) // refused, open, and refused once more for certainty
				if port != 0 {
					trips = 2
				}
				if took := time.Since(start); took != trips*w.rtt {
					t.Errorf("%v, port %d: took %v, want %v", how, port, took, trips*w.rtt)
				}
				isPlain(t, c, err, eno.SYNENODropped)
				if why := w.d.Paths.Failed(server, time.Now()); why != eno.SYNENODropped {
					t.Errorf("remembered %v", why)
				}
				start = time.Now()
				c, err = dial()
				isPlain(t, c, err, eno.Remembered)
				if took := time.Since(start); took != w.rtt {
					t.Errorf("the next took %v", took)
				}
			})
		}
	}
}

// Refused once by chance, as by a server that is being started: encryption is not lost to that.
func TestRefusedByChance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
		defer w.host.close()
		w.refuse = func(dial int) error {
			if dial == 0 {
				return syscall.ECONNREFUSED
			}
			return nil
		}
		c, err := w.dial(tcpinc.Opportunistic)
		isEncrypted(t, c, err)
		if why := w.d.Paths.Failed(server, time.Now()); why != eno.NoReason || w.dials() != 3 {
			t.Errorf("remembered %v, %d dials", why, w.dials())
		}
	})
}

// Where encryption is required no SYN leaves without ENO, and one refusal is enough.
func TestRefusedUnderRequire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
		defer w.host.close()
		w.refuseENO = syscall.ECONNREFUSED
		c, err := w.dial(tcpinc.Require)
		if c != nil || !errors.Is(err, syscall.ECONNREFUSED) || w.dials() != 1 || w.count(plainSYN) != 0 {
			t.Errorf("%v after %d dials, %d SYNs without ENO", err, w.dials(), w.count(plainSYN))
		}
	})
}
