package tcpinc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt"
	"innertun/tcpinc/tcpcrypt/crypttest"
)

// upgradedHandshake is a client's whose SYN is an upgraded one.
func upgradedHandshake(t testing.TB, cfg Config) *Handshake {
	t.Helper()
	cfg.InnerSpace = InnerSpaceOn
	h, err := cfg.handshake(eno.Config{}, netip.AddrPort{}, true)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func synOf(t testing.TB) []byte {
	t.Helper()
	return upgradedHandshake(t, Config{TEPs: []eno.TEP{tcpcrypt.Curve25519}}).AppendPayload(nil, SYN, 1400)
}

// addressed is a transport with addresses.
type addressed struct {
	*crypttest.End
	at ends
}

func (a addressed) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(a.at.local) }
func (a addressed) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(a.at.remote) }

// answered is a client whose upgraded SYN was answered by a Handshake that was not kept.
type answered struct {
	client *Handshake
	l      *Listener
	end    *crypttest.End // the client's
	mu     sync.Mutex
	errs   []error
}

// answer answers an upgraded SYN of a client's and hands the connection to a Listener.
func answer(t *testing.T, clientCfg Config, server ListenConfig, o crypttest.Options) *answered {
	t.Helper()
	x := &answered{client: upgradedHandshake(t, clientCfg)}
	if server.Config.InnerSpace == InnerSpaceOff {
		server.Config.InnerSpace = InnerSpaceAuto
	}
	server.Config.Cookies = NewCookies(server.Config.Clock, nil)
	h, err := server.NewHandshake()
	if err != nil {
		t.Fatal(err)
	}
	if !h.Fleeting(cookieEnds.local, cookieEnds.remote, cookieHalf.isn) {
		t.Fatal("it wants to be kept")
	}
	x.client.AppendOptions(nil, SYN, 20)
	if taken, err := h.Receive(SYN, nil, x.client.AppendPayload(nil, SYN, 1400)); err != nil || !taken {
		t.Fatal(taken, err)
	}
	if o := h.AppendOptions(nil, SYNACK, 20); len(o) > 0 {
		t.Errorf("options in the header: %x", o)
	}
	if taken, err := x.client.Receive(SYNACK, nil, h.AppendPayload(nil, SYNACK, 1400)); err != nil || !taken {
		t.Fatal(taken, err)
	}
	if x.client.cookie == nil || h.prepared() != nil || x.client.prepared() != nil {
		t.Error("keys were exchanged, or there is no cookie")
	}
	here, there := crypttest.Pipe(o)
	x.end = here
	one, closed := make(chan Transport, 1), make(chan struct{})
	one <- addressed{there, cookieEnds}
	server.Accept = func() (Transport, *Handshake, error) {
		select {
		case c := <-one:
			return c, nil, nil
		case <-closed:
			return nil, nil, net.ErrClosed
		}
	}
	server.Close = sync.OnceValue(func() error { close(closed); return nil })
	server.Failed = func(_ net.Addr, err error) {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.errs = append(x.errs, err)
	}
	if x.l, err = Listen(server); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.l.Close(); x.end.Abort() })
	return x
}

func (x *answered) failed() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return errors.Join(x.errs...)
}

// unit is what the client is to send first.
func (x *answered) unit(t *testing.T) []byte {
	t.Helper()
	option, err := innerspace.AppendCookie(nil, x.client.cookie)
	if err != nil {
		t.Fatal(err)
	}
	b, err := innerspace.AppendUnit(nil, option, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The cookie comes back, and the connection is what it would have been, whatever the segments.
func TestEcho(t *testing.T) {
	for name, o := range map[string]crypttest.Options{"whole": {}, "one octet at a time": oneOctet} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for _, policy := range []Policy{Opportunistic, Require} {
					x := answer(t, Config{AppAware: true}, ListenConfig{Policy: policy}, o)
					cfg := Config{InnerSpace: InnerSpaceOn}.filled()
					client := make(chan *Conn, 1)
					go func() {
						c, err := cfg.encrypt(t.Context(), x.end, x.client, netip.AddrPort{}, time.Now())
						if err != nil {
							t.Error(err)
						}
						client <- c
					}()
					server, err := x.l.AcceptConn()
					if err != nil {
						t.Fatal(err, x.failed())
					}
					c := <-client
					if c == nil {
						t.FailNow()
					}
					a, b := c.ConnectionState(), server.ConnectionState()
					if !b.Encrypted || !b.InnerSpace || !a.InnerSpace || !b.PeerAppAware || b.Role != eno.RoleB ||
						!bytes.Equal(a.Transcript, b.Transcript) || !bytes.Equal(a.SessionID, b.SessionID) {
						t.Errorf("%+v\n%+v", a, b)
					}
					if a.Sent.Octets != b.Received.Octets {
						t.Errorf("the streams begin at different offsets: %d, %d", a.Sent.Octets, b.Received.Octets)
					}
					c.Write([]byte("text"))
					c.CloseWrite()
					if got, err := io.ReadAll(server); string(got) != "text" || err != nil {
						t.Errorf("%q, %v", got, err)
					}
					server.Close()
					c.Close()
				}
			})
		})
	}
}

