package tcpinc_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"innertun/tcpinc"
	"innertun/tcpinc/eno"
	"innertun/tcpinc/hello"
	"innertun/tcpinc/identity"
	"innertun/tcpinc/tcpcrypt"
)

func key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func public(seed byte) identity.PublicKey {
	k, err := identity.PublicOf(key(seed))
	if err != nil {
		panic(err)
	}
	return k
}

func pinned(name string, seed byte) tcpinc.Authenticator { return identity.Pinned{public(seed): name} }

// firstUse trusts the first key, in memory for once.
type firstUse map[netip.AddrPort]identity.PublicKey

func (f firstUse) Authenticate(remote netip.AddrPort, key identity.PublicKey) (string, error) {
	if known, ok := f[remote]; ok && known != key {
		return "", &identity.ChangedError{Destination: remote.String(), Old: known, New: key}
	}
	f[remote] = key
	return "", nil
}

// meeting is a Dialer and a server that may each have an identity and may each judge the other's.
type meeting struct {
	*network
	host    *host
	d       *tcpinc.Dialer
	refused []error
	log     bytes.Buffer
}

func meet(t *testing.T, client, server tcpinc.Config, demanded tcpinc.Authenticator) *meeting {
	t.Helper()
	m := &meeting{network: newNetwork(server)}
	cfg := tcpinc.ListenConfig{Config: server, Auth: demanded, Failed: func(_ net.Addr, err error) { m.refused = append(m.refused, err) }}
	m.passive = func() *tcpinc.Handshake {
		h, err := cfg.NewHandshake()
		if err != nil {
			t.Error(err)
		}
		return h
	}
	m.host = serve(m.listen(t, cfg), "")
	client.Logger = slog.New(slog.NewTextHandler(&m.log, nil))
	m.d = &tcpinc.Dialer{Connect: m.connect, Config: client, Paths: &tcpinc.PathMemory{}}
	return m
}

func (m *meeting) dial(auth tcpinc.Authenticator) (*tcpinc.Conn, error) {
	return m.d.Dial(context.Background(), netip.Addr{}, server, tcpinc.DialOptions{Auth: auth})
}

func isRefused(t *testing.T, err, why error) {
	t.Helper()
	var refused *tcpinc.IdentityError
	if !errors.Is(err, tcpinc.ErrPeerIdentity) || !errors.As(err, &refused) || !errors.Is(err, why) {
		t.Errorf("error %v, want a refusal: %v", err, why)
	}
}

// Whoever has an identity proves it, whoever asks waits, and the application sees its own octets only.
func TestGreeting(t *testing.T) {
	with := func(seed byte) tcpinc.Config { return tcpinc.Config{Identity: key(seed)} }
	for name, c := range map[string]struct {
		client, server tcpinc.Config
		clientAsks     tcpinc.Authenticator
		serverAsks     tcpinc.Authenticator
		early, late    string // what the client knows of the server before and after its first read
	}{
		"nobody has one":                  {early: "", late: ""},
		"both, nobody asks":               {client: with(1), server: with(2), late: public(2).String()},
		"the client asks":                 {client: with(1), server: with(2), clientAsks: pinned("web", 2), early: "web", late: "web"},
		"the server asks":                 {client: with(1), server: with(2), serverAsks: pinned("laptop", 1), late: public(2).String()},
		"both ask":                        {client: with(1), server: with(2), clientAsks: firstUse{}, serverAsks: pinned("laptop", 1), early: public(2).String(), late: public(2).String()},
		"only the server has one":         {server: with(2)}, // a = 0 of the client
		"only the client has one":         {client: with(1)},
		"the client asks without its own": {server: with(2), clientAsks: pinned("web", 2), early: "web", late: "web"},
		"the server's own use of a = 1":   {client: with(1), server: tcpinc.Config{AppAware: true}},
		"the client's own use of a = 1":   {client: tcpinc.Config{AppAware: true}, server: with(2), late: public(2).String()},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := meet(t, c.client, c.server, c.serverAsks)
				defer m.host.close()
				for range 2 {
					conn, err := m.dial(c.clientAsks)
					if err != nil {
						t.Fatal(err)
					}
					if got := proven(conn); got != c.early {
						t.Errorf("before reading the server is %q, want %q", got, c.early)
					}
					echo(t, conn)
					if got := proven(conn); got != c.late {
						t.Errorf("after reading the server is %q, want %q", got, c.late)
					}
					if s := conn.ConnectionState(); s.HandshakeTime != m.rtt {
						t.Errorf("handshake time %v, want that of one round trip, %v", s.HandshakeTime, m.rtt)
					}
				}
			})
		})
	}
}

