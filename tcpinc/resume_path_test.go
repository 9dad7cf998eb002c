package tcpinc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"innertun/tcpinc"
	"innertun/tcpinc/tcpcrypt"
)

// Retransmitted SYNs and SYN-ACKs are octet for octet the same, and use one secret.
func TestResumeWithLostSegments(t *testing.T) {
	for name, lost := range map[string]func(s *segment) bool{
		"SYN":     func(s *segment) bool { return s.kind == tcpinc.SYN && s.n == 0 },
		"SYN-ACK": func(s *segment) bool { return s.kind == tcpinc.SYNACK && s.n == 0 },
	} {
		synctest.Test(t, func(t *testing.T) {
			w := resumeWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
			w.expect(t, "first", false)
			w.sent = nil
			w.path = func(s *segment) bool { return !lost(s) }
			w.expect(t, name, true)
			var syns [][]byte
			for _, s := range w.sent {
				if s.kind == tcpinc.SYN {
					syns = append(syns, s.options)
				}
			}
			if len(syns) != 2 || !bytes.Equal(syns[0], syns[1]) {
				t.Errorf("%s: SYNs %x", name, syns)
			}
			w.host.close()
		})
	}
}

// Attempts that never arrive use up secrets; the server looks ahead.
func TestFailedAttemptsAdvance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := resumeWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
		w.expect(t, "first", false)
		var offered [][]byte
		w.path = func(s *segment) bool {
			if s.kind == tcpinc.SYN && !s.plain {
				offered = append(offered, s.options)
			}
			return true
		}
		w.refuse = func(int) error { return syscall.ECONNREFUSED }
		for range 5 {
			if _, err := w.dial(tcpinc.Opportunistic); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Fatal(err)
			}
		}
		w.refuse = nil
		w.expect(t, "after five failures", true)
		slices.SortFunc(offered, bytes.Compare)
		if n := len(slices.CompactFunc(offered, bytes.Equal)); n != 6 {
			t.Errorf("%d different offers of 6", n)
		}
		w.refuse = func(int) error { return syscall.ECONNREFUSED }
		for range 8 {
			w.dial(tcpinc.Opportunistic)
		}
		w.refuse = nil
		w.expect(t, "too far ahead", false)
		w.expect(t, "then the new session", true)
		w.host.close()
	})
}

// A destination that has forgotten everything is offered at most two more secrets of an old session.
func TestMisses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := resumeWorld(t, tcpinc.Config{}, tcpinc.Config{NoCache: true}, tcpinc.Opportunistic)
		for range 3 {
			w.expect(t, "a server that caches nothing", false)
		}
		for _, s := range w.d.Config.Sessions.Sessions() {
			if s.Misses > 1 {
				t.Errorf("kept after %d misses", s.Misses)
			}
		}
		w.host.close()
	})
}

// A dial that offered resumption and came out plain is made again with a fresh offer.
func TestOfferIsNotTheReasonForPlain(t *testing.T) {
	// A path that takes the ENO option out of SYNs if it is long.
	long := func(s *segment) bool {
		if s.kind == tcpinc.SYN && len(s.options) > 10 {
			s.options = nil
		}
		return true
	}
	for name, v := range map[string]struct {
		path  func(*segment) bool
		dials int
	}{
		"long options stripped": {long, 2},
		"mismatched answer": {func(s *segment) bool {
			if s.kind == tcpinc.SYNACK && len(s.options) == 21 {
				s.options[5] ^= 1
			}
			return true
		}, 2},
		"malformed answer": {func(s *segment) bool {
			if s.kind == tcpinc.SYNACK && len(s.options) == 21 {
				s.options = append(s.options, s.options...)
			}
			return true
		}, 2},
		"answer too long": {func(s *segment) bool {
			if s.kind == tcpinc.SYNACK && len(s.options) == 21 {
				s.options = append(s.options, 0)
				s.options[1]++
			}
			return true
		}, 2},
	} {
		for _, policy := range []tcpinc.Policy{tcpinc.Opportunistic, tcpinc.Require} {
			t.Run(fmt.Sprint(name, " ", policy), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := resumeWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
					w.expect(t, "first", false)
					w.path = v.path
					before := w.dials()
					c, err := w.dial(policy)
					if s := isEncrypted(t, c, err); s.Resumed {
						t.Error("resumed")
					}
					if n := w.dials() - before; n != v.dials {
						t.Errorf("%d connections", n)
					}
					time.Sleep(time.Minute)
					w.host.close()
				})
			})
		}
	}
}