// A stream that begins otherwise is a plain one, and all of it the application's; or refused, where policy wants encryption.
func TestEchoPlain(t *testing.T) {
	x0 := answer(t, Config{}, ListenConfig{}, crypttest.Options{})
	unit := x0.unit(t)
	like := func(i int, bit byte) []byte {
		b := bytes.Clone(unit)
		b[i] ^= bit
		return b
	}
	for name, text := range map[string][]byte{
		"text": []byte("GET / HTTP/1.1\r\n\r\n"), "empty": {}, "zeros": make([]byte, 300),
		"a part of the head": unit[:6], "other payload": like(1, 1), "other Len": like(3, 3),
		"other kind": like(4, 1), "other ExID": like(7, 1), "length that does not fit": like(5, 64),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := answer(t, Config{}, ListenConfig{}, oneOctet)
				x.end.Write(text)
				x.end.CloseWrite()
				server, err := x.l.AcceptConn()
				if err != nil {
					t.Fatal(err, x.failed())
				}
				defer server.Close()
				if s := server.ConnectionState(); s.Encrypted || s.InnerSpace || s.FallbackReason != eno.PeerNoENO {
					t.Errorf("%+v", s)
				}
				if got, err := io.ReadAll(server); err != nil || !bytes.Equal(got, text) {
					t.Errorf("%q, %v", got, err)
				}
				y := answer(t, Config{}, ListenConfig{Policy: Require}, crypttest.Options{})
				y.end.Write(text)
				y.end.CloseWrite()
				if _, err := y.end.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("under require: %v", err)
				}
				synctest.Wait()
				if err := y.failed(); !errors.Is(err, ErrEncryptionRequired) {
					t.Errorf("under require: %v", err)
				}
			})
		})
	}
}

// A client that waits for the server to begin is kept waiting for a bounded time only.
func TestEchoSilent(t *testing.T) {
	for n := range 4 {
		synctest.Test(t, func(t *testing.T) {
			x := answer(t, Config{}, ListenConfig{}, crypttest.Options{})
			x.end.Write(make([]byte, n)) // as a cookie begins
			start := time.Now()
			server, err := x.l.AcceptConn()
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			if took := time.Since(start); took != echoTime {
				t.Errorf("it took %v", took)
			}
			server.Write([]byte("220 welcome"))
			buf := make([]byte, 20)
			if n, err := x.end.Read(buf); err != nil || string(buf[:n]) != "220 welcome" {
				t.Errorf("%q, %v", buf[:n], err)
			}
			server.SetReadDeadline(time.Now().Add(time.Minute))
			if got, err := io.ReadAtLeast(server, buf, max(n, 1)); n > 0 && (err != nil || got != n) || n == 0 && !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%d octets, %v", got, err)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		x := answer(t, Config{}, ListenConfig{Policy: Require}, crypttest.Options{})
		start := time.Now()
		if _, err := x.end.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) || time.Since(start) != defaultHandshakeTimeout {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		synctest.Wait()
		if err := x.failed(); !errors.Is(err, ErrEncryptionRequired) || !errors.Is(err, ErrNoAnswer) {
			t.Error(err)
		}
	})
}

// Nothing of a cookie that does not hold reaches an application, whenever it comes.
func TestEchoRefused(t *testing.T) {
	for name, test := range map[string]struct {
		alter func(unit []byte) []byte
		late  time.Duration
		at    func(*ends)
	}{
		"altered":              {func(b []byte) []byte { b[20] ^= 1; return b }, 0, nil},
		"altered at its end":   {func(b []byte) []byte { b[len(b)-4] ^= 0x10; return b }, 0, nil},
		"cut off":              {func(b []byte) []byte { return b[:len(b)-2] }, 0, nil},
		"after its time":       {func(b []byte) []byte { return b }, echoTime + time.Millisecond, nil},
		"after it has expired": {func(b []byte) []byte { return b }, CookieLife + time.Second, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := answer(t, Config{}, ListenConfig{}, crypttest.Options{})
				unit := test.alter(x.unit(t))
				delivered := make(chan []byte, 1)
				go func() {
					c, err := x.l.AcceptConn()
					if err != nil {
						delivered <- nil
						return
					}
					got, err := io.ReadAll(c)
					if !errors.Is(err, ErrCookie) {
						t.Errorf("it reads %q, %v", got, err)
					}
					c.Close()
					delivered <- got
				}()
				time.Sleep(test.late)
				x.end.Write(unit)
				x.end.CloseWrite()
				x.end.SetReadDeadline(time.Now().Add(time.Minute))
				if _, err := x.end.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the client reads: %v", err)
				}
				x.l.Close()
				if got := <-delivered; len(got) > 0 {
					t.Errorf("delivered: %x", got)
				}
				if err := x.failed(); test.late == 0 && !errors.Is(err, ErrCookie) {
					t.Error(err)
				}
			})
		})
	}
}

