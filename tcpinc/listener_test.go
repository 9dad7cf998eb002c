package tcpinc_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"innertun/tcpinc"
	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
)

var _ net.Listener = (*tcpinc.Listener)(nil)

// failures collects what a Listener's Failed hears.
type failures struct {
	mu   sync.Mutex
	errs []error
	at   []time.Time
}

func (f *failures) add(_ net.Addr, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errs, f.at = append(f.errs, err), append(f.at, time.Now())
}

// open opens a connection that negotiates ENO, unless plain, and sends nothing.
func (n *network) open(t *testing.T, plain bool) tcpinc.Transport {
	t.Helper()
	var h *tcpinc.Handshake
	if !plain {
		var err error
		if h, err = (tcpinc.Config{}).NewActive(); err != nil {
			t.Fatal(err)
		}
	}
	c, err := n.connect(t.Context(), netip.AddrPort{}, server, h)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func isReset(t *testing.T, what string, c tcpinc.Transport) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: read %d, %v, want a reset", what, n, err)
	}
}

// A silent client holds nothing for ever, and nobody up meanwhile.
func TestListenerSilentClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failed failures
		n := newNetwork(tcpinc.Config{})
		s := serve(n.listen(t, tcpinc.ListenConfig{Failed: failed.add}), "")
		defer s.close()
		silent := n.open(t, false)
		start := time.Now()

		d := &tcpinc.Dialer{Connect: n.connect}
		for _, p := range []tcpinc.Policy{tcpinc.Require, tcpinc.Off} {
			c, err := d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{Policy: p})
			if err != nil {
				t.Fatal(err)
			}
			echo(t, c)
		}
		isReset(t, "silent client", silent)
		synctest.Wait()
		if took := time.Since(start); took != 30*time.Second || len(failed.errs) != 1 || !errors.Is(failed.errs[0], tcpinc.ErrNoAnswer) {
			t.Errorf("after %v: %v", took, failed.errs)
		}
	})
}

// With too many key exchanges at once the oldest gives way, so that silent clients cannot lock out others.
func TestListenerCrowded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failed failures
		n := newNetwork(tcpinc.Config{})
		s := serve(n.listen(t, tcpinc.ListenConfig{Failed: failed.add, MaxHandshakes: 3}), "")
		defer s.close()
		var silent []tcpinc.Transport
		for range 5 {
			silent = append(silent, n.open(t, false))
		}
		synctest.Wait()
		d := &tcpinc.Dialer{Connect: n.connect}
		c, err := d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{Policy: tcpinc.Require})
		isEncrypted(t, c, err)
		for i := range 3 {
			isReset(t, "one of the oldest", silent[i])
		}
		failed.mu.Lock()
		defer failed.mu.Unlock()
		if len(failed.errs) != 3 {
			t.Fatalf("%v", failed.errs)
		}
		for _, err := range failed.errs {
			if !errors.Is(err, tcpinc.ErrCrowded) {
				t.Error(err)
			}
		}
	})
}

func TestListenerRequire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failed failures
		n := newNetwork(tcpinc.Config{})
		s := serve(n.listen(t, tcpinc.ListenConfig{Failed: failed.add, Policy: tcpinc.Require}), "hello")
		plain := n.open(t, true)
		plain.Write([]byte("secret"))
		isReset(t, "plain client", plain)
		n.path = stripNonSYN
		isReset(t, "stripped client", n.open(t, false))
		n.path = func(*segment) bool { return true }
		d := &tcpinc.Dialer{Connect: n.connect}
		c, err := d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.ConnectionState(); !got.Encrypted {
			t.Errorf("state %+v", got)
		}
		c.Abort()
		s.close()
		if s.octets() != 0 || len(failed.errs) != 2 {
			t.Fatalf("the application got %d octets; %v", s.octets(), failed.errs)
		}
		isRequired(t, failed.errs[0], eno.PeerNoENO)
		isRequired(t, failed.errs[1], eno.Stripped)
	})
}

// ENO was exchanged in the SYNs, then stripped: ordinary data passes, Init1 does not. A server that speaks first is not
// held up.
func TestListenerStripped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(tcpinc.Config{})
		s := serve(n.listen(t, tcpinc.ListenConfig{}), "hello")
		n.path = stripNonSYN
		for _, v := range []struct {
			sends string
			want  error
			gets  string
		}{
			{"", io.EOF, ""},
			{"GET /", io.EOF, "GET /"},
			{"\x15\x10\x1a\x0e and the rest of Init1", tcpinc.ErrInitInPlain, ""},
		} {
			c := n.open(t, false)
			greeting := make([]byte, 5)
			if _, err := io.ReadFull(c, greeting); err != nil || string(greeting) != "hello" {
				t.Fatalf("%q, %v", greeting, err)
			}
			c.Write([]byte(v.sends))
			c.CloseWrite()
			synctest.Wait()
			s.mu.Lock()
			last := len(s.read) - 1
			if last < 0 || string(s.read[last]) != v.gets || !errors.Is(s.errs[last], v.want) {
				t.Errorf("sent %q, the application got %q, %v", v.sends, s.read, s.errs)
			}
			s.mu.Unlock()
			c.Close()
		}
		s.close()
	})
}

func TestListenerStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(tcpinc.Config{AppAware: true})
		l := n.listen(t, tcpinc.ListenConfig{Config: tcpinc.Config{AppAware: true}})
		defer l.Close()
		accept := func() *tcpinc.Conn {
			t.Helper()
			c, err := l.AcceptConn()
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		dialed := make(chan *tcpinc.Conn, 1)
		go func() {
			d := &tcpinc.Dialer{Connect: n.connect, Config: tcpinc.Config{AppAware: true}}
			c, err := d.Dial(context.Background(), netip.Addr{}, server, tcpinc.DialOptions{})
			if err != nil {
				t.Error(err)
			}
			dialed <- c
		}()
		b := accept()
		a := <-dialed
		sa, sb := a.ConnectionState(), b.ConnectionState()
		if !sb.Encrypted || sb.Role != eno.RoleB || sb.TEP != tcpcrypt.Curve25519 || !sb.PeerAppAware || !sa.PeerAppAware ||
			!bytes.Equal(sa.SessionID, sb.SessionID) || !bytes.Equal(sa.Transcript, sb.Transcript) {
			t.Errorf("A %+v, B %+v", sa, sb)
		}
		b.Abort()

		n.open(t, true)
		if s := accept().ConnectionState(); s.Encrypted || s.FallbackReason != eno.PeerNoENO {
			t.Errorf("plain client: %+v", s)
		}
		n.path = stripNonSYN
		n.open(t, false)
		if s := accept().ConnectionState(); s.Encrypted || s.FallbackReason != eno.Stripped {
			t.Errorf("stripped client: %+v", s)
		}
		n.passive = nil
		n.open(t, true)
		if s := accept().ConnectionState(); s.Encrypted || s.FallbackReason != eno.PeerNoENO {
			t.Errorf("no Handshake: %+v", s)
		}
	})
}

// A stack that hands out a connection without its third segment gets it aborted rather than guessed at.
func TestListenerNotConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failed failures
		n := newNetwork(tcpinc.Config{})
		s := serve(n.listen(t, tcpinc.ListenConfig{Failed: failed.add}), "")
		defer s.close()
		h, err := (tcpinc.Config{}).NewPassive()
		if err != nil {
			t.Fatal(err)
		}
		h.Receive(tcpinc.SYN, []byte{69, 3, 0x23}, nil)
		h.AppendOptions(nil, tcpinc.SYNACK, 20)
		c := n.openUnconfirmed(h)
		isReset(t, "client", c)
		synctest.Wait()
		if len(failed.errs) != 1 || !errors.Is(failed.errs[0], tcpinc.ErrNotConfirmed) {
			t.Errorf("%v", failed.errs)
		}
	})
}

// Close ends all that is under way: what waits to be accepted, key exchanges, the accept loop. The end of the bubble
// finds any goroutine that stays.
func TestListenerClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failed failures
		n := newNetwork(tcpinc.Config{})
		l := n.listen(t, tcpinc.ListenConfig{Failed: failed.add})
		inExchange, waiting := n.open(t, false), n.open(t, true)
		synctest.Wait()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		isReset(t, "in its key exchange", inExchange)
		isReset(t, "waiting to be accepted", waiting)
		if c, err := l.AcceptConn(); c != nil || !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: %v", err)
		}
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second Close: %v", err)
		}
		if len(failed.errs) != 0 {
			t.Errorf("%v", failed.errs)
		}
	})
}

func TestListenerAcceptFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("the stack is gone")
		closed := 0
		l, err := tcpinc.Listen(tcpinc.ListenConfig{
			Accept: func() (tcpinc.Transport, *tcpinc.Handshake, error) { return nil, nil, broken },
			Close:  func() error { closed++; return nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		if c, err := l.Accept(); !errors.Is(err, broken) || c != nil {
			t.Errorf("Accept = %v, %v", c, err)
		}
		l.Close()
		if closed != 1 {
			t.Errorf("closed %d times", closed)
		}
		if _, err := tcpinc.Listen(tcpinc.ListenConfig{Policy: tcpinc.Ratchet}); err == nil {
			t.Error("a policy that is not built was accepted")
		}
	})
}

// A key exchange that is over holds no place: the oldest that is under way gives way to a new one.
func TestListenerCrowdedAfterOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(tcpinc.Config{})
		s := serve(n.listen(t, tcpinc.ListenConfig{MaxHandshakes: 3}), "")
		defer s.close()
		d := &tcpinc.Dialer{Connect: n.connect}
		for range 5 {
			c, err := d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{Policy: tcpinc.Require})
			isEncrypted(t, c, err)
		}
		for range 5 {
			defer n.open(t, false).Abort()
		}
		start := time.Now()
		c, err := d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{Policy: tcpinc.Require})
		isEncrypted(t, c, err)
		if took := time.Since(start); took > time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// A connection that the Accept below hands out as the Listener ends is aborted at once, and Close does not wait for its
// key exchange.
func TestListenerCloseMeetsAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(tcpinc.Config{})
		client := n.open(t, false)
		late, closed := <-n.accept, make(chan struct{})
		calls := 0
		l, err := tcpinc.Listen(tcpinc.ListenConfig{
			Accept: func() (tcpinc.Transport, *tcpinc.Handshake, error) {
				<-closed
				if calls++; calls == 1 {
					return late.t, late.h, nil
				}
				return nil, nil, net.ErrClosed
			},
			Close: func() error { close(closed); return nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := l.Close(); err != nil || time.Since(start) != 0 {
			t.Errorf("Close: %v after %v", err, time.Since(start))
		}
		isReset(t, "client", client)
	})
}
