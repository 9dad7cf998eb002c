package tcpinc_test

import (
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"innertun/tcpinc"
	"innertun/tcpinc/eno"
)

// setPath changes the path under the feet of what is still under way.
func (n *network) setPath(path func(*segment) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.path = path
}

// Ratchet falls back as Opportunistic does until it has seen encryption, and never again then, whatever the path does.
func TestRatchet(t *testing.T) {
	for _, v := range []struct {
		name string
		path func(*segment) bool
		why  eno.Reason // before the first success
		err  eno.Reason // after it; NoReason: no answer
	}{
		{"stripped from SYNs", stripSYNs, eno.PeerNoENO, eno.PeerNoENO},
		{"stripped from non-SYNs", stripNonSYN, eno.Stripped, eno.Stripped},
		{"dropped", dropENO, eno.SYNENODropped, eno.NoReason},
	} {
		t.Run(v.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
				defer w.host.close()
				w.path = v.path
				c, err := w.dial(tcpinc.Ratchet)
				isPlain(t, c, err, v.why)
				if w.d.Downgrades() != 0 || c.ConnectionState().Downgraded {
					t.Error("a downgrade of what never was")
				}
				w.setPath(func(*segment) bool { return true })
				time.Sleep(tcpinc.DefaultPathTTL)
				c, err = w.dial(tcpinc.Ratchet)
				isEncrypted(t, c, err)

				w.setPath(v.path)
				synctest.Wait()
				plain, before := w.count(plainSYN), w.host.octets()
				for i := range 3 {
					time.Sleep(2 * tcpinc.DefaultSuccessTTL) // this is for good
					c, err = w.dial(tcpinc.Ratchet)
					if c != nil || err == nil {
						t.Fatalf("dial %d: %v", i, err)
					}
					var required *tcpinc.RequiredError
					if v.err != eno.NoReason {
						if isRequired(t, err, v.err); !errors.As(err, &required) || !required.Downgraded {
							t.Errorf("%v is not called a downgrade", err)
						}
					} else if !errors.Is(err, syscall.ETIMEDOUT) {
						t.Error(err)
					}
				}
				if w.count(plainSYN) != plain || w.host.octets() != before {
					t.Errorf("%d SYNs without ENO, %d octets", w.count(plainSYN)-plain, w.host.octets()-before)
				}
				want := uint64(3)
				if v.err == eno.NoReason {
					want = 0 // nobody knows that it is there
				}
				if w.d.Downgrades() != want || strings.Count(w.log.String(), "downgrade:") != int(min(want, 1)) {
					t.Errorf("%d downgrades, log %s", w.d.Downgrades(), w.log)
				}
				w.d.Paths.FlushDestination(server)
				c, err = w.dial(tcpinc.Ratchet)
				isPlain(t, c, err, v.why)
			})
		})
	}
}

// A connection that was on its way to plain TCP when another one had its first success.
func TestRatchetMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
		defer w.host.close()
		w.path = func(s *segment) bool { return s.dial == 1 || dropENO(s) }
		slow := make(chan error)
		go func() {
			c, err := w.dial(tcpinc.Ratchet)
			if c != nil {
				c.Abort()
			}
			slow <- err
		}()
		time.Sleep(time.Second)
		c, err := w.dial(tcpinc.Ratchet)
		isEncrypted(t, c, err)
		isRequired(t, <-slow, eno.SYNENODropped)
	})
}

// A downgrade shows on the connection, under every policy that looks for encryption.
func TestDowngraded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
		defer w.host.close()
		c, err := w.dial(tcpinc.Opportunistic)
		if isEncrypted(t, c, err).Downgraded {
			t.Error("encrypted, and downgraded")
		}
		w.path = stripSYNs
		c, err = w.dial(tcpinc.Opportunistic)
		if isPlain(t, c, err, eno.PeerNoENO); !c.ConnectionState().Downgraded {
			t.Error("not marked")
		}
		c, err = w.dial(tcpinc.Off)
		if isPlain(t, c, err, eno.PolicyOff); c.ConnectionState().Downgraded {
			t.Error("plain by choice is no downgrade")
		}
		for _, p := range []tcpinc.Policy{tcpinc.Require, tcpinc.Ratchet} {
			_, err = w.dial(p)
			if isRequired(t, err, eno.PeerNoENO); !strings.Contains(err.Error(), "though the destination had it before") {
				t.Errorf("%v: %v", p, err)
			}
		}
		if w.d.Downgrades() != 3 || strings.Count(w.log.String(), "downgrade:") != 1 {
			t.Errorf("%d downgrades, log %s", w.d.Downgrades(), w.log)
		}
	})
}

// The fault of a network costs a wait for the first destinations only, and on that network only.
func TestNetworkFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
		defer w.host.close()
		here := "cafe"
		w.d.Paths.Network = func(netip.Addr) string { return here }
		w.path = dropENO
		dial := func(n byte, want eno.Reason, quick bool) {
			t.Helper()
			start := time.Now()
			c, err := w.d.Dial(t.Context(), netip.Addr{}, netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, 0, n}), 80), tcpinc.DialOptions{})
			took := time.Since(start)
			if isPlain(t, c, err, want); (took == w.rtt) != quick {
				t.Errorf("destination %d took %v", n, took)
			}
		}
		dial(1, eno.SYNENODropped, false)
		dial(2, eno.SYNENODropped, false)
		dial(3, eno.Remembered, true)
		dial(4, eno.Remembered, true)
		if strings.Count(w.log.String(), "network=cafe") != 1 {
			t.Errorf("log %s", w.log)
		}
		here = "home"
		dial(5, eno.SYNENODropped, false) // it has the same firewall, but that is not known
		here = "cafe"
		time.Sleep(tcpinc.DefaultPathTTL)
		dial(6, eno.SYNENODropped, false) // one finds out for all
		dial(7, eno.Remembered, true)

		w.setPath(func(*segment) bool { return true }) // healed
		dial(8, eno.Remembered, true)
		w.d.Paths.Flush()
		c, err := w.dial(tcpinc.Opportunistic)
		isEncrypted(t, c, err)
	})
}

// A server without ENO that answers shows that the network does not drop SYNs with it.
func TestNetworkNotAtFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
		defer w.host.close()
		for n, want := range []eno.Reason{eno.SYNENODropped, eno.PeerNoENO, eno.SYNENODropped, eno.PeerNoENO} {
			w.setPath(dropENO)
			if want == eno.PeerNoENO {
				w.setPath(stripSYNs)
			}
			to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, 0, byte(n)}), 80)
			c, err := w.d.Dial(t.Context(), netip.Addr{}, to, tcpinc.DialOptions{})
			isPlain(t, c, err, want)
		}
	})
}

func TestRatchetNeedsMemory(t *testing.T) {
	n := newNetwork(tcpinc.Config{})
	d := &tcpinc.Dialer{Connect: n.connect}
	if c, err := d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{Policy: tcpinc.Ratchet}); c != nil || !errors.Is(err, tcpinc.ErrNoMemory) {
		t.Errorf("%v", err)
	}
	if _, err := tcpinc.Listen(tcpinc.ListenConfig{Policy: tcpinc.Ratchet}); !errors.Is(err, tcpinc.ErrNoDestination) {
		t.Errorf("%v", err)
	}
}