func proven(c *tcpinc.Conn) string {
	if p := c.ConnectionState().PeerIdentity; p != nil {
		return p.String()
	}
	return ""
}

// Without an identity, and without anybody who asks, a = 0 and the stream begins with data.
func TestNoIdentityNoHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := meet(t, tcpinc.Config{}, tcpinc.Config{Identity: key(2)}, nil)
		defer m.host.close()
		conn, err := m.dial(nil)
		s := isEncrypted(t, conn, err)
		if want := []byte{69, 6, 0x22, 0x21, 0x24, 0x23, 69, 4, 0x03, 0x23}; !bytes.Equal(s.Transcript, want) {
			t.Errorf("transcript %x, want %x", s.Transcript, want)
		}
		if s.Sent.Data != 0 || s.Received.Data != 0 {
			t.Errorf("data before data: %+v, %+v", s.Sent, s.Received)
		}
	})
}

// Refusals: no octet of the application moves, the error says what is wrong, and nothing is tried in plain.
func TestRefused(t *testing.T) {
	with := func(seed byte) tcpinc.Config { return tcpinc.Config{Identity: key(seed)} }
	changed := func() tcpinc.Authenticator { return firstUse{server: public(9)} }
	for name, c := range map[string]struct {
		client, server tcpinc.Config
		clientAsks     tcpinc.Authenticator
		serverAsks     tcpinc.Authenticator
		why            error // at the end that asks
		text           string
	}{
		"another key than the pinned one": {client: with(1), server: with(2), clientAsks: pinned("web", 3), text: public(2).String()},
		"another key than the first":      {client: with(1), server: with(2), clientAsks: changed(), text: "has changed"},
		"a server without identity":       {client: with(1), clientAsks: pinned("web", 2), why: tcpinc.ErrNoIdentity},
		"a server with a = 1 and none":    {client: with(1), server: tcpinc.Config{AppAware: true}, clientAsks: firstUse{}, why: tcpinc.ErrNoIdentity},
		"a client of another key":         {client: with(3), server: with(2), serverAsks: pinned("laptop", 1), text: public(3).String()},
		"a client without identity":       {server: with(2), serverAsks: pinned("laptop", 1), why: tcpinc.ErrNoIdentity},
		"a client that asks and has none": {clientAsks: pinned("web", 2), server: with(2), serverAsks: pinned("laptop", 1), why: tcpinc.ErrNoIdentity},
		"a client with a = 1 of its own":  {client: tcpinc.Config{AppAware: true}, server: with(2), serverAsks: pinned("laptop", 1), why: tcpinc.ErrNoIdentity},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := meet(t, c.client, c.server, c.serverAsks)
				conn, err := m.dial(c.clientAsks)
				if err == nil {
					conn.SetReadDeadline(time.Now().Add(time.Minute))
					conn.Write([]byte("a secret"))
					_, err = io.ReadAll(conn)
					if err == nil {
						t.Error("the end of a refused connection looks clean")
					}
					conn.Close()
				}
				refusal := err
				if c.serverAsks != nil {
					synctest.Wait()
					if len(m.refused) != 1 {
						t.Fatalf("refused %v, the client's error is %v", m.refused, err)
					}
					refusal = m.refused[0]
				}
				m.host.close()
				why := c.why
				if why == nil {
					why = tcpinc.ErrPeerIdentity
				}
				isRefused(t, refusal, why)
				if !strings.Contains(refusal.Error(), c.text) {
					t.Errorf("%v does not say %q", refusal, c.text)
				}
				if m.dials() != 1 || m.host.octets() != 0 {
					t.Errorf("%d connections, %d octets for the application", m.dials(), m.host.octets())
				}
				if why := m.d.Paths.Failed(server, time.Now()); why != eno.NoReason {
					t.Errorf("the path is remembered for %v", why)
				}
			})
		})
	}
}

// A plain connection to a peer that is to prove itself is refused under any policy.
func TestAuthForbidsPlain(t *testing.T) {
	for name, path := range map[string]func(*segment) bool{"stripped": stripSYNs, "stripped later": stripNonSYN, "dropped": dropENO} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := meet(t, tcpinc.Config{Identity: key(1)}, tcpinc.Config{Identity: key(2)}, nil)
				defer m.host.close()
				m.path = path
				for _, p := range []tcpinc.Policy{tcpinc.Opportunistic, tcpinc.Off, tcpinc.Ratchet} {
					conn, err := m.d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{Policy: p, Auth: pinned("web", 2)})
					if err == nil {
						t.Fatalf("%v: connected, %+v", p, conn.ConnectionState())
					}
				}
				if n := m.count(func(s segment) bool { return s.plain }); n > 0 {
					t.Errorf("%d segments of plain connections", n)
				}
			})
		})
	}
}

