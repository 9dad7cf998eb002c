package tcpinc_test

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"innertun/tcpinc"
	"innertun/tcpinc/eno"
)

// A firewall that drops SYNs with ENO: one wait of bounded length, then none for a while.
func TestFirewall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
		defer w.host.close()
		w.path = dropENO
		start := time.Now()
		c, err := w.dial(tcpinc.Opportunistic)
		if took, want := time.Since(start), 3*time.Second+w.rtt+200*time.Millisecond; took != want {
			t.Errorf("took %v, want %v", took, want)
		}
		isPlain(t, c, err, eno.SYNENODropped)
		synctest.Wait()
		sent := w.count(enoSYN)
		time.Sleep(time.Minute) // the dials that lost are over
		if w.count(enoSYN) != sent {
			t.Error("SYNs with ENO after the race")
		}

		start = time.Now()
		c, err = w.dial(tcpinc.Opportunistic)
		if took := time.Since(start); took != w.rtt {
			t.Errorf("the next took %v", took)
		}
		isPlain(t, c, err, eno.Remembered)
		if w.count(enoSYN) != sent {
			t.Error("the next tried ENO")
		}
		c, err = w.d.Dial(t.Context(), netip.Addr{}, server2, tcpinc.DialOptions{})
		isPlain(t, c, err, eno.SYNENODropped) // another destination is another matter
	})
}

func TestFirewallUnderRequire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
		defer w.host.close()
		w.path = dropENO
		c, err := w.dial(tcpinc.Require)
		if c != nil || !errors.Is(err, syscall.ETIMEDOUT) || w.count(plainSYN) != 0 || w.dials() != 1 {
			t.Errorf("%v, %d SYNs without ENO, %d dials", err, w.count(plainSYN), w.dials())
		}
	})
}

// Which connection is kept, by what the network loses.
func TestRaceWinners(t *testing.T) {
	for _, v := range []struct {
		name  string
		path  func(s *segment) bool
		dials int
		took  time.Duration // 0: not looked at
		why   eno.Reason
	}{
		{"the second SYN gets through", func(s *segment) bool { return s.n >= 1 }, 1, time.Second + 20*time.Millisecond, eno.NoReason},
		{"the third one does, at the same time as the plain one", func(s *segment) bool { return s.dial > 0 || s.n >= 2 }, 0, 3*time.Second + 20*time.Millisecond, eno.NoReason},
		{"the third is lost too, the repeated question is answered", func(s *segment) bool { return s.dial > 0 || s.n >= 3 }, 3, 3*time.Second + 40*time.Millisecond, eno.NoReason},
		{"only the second repeated question is answered", func(s *segment) bool { return s.dial == 1 || s.dial == 3 }, 4, 3*time.Second + 140*time.Millisecond, eno.NoReason},
		{"the plain SYN is lost, the third with ENO not", func(s *segment) bool { return s.dial == 0 && s.n >= 2 || s.dial > 0 && s.n >= 1 }, 2, 3*time.Second + 20*time.Millisecond, eno.NoReason},
		{"SYNs with ENO pass again after 7 s, plain ones never", func(s *segment) bool { return s.dial == 0 && s.n >= 3 }, 2, 7*time.Second + 20*time.Millisecond, eno.NoReason},
		{"no SYN with ENO passes, the first plain one is lost", func(s *segment) bool { return s.plain && s.n >= 1 }, 4, 4*time.Second + 20*time.Millisecond + time.Second, eno.SYNENODropped},
	} {
		t.Run(v.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
				defer w.host.close()
				w.path = func(s *segment) bool { return s.kind != tcpinc.SYN || v.path(s) }
				start := time.Now()
				c, err := w.dial(tcpinc.Opportunistic)
				if took := time.Since(start); v.took != 0 && took != v.took {
					t.Errorf("took %v, want %v", took, v.took)
				}
				if v.why == eno.NoReason {
					isEncrypted(t, c, err)
				} else {
					isPlain(t, c, err, v.why)
				}
				if v.dials != 0 && w.dials() != v.dials {
					t.Errorf("%d dials, want %d", w.dials(), v.dials)
				}
				// Of the connections that lost, the server's application got nothing but a reset.
				time.Sleep(time.Minute)
				w.host.mu.Lock()
				defer w.host.mu.Unlock()
				for i, b := range w.host.read {
					if len(b) == 0 && !errors.Is(w.host.errs[i], syscall.ECONNRESET) {
						t.Errorf("a connection that lost ended in %v", w.host.errs[i])
					}
				}
				if got, want := w.d.Paths.Failed(server, time.Now()), v.why; got != want {
					t.Errorf("remembered %v, want %v", got, want)
				}
			})
		})
	}
}