// The client's patience under require: a cookie that comes just before the time is over is good.
func TestEchoLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := answer(t, Config{}, ListenConfig{Policy: Require}, crypttest.Options{})
		time.Sleep(20 * time.Second)
		cfg := Config{InnerSpace: InnerSpaceOn}.filled()
		c, err := cfg.encrypt(t.Context(), x.end, x.client, netip.AddrPort{}, time.Now())
		if err != nil {
			t.Fatal(err, x.failed())
		}
		server, err := x.l.AcceptConn()
		if err != nil {
			t.Fatal(err)
		}
		c.Abort()
		server.Abort()
	})
}

// What waits for a cookie counts as a handshake: the oldest makes room. Where policy allows plain TCP it is plain then.
func TestEchoCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := answer(t, Config{}, ListenConfig{MaxHandshakes: 1}, crypttest.Options{})
		_, second := crypttest.Pipe(crypttest.Options{})
		start := time.Now()
		go x.l.sort(addressed{second, cookieEnds}, nil)
		for range 2 {
			c, err := x.l.AcceptConn()
			if err != nil {
				t.Fatal(err)
			}
			if c.ConnectionState().Encrypted {
				t.Error("encrypted")
			}
			c.Abort()
		}
		if took := time.Since(start); took > 2*echoTime {
			t.Errorf("it took %v", took)
		}
	})
}

// A Handshake that cannot do without being kept says so, and one that was asked answers no options of the header.
func TestFleeting(t *testing.T) {
	cookies := NewCookies(nil, nil)
	for name, cfg := range map[string]Config{
		"without Inner Space": {Cookies: cookies}, "without cookies": {InnerSpace: InnerSpaceAuto},
	} {
		h, err := cfg.NewPassive()
		if err != nil {
			t.Fatal(err)
		}
		if h.Fleeting(cookieEnds.local, cookieEnds.remote, cookieHalf.isn) {
			t.Error(name)
		}
	}
	if h := upgradedHandshake(t, Config{Cookies: cookies}); h.Fleeting(cookieEnds.local, cookieEnds.remote, cookieHalf.isn) {
		t.Error("an active one")
	}
	cfg := Config{InnerSpace: InnerSpaceAuto, Cookies: cookies}
	h, err := cfg.NewPassive()
	if err != nil {
		t.Fatal(err)
	}
	if !h.Fleeting(cookieEnds.local, cookieEnds.remote, cookieHalf.isn) {
		t.Fatal("it wants to be kept")
	}
	if taken, err := h.Receive(SYN, []byte{69, 3, 0x23}, []byte("data of an ordinary SYN")); taken || err != nil {
		t.Error(taken, err)
	}
	if o := h.AppendOptions(nil, SYNACK, 20); len(o) > 0 || h.Outcome().ENOSent {
		t.Errorf("answered: %x", o)
	}
	if p := h.AppendPayload(nil, SYNACK, 1400); len(p) > 0 {
		t.Errorf("answered: %x", p)
	}
}