// A server that asks accepts nothing in plain.
func TestServerAuthForbidsPlain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := meet(t, tcpinc.Config{Identity: key(1)}, tcpinc.Config{Identity: key(2)}, pinned("laptop", 1))
		conn, err := m.d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{Policy: tcpinc.Off})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(conn); err == nil {
			t.Error("a clean end")
		}
		synctest.Wait()
		m.host.close()
		if len(m.refused) != 1 || !errors.Is(m.refused[0], tcpinc.ErrEncryptionRequired) {
			t.Errorf("refused %v", m.refused)
		}
	})
}

func TestIdentityMustBeEd25519(t *testing.T) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cfg := tcpinc.Config{Identity: k}
	if _, err := cfg.NewActive(); !errors.Is(err, identity.ErrNotEd25519) {
		t.Error(err)
	}
	if _, err := tcpinc.Listen(tcpinc.ListenConfig{Config: cfg}); !errors.Is(err, identity.ErrNotEd25519) {
		t.Error(err)
	}
	d := tcpinc.Dialer{Config: cfg}
	if _, err := d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{}); !errors.Is(err, identity.ErrNotEd25519) {
		t.Error(err)
	}
}

// What was proven when keys were exchanged holds for the sessions that are resumed; one that has no proof in it is not
// offered, nor accepted, where one is asked for.
func TestResumedInherits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var caches []*tcpcrypt.SessionCache
		with := func(seed byte) tcpinc.Config {
			cache := new(tcpcrypt.SessionCache)
			caches = append(caches, cache)
			return tcpinc.Config{Identity: key(seed), Sessions: cache}
		}
		client, srv := with(1), with(2)
		m := meet(t, client, srv, pinned("laptop", 1))
		defer func() {
			m.host.close()
			for _, c := range caches {
				c.Close()
			}
		}()
		for i, want := range []struct {
			auth    tcpinc.Authenticator
			resumed bool
			peer    string
		}{
			{nil, false, ""}, // not read yet
			{pinned("web", 2), true, "web"},
			{nil, true, public(2).String()},
			{firstUse{}, true, public(2).String()},
		} {
			conn, err := m.dial(want.auth)
			if err != nil {
				t.Fatal(i, err)
			}
			s := conn.ConnectionState()
			if s.Resumed != want.resumed || proven(conn) != want.peer {
				t.Errorf("%d: resumed %v, peer %q, want %+v", i, s.Resumed, proven(conn), want)
			}
			conn.SetSessionNote("the application's own")
			if note := conn.SessionNote(); want.resumed && note != "the application's own" {
				t.Errorf("%d: note %v", i, note)
			}
			echo(t, conn)
		}
		// Pinned otherwise now: the session is of no use, nor is the peer.
		_, err := m.dial(pinned("web", 3))
		isRefused(t, err, tcpinc.ErrPeerIdentity)
		conn, err := m.dial(pinned("web", 2))
		if err != nil || conn.ConnectionState().Resumed {
			t.Errorf("after a refusal: %v", err)
		} else {
			echo(t, conn)
		}
	})
}

// A session in which nothing was read of the peer has no proof: it is not resumed for those who ask for one.
func TestUnprovenSessionIsNotResumed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache, theirs := new(tcpcrypt.SessionCache), new(tcpcrypt.SessionCache)
		defer cache.Close()
		defer theirs.Close()
		m := meet(t, tcpinc.Config{Identity: key(1), Sessions: cache}, tcpinc.Config{Identity: key(2), Sessions: theirs}, nil)
		defer m.host.close()
		unread, err := m.dial(nil)
		if err != nil {
			t.Fatal(err)
		}
		for i, resumed := range []bool{false, true} {
			conn, err := m.dial(pinned("web", 2))
			if err != nil {
				t.Fatal(err)
			}
			if s := conn.ConnectionState(); s.Resumed != resumed || proven(conn) != "web" {
				t.Errorf("%d: %+v", i, s)
			}
			echo(t, conn)
		}
		echo(t, unread)
	})
}