// There is one such second try, however many sessions could be offered: those of hosts that share an address are not dropped
// for what happened to one.
func TestOneSecondTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := resumeWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
		for range 3 {
			c, err := w.d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{NoResume: true})
			isEncrypted(t, c, err)
			time.Sleep(time.Second)
		}
		back := newWorld(t, tcpinc.Config{Sessions: w.server}, tcpinc.Config{Sessions: w.d.Config.Sessions}, tcpinc.Opportunistic)
		back.from = server
		back.path = func(s *segment) bool {
			if s.kind == tcpinc.SYN && len(s.options) > 10 {
				s.options = nil
			}
			return true
		}
		c, err := back.d.Dial(t.Context(), netip.Addr{}, netip.AddrPortFrom(clientAddr.Addr(), 80), tcpinc.DialOptions{})
		if s := isEncrypted(t, c, err); s.Resumed {
			t.Error("resumed")
		}
		if n := back.dials(); n != 2 {
			t.Errorf("%d connections", n)
		}
		if n := len(w.server.Sessions()); n != 3 { // one was dropped, and one has come
			t.Errorf("%d sessions are left", n)
		}
		time.Sleep(time.Minute)
		w.host.close()
		back.host.close()
	})
}

// A path that drops SYNs with long options: a fresh offer is tried beside it.
func TestLongSYNsDropped(t *testing.T) {
	for _, policy := range []tcpinc.Policy{tcpinc.Opportunistic, tcpinc.Require} {
		synctest.Test(t, func(t *testing.T) {
			w := resumeWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
			w.expect(t, "first", false)
			w.path = func(s *segment) bool { return s.kind != tcpinc.SYN || len(s.options) <= 10 }
			start := time.Now()
			c, err := w.dial(policy)
			if s := isEncrypted(t, c, err); s.Resumed || time.Since(start) > 4*time.Second {
				t.Errorf("%v: resumed %v after %v", policy, s.Resumed, time.Since(start))
			}
			time.Sleep(time.Minute)
			w.host.close()
		})
	}
}

// ENO taken out of any of the three segments: no application ever gets ciphertext, none under require sends plaintext.
func TestStrippedResumption(t *testing.T) {
	for mask := 1; mask < 8; mask++ {
		for _, policy := range []tcpinc.Policy{tcpinc.Opportunistic, tcpinc.Require} {
			for _, greeting := range []string{"", "220 ready"} {
				t.Run(fmt.Sprintf("%03b %v %q", mask, policy, greeting), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { strippedResumption(t, mask, policy, greeting) })
				})
			}
		}
	}
}

func strippedResumption(t *testing.T, mask int, policy tcpinc.Policy, greeting string) {
	client := tcpinc.Config{Sessions: new(tcpcrypt.SessionCache)}
	srv := tcpinc.Config{Sessions: new(tcpcrypt.SessionCache)}
	n := newNetwork(srv)
	n.from = clientAddr
	host := serve(n.listen(t, tcpinc.ListenConfig{Config: srv}), greeting)
	d := &tcpinc.Dialer{Connect: n.connect, Config: client}
	const text = "GET / HTTP/1.1\r\n\r\n"
	send := func() (tcpinc.ConnectionState, error) {
		c, err := d.Dial(context.Background(), netip.Addr{}, server, tcpinc.DialOptions{Policy: policy})
		if err != nil {
			return tcpinc.ConnectionState{}, err
		}
		s := c.ConnectionState()
		c.Write([]byte(text))
		c.CloseWrite()
		got, err := io.ReadAll(c)
		c.Close()
		if err == nil && string(got) != greeting+text {
			t.Errorf("read %q", got)
		}
		return s, err
	}
	if _, err := send(); err != nil {
		t.Fatal(err)
	}
	n.path = func(s *segment) bool {
		if mask>>(int(s.kind)-1)&1 == 1 {
			s.options = nil
		}
		return true
	}
	for range 3 {
		s, err := send()
		if policy == tcpinc.Require && err == nil && !s.Encrypted {
			t.Error("plain under require")
		}
	}
	s, err := send()
	switch {
	case policy == tcpinc.Require && err == nil:
		t.Error("succeeded under require")
	case policy == tcpinc.Opportunistic && (err != nil || s.Encrypted):
		t.Errorf("in the end: %v, encrypted %v", err, s.Encrypted)
	}
	time.Sleep(time.Minute)
	host.close()
	for _, read := range host.read {
		if len(read) > 0 && string(read) != text {
			t.Errorf("the server's application was given %q", read)
		}
	}
}