// Early data and sessions are left alone until the cookie has come back; what was declined is known later.
func TestFleetingSpendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sessions := [2]*tcpcrypt.SessionCache{new(tcpcrypt.SessionCache), new(tcpcrypt.SessionCache)}
		clientCfg := Config{Sessions: sessions[0], InnerSpace: InnerSpaceOn}
		serverCfg := ListenConfig{Config: Config{Sessions: sessions[1], EarlyData: true}}
		defer sessions[0].Close()
		defer sessions[1].Close()
		remote := netip.MustParseAddrPort("198.18.0.2:80")
		connect := func(x *answered) {
			client := make(chan *Conn, 1)
			go func() {
				cfg := clientCfg.filled()
				c, err := cfg.encrypt(context.Background(), x.end, x.client, remote, time.Now())
				if err != nil {
					t.Error(err)
				}
				client <- c
			}()
			server, err := x.l.AcceptConn()
			if err != nil {
				t.Fatal(err, x.failed())
			}
			if c := <-client; c != nil {
				c.Abort()
			}
			server.Abort()
		}
		connect(answer(t, clientCfg, serverCfg, crypttest.Options{}))
		if !sessions[0].Has(remote, clientCfg.filled().wants) {
			t.Fatal("no session")
		}
		h, err := clientCfg.handshake(eno.Config{}, remote, true)
		if err != nil {
			t.Fatal(err)
		}
		h.early.data = []byte("first words")
		syn := h.AppendPayload(nil, SYN, 1400)
		if !h.early.offered || !h.offered() {
			t.Fatal("nothing is offered")
		}
		cfg := serverCfg.Config
		cfg.InnerSpace, cfg.Cookies = InnerSpaceAuto, NewCookies(nil, nil)
		for range 2 {
			passive, err := cfg.NewPassive()
			if err != nil {
				t.Fatal(err)
			}
			passive.SetPeer(cookieEnds.remote.Addr())
			passive.Fleeting(cookieEnds.local, cookieEnds.remote, cookieHalf.isn)
			if taken, err := passive.Receive(SYN, nil, syn); !taken || err != nil {
				t.Fatal(taken, err)
			}
			if ticket, _ := passive.agreed(); ticket != nil || passive.EarlyOpen() {
				t.Error("a session was claimed")
			}
			s, _, _ := innerspace.ParseSYN(passive.AppendPayload(nil, SYNACK, 1400))
			if err := h.keepCookie(s); err != nil || h.cookie == nil {
				t.Fatal(err)
			}
		}
		again, err := cfg.restore(h.cookie, cookieEnds)
		if err != nil {
			t.Fatal(err)
		}
		if y := again.earlyData(); !y.offered || y.accepted || y.payload != h.early.payload {
			t.Errorf("%+v", y)
		}
		if out := again.Outcome(); !out.Encrypt() {
			t.Errorf("%+v", out)
		}
		// The session is still there: a SYN that is kept may claim it.
		kept, err := cfg.NewPassive()
		if err != nil {
			t.Fatal(err)
		}
		kept.SetPeer(cookieEnds.remote.Addr())
		if _, err := kept.Receive(SYN, nil, syn); err != nil {
			t.Fatal(err)
		}
		if ticket, _ := kept.agreed(); ticket == nil || !kept.EarlyOpen() {
			t.Error("the session is gone")
		}
		kept.release()
		h.release()
	})
}

// A cookie of a Listener that is configured otherwise is none.
func TestRestoreConfiguration(t *testing.T) {
	cfg := Config{InnerSpace: InnerSpaceAuto, Cookies: NewCookies(nil, nil)}
	h, err := cfg.NewPassive()
	if err != nil {
		t.Fatal(err)
	}
	h.Fleeting(cookieEnds.local, cookieEnds.remote, cookieHalf.isn)
	if _, err := h.Receive(SYN, nil, synOf(t)); err != nil {
		t.Fatal(err)
	}
	s, _, _ := innerspace.ParseSYN(h.AppendPayload(nil, SYNACK, 1400))
	client := new(Handshake)
	if err := client.keepCookie(s); err != nil {
		t.Fatal(err)
	}
	if _, err := cfg.restore(client.cookie, cookieEnds); err != nil {
		t.Error(err)
	}
	cfg.TEPs = []eno.TEP{tcpcrypt.P521}
	if _, err := cfg.restore(client.cookie, cookieEnds); !errors.Is(err, ErrCookie) {
		t.Error(err)
	}
}