// With rst = "authenticate" the hello announces it, and nothing is proven.
func TestCapabilities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := tcpinc.Config{RST: tcpinc.AuthenticateResets}
		m := meet(t, cfg, cfg, nil)
		defer m.host.close()
		conn, err := m.dial(nil)
		if err != nil {
			t.Fatal(err)
		}
		echo(t, conn)
		if !tcpinc.PeerSignsResets(conn) {
			t.Error("the peer's RSTs are not expected to be signed")
		}
		if s := conn.ConnectionState(); s.PeerCapabilities != hello.AuthenticatedResets || s.PeerIdentity != nil {
			t.Errorf("%+v", s)
		}
	})
}

// slow asks somebody who takes his time.
type slow struct {
	tcpinc.Authenticator
	takes time.Duration
}

func (s slow) Authenticate(remote netip.AddrPort, key identity.PublicKey) (string, error) {
	time.Sleep(s.takes)
	return s.Authenticator.Authenticate(remote, key)
}

// A verdict that comes after the time for the handshake refuses the connection: what is returned as open is open.
func TestLateVerdict(t *testing.T) {
	for _, mode := range []tcpinc.InnerSpaceMode{tcpinc.InnerSpaceOff, tcpinc.InnerSpaceAuto} {
		for _, takes := range []time.Duration{time.Second, time.Minute} {
			for _, clientAsks := range []bool{true, false} {
				t.Run(fmt.Sprintf("inner space %v, %v, client %v", mode, takes, clientAsks), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { lateVerdict(t, mode, takes, clientAsks) })
				})
			}
		}
	}
}

func lateVerdict(t *testing.T, mode tcpinc.InnerSpaceMode, takes time.Duration, clientAsks bool) {
	var atServer, atClient tcpinc.Authenticator
	if clientAsks {
		atClient = slow{pinned("web", 2), takes}
	} else {
		atServer = slow{pinned("laptop", 1), takes}
	}
	m := meet(t, tcpinc.Config{Identity: key(1), InnerSpace: mode}, tcpinc.Config{Identity: key(2), InnerSpace: mode}, atServer)
	defer m.host.close()
	conn, err := m.dial(atClient)
	if takes == time.Second {
		if err != nil {
			t.Fatal(err)
		}
		if inner := conn.ConnectionState().InnerSpace; inner != (mode == tcpinc.InnerSpaceAuto) {
			t.Errorf("Inner Space: %v", inner)
		}
		echo(t, conn)
		return
	}
	time.Sleep(2 * takes)
	synctest.Wait()
	if clientAsks && !errors.Is(err, tcpinc.ErrNoAnswer) || !clientAsks && (len(m.refused) != 1 || !errors.Is(m.refused[0], tcpinc.ErrNoAnswer)) {
		t.Errorf("%v, at the server %v", err, m.refused)
	}
	if conn != nil {
		conn.Close()
	}
}

// severed is a transport that a reset meets after some writes.
type severed struct {
	tcpinc.Transport
	writes int
}

func (s *severed) Write(p []byte) (int, error) {
	if s.writes--; s.writes < 0 {
		s.Transport.Abort()
		return 0, &net.OpError{Op: "write", Net: "tcp", Err: syscall.ECONNRESET}
	}
	return s.Transport.Write(p)
}

// A reset between key exchange and hello is no sign that ENO was stripped: there is no second try in plain. To who asks for an
// identity it is a refusal.
func TestResetBeforeTheHello(t *testing.T) {
	for writes, plain := range []bool{true, false} { // nothing leaves, or Init1 alone
		for _, auth := range []tcpinc.Authenticator{nil, pinned("web", 2)} {
			synctest.Test(t, func(t *testing.T) {
				m := meet(t, tcpinc.Config{Identity: key(1)}, tcpinc.Config{Identity: key(2)}, nil)
				defer m.host.close()
				connect := m.d.Connect
				m.d.Connect = func(ctx context.Context, local, remote netip.AddrPort, h *tcpinc.Handshake) (tcpinc.Transport, error) {
					c, err := connect(ctx, local, remote, h)
					if h != nil && err == nil {
						c = &severed{c, writes}
					}
					return c, err
				}
				conn, err := m.dial(auth)
				switch {
				case plain && auth == nil:
					if err != nil || conn.ConnectionState().Encrypted {
						t.Errorf("after %d writes: %v", writes, err)
					}
				case !plain && (!errors.Is(err, tcpinc.ErrHello) || m.dials() != 1):
					t.Errorf("after %d writes: %v, %d dials", writes, err, m.dials())
				case !plain && auth != nil:
					isRefused(t, err, tcpinc.ErrNoIdentity)
				case auth != nil && err == nil:
					t.Error("nobody has proven anything")
				}
				if conn != nil {
					conn.Close()
				}
			})
		}
	}
}