// The peer answers late, but with ENO missing: that connection is as good as the plain one, and no path has failed.
func TestRaceLegacyServerUnderLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
		defer w.host.close()
		w.passive = nil
		w.path = func(s *segment) bool { return s.dial > 1 || s.kind != tcpinc.SYN || s.plain }
		c, err := w.dial(tcpinc.Opportunistic)
		isPlain(t, c, err, eno.PeerNoENO)
		if w.d.Paths.Len() != 0 {
			t.Error("remembered as a failed path")
		}
	})
}

func TestRaceErrors(t *testing.T) {
	for _, v := range []struct {
		name   string
		refuse func(dial int) error
		path   func(s *segment) bool
		want   syscall.Errno
		took   time.Duration
	}{
		{"refused once ENO is left out", func(int) error { return syscall.ECONNREFUSED }, dropENO, syscall.ECONNREFUSED, 3*time.Second + 220*time.Millisecond},
		{"nobody answers", nil, func(*segment) bool { return false }, syscall.ETIMEDOUT, 34 * time.Second},
		{"refused with ENO while the plain one waits", func(dial int) error {
			if dial == 0 {
				return syscall.ECONNREFUSED
			}
			return nil
		}, func(s *segment) bool { return s.dial == 0 && s.n >= 2 }, syscall.ETIMEDOUT, 34 * time.Second},
	} {
		t.Run(v.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(tcpinc.Config{})
				n.refuse, n.path = v.refuse, v.path
				d := &tcpinc.Dialer{Connect: n.connect, Paths: &tcpinc.PathMemory{}}
				start := time.Now()
				c, err := d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{})
				if took := time.Since(start); c != nil || !errors.Is(err, v.want) || took != v.took {
					t.Errorf("%v after %v, want %v after %v", err, took, v.want, v.took)
				}
				if d.Paths.Len() != 0 {
					t.Error("remembered as a failed path")
				}
			})
		})
	}
}

// Refused with ENO, once the plain dial is under way, is not the last word.
func TestRaceRefusedWithENOOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
		defer w.host.close()
		w.refuse = func(dial int) error {
			if dial == 0 {
				return syscall.ECONNREFUSED
			}
			return nil
		}
		w.path = func(s *segment) bool { return s.dial == 0 && s.n >= 2 || s.plain && s.n >= 1 }
		c, err := w.dial(tcpinc.Opportunistic)
		isPlain(t, c, err, eno.SYNENODropped)
	})
}

// Wherever in the race the caller gives up, nothing stays behind: synctest fails on goroutines that do.
func TestRaceCancelled(t *testing.T) {
	for _, at := range []time.Duration{0, 10 * time.Millisecond, time.Second, 3010 * time.Millisecond, 3100 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
			defer w.host.close()
			w.path = dropENO
			ctx, cancel := context.WithTimeout(t.Context(), at)
			defer cancel()
			start := time.Now()
			c, err := w.d.Dial(ctx, netip.Addr{}, server, tcpinc.DialOptions{})
			if c != nil || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != at {
				t.Errorf("cancelled at %v: %v after %v", at, err, time.Since(start))
			}
			synctest.Wait()
			if got := w.host.octets(); got != 0 {
				t.Errorf("%d octets reached the server", got)
			}
		})
	}
}
