package tcpinc_test

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"innertun/tcpinc"
	"innertun/tcpinc/tcpcrypt"
)

// Options altered on the way so that the negotiation still succeeds: not an octet gets across, and neither end takes that
// for a clean end. RFC 8547, Section 4.8.
func TestAlteredOptions(t *testing.T) {
	for _, v := range []struct {
		name string
		kind tcpinc.Segment
		to   []byte
	}{
		{"the preferred TEP taken out", tcpinc.SYN, []byte{69, 3, 0x21}},
		{"a TEP added", tcpinc.SYN, []byte{69, 5, 0x22, 0x21, 0x23}},
		{"another order", tcpinc.SYN, []byte{69, 4, 0x23, 0x21}},
		{"a = 1 from A", tcpinc.SYN, []byte{69, 5, 0x02, 0x21, 0x23}},
		{"an explicit global suboption", tcpinc.SYN, []byte{69, 5, 0x00, 0x21, 0x23}},
		{"a = 1 from B", tcpinc.SYNACK, []byte{69, 4, 0x03, 0x23}},
		{"a reserved bit from B", tcpinc.SYNACK, []byte{69, 4, 0x11, 0x23}},
		{"a TEP that A did not offer", tcpinc.SYNACK, []byte{69, 5, 0x01, 0x24, 0x23}},
	} {
		t.Run(v.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
				defer w.host.close()
				w.path = func(s *segment) bool {
					if s.kind == v.kind {
						s.options = slices.Clone(v.to)
					}
					return true
				}
				c, err := w.dial(tcpinc.Opportunistic)
				if err != nil || !c.ConnectionState().Encrypted {
					t.Fatalf("%v: the test shows nothing", err)
				}
				defer c.Close()
				c.Write([]byte("secret"))
				if got, err := io.ReadAll(c); len(got) != 0 || err == nil {
					t.Errorf("read %q, %v", got, err)
				}
				synctest.Wait()
				w.host.mu.Lock()
				defer w.host.mu.Unlock()
				if len(w.host.read) != 1 || len(w.host.read[0]) != 0 || !errors.Is(w.host.errs[0], tcpcrypt.ErrIntegrity) {
					t.Errorf("the server read %q, %v", w.host.read, w.host.errs)
				}
			})
		})
	}
}

// No two connections between the same hosts have one session ID. RFC 8547, Section 5.1.
func TestSessionIDsDiffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
		defer w.host.close()
		var ids [][]byte
		for range 5 {
			c, err := w.dial(tcpinc.Require)
			s := isEncrypted(t, c, err)
			if s.SessionID[0] != byte(s.TEP) || slices.ContainsFunc(ids, func(id []byte) bool { return bytes.Equal(id, s.SessionID) }) {
				t.Errorf("session ID %x, TEP %v", s.SessionID, s.TEP)
			}
			ids = append(ids, s.SessionID)
		}
	})
}

// An Init1 that trickles in holds a handshake no longer than silence does.
func TestListenerTrickledInit1(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failed failures
		n := newNetwork(tcpinc.Config{})
		s := serve(n.listen(t, tcpinc.ListenConfig{Failed: failed.add}), "")
		defer s.close()
		c := n.open(t, false)
		start := time.Now()
		init1 := tcpcrypt.AppendInit1(nil, tcpcrypt.Init1{Ciphers: tcpcrypt.Ciphers(), Public: make([]byte, 32)})
		for _, octet := range init1 {
			if _, err := c.Write([]byte{octet}); err != nil {
				break
			}
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if len(failed.errs) != 1 || !errors.Is(failed.errs[0], tcpinc.ErrNoAnswer) || failed.at[0].Sub(start) != 30*time.Second {
			t.Errorf("%v at %v", failed.errs, failed.at)
		}
	})
}

// Both ends log the same keys, under the same names for hosts A and B.
func TestKeyLogNamesHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var atA, atB []tcpinc.KeyLogEntry
		w := newWorld(t, tcpinc.Config{KeyLog: func(e tcpinc.KeyLogEntry) { atA = append(atA, e) }},
			tcpinc.Config{KeyLog: func(e tcpinc.KeyLogEntry) { atB = append(atB, e) }}, tcpinc.Opportunistic)
		defer w.host.close()
		c, err := w.dial(tcpinc.Require)
		isEncrypted(t, c, err)
		synctest.Wait()
		if len(atA) != 1 || len(atB) != 1 {
			t.Fatalf("%d and %d entries", len(atA), len(atB))
		}
		a, b := atA[0], atB[0]
		if a.HostA.String() != "a" || b.HostA.String() != "a" || a.HostB.String() != "b" || b.HostB.String() != "b" ||
			!bytes.Equal(a.KAB, b.KAB) || !bytes.Equal(a.KBA, b.KBA) || !bytes.Equal(a.SessionID, b.SessionID) {
			t.Errorf("at A %+v, at B %+v", a, b)
		}
	})
}

// A configured limit of the key exchange holds for a Dialer too, and a repeated SYN-ACK makes no longer RTT.
func TestDialHandshakeTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(tcpinc.Config{})
		d := &tcpinc.Dialer{Connect: n.connect, Config: tcpinc.Config{HandshakeTimeout: time.Second}}
		start := time.Now()
		_, err := d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{Policy: tcpinc.Require})
		if took := time.Since(start); !errors.Is(err, tcpinc.ErrNoAnswer) || took != time.Second+n.rtt {
			t.Errorf("%v after %v", err, took)
		}

		h, err := (tcpinc.Config{}).NewActive()
		if err != nil {
			t.Fatal(err)
		}
		h.AppendOptions(nil, tcpinc.SYN, 20)
		for range 3 {
			time.Sleep(time.Second)
			h.Receive(tcpinc.SYNACK, []byte{69, 4, 0x01, 0x23}, nil)
		}
		if h.RTT() != time.Second {
			t.Errorf("RTT %v", h.RTT())
		}
	})
}
