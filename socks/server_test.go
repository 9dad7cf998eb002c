package socks

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"innertun/internal/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// lines is a log that several goroutines write to.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.b.Write(p) }
func (l *lines) String() string              { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// begin serves s on a loopback port and returns its address.
func begin(t *testing.T, s *Server) (addr string, log *lines) {
	t.Helper()
	log = &lines{}
	s.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if s.Dial == nil {
		s.Dial = new(net.Dialer).DialContext
	}
	if s.HandshakeTimeout == 0 {
		s.HandshakeTimeout = 2 * time.Minute // the clients of the tests give up earlier
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != ErrServerClosed {
			t.Errorf("Serve: %v", err)
		}
		if n := s.Clients(); n != 0 {
			t.Errorf("%d clients after Close", n)
		}
	})
	return ln.Addr().String(), log
}

func connect(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	return c.(*net.TCPConn)
}

// echo answers with what it gets, once it has all of it.
func echo(t *testing.T, network, at string) net.Addr {
	t.Helper()
	ln, err := net.Listen(network, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				all, _ := io.ReadAll(c)
				c.Write(all)
			}()
		}
	}()
	return ln.Addr()
}

func addressOf(a net.Addr) Address {
	ap := a.(*net.TCPAddr).AddrPort()
	return Address{IP: ap.Addr(), Port: ap.Port()}
}

func expect(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(c, got)
	if err != nil || string(got) != want {
		t.Fatalf("got % x, %v; want % x", got[:n], err, want)
	}
}

func reply(t *testing.T, c net.Conn) Reply {
	t.Helper()
	r, err := read(&messageReader{r: c}, ParseReply)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestConnect(t *testing.T) {
	addr, _ := begin(t, &Server{})
	v4, v6 := addressOf(echo(t, "tcp4", "127.0.0.1:0")), addressOf(echo(t, "tcp6", "[::1]:0"))
	for name, dest := range map[string]Address{"ipv4": v4, "ipv6": v6, "name": {Name: "localhost", Port: v4.Port}} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, addr)
			// Everything ahead of any answer, with application octets behind the request: none may be lost.
			msg := AppendGreeting(nil, Greeting{[]Method{NoAuth}})
			msg = AppendRequest(msg, Request{Connect, dest})
			c.Write(append(msg, "early octets"...))
			expect(t, c, "\x05\x00")
			r := reply(t, c)
			if r.Code != Succeeded || !r.Bound.IP.IsLoopback() || r.Bound.Port == 0 {
				t.Fatalf("%+v", r)
			}
			c.Write([]byte(" and late ones"))
			c.CloseWrite()
			got, err := io.ReadAll(c)
			if err != nil || string(got) != "early octets and late ones" {
				t.Fatalf("%q %v", got, err)
			}
		})
	}
}

func TestReplyCodes(t *testing.T) {
	var fail error
	addr, _ := begin(t, &Server{Dial: func(context.Context, string, string) (net.Conn, error) { return nil, fail }})
	for _, c := range []struct {
		err  error
		cmd  Command
		want Code
	}{
		{syscall.ECONNREFUSED, Connect, ConnectionRefused},
		{syscall.ETIMEDOUT, Connect, TTLExpired},
		{ownCode{}, Connect, NotAllowed},
		{errors.New("x"), Connect, GeneralFailure},
		{nil, Bind, CommandNotSupported},
		{nil, UDPAssociate, CommandNotSupported},
		{nil, 9, CommandNotSupported},
	} {
		fail = c.err
		conn := connect(t, addr)
		msg := AppendRequest([]byte("\x05\x01\x00"), Request{c.cmd, Address{Name: "a.example", Port: 80}})
		conn.Write(append(msg, "octets sent ahead must not cost the client its reply"...))
		expect(t, conn, "\x05\x00")
		if r := reply(t, conn); r.Code != c.want {
			t.Errorf("%v %v: %v, want %v", c.cmd, c.err, r.Code, c.want)
		}
		if n, err := conn.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("after the reply: %d %v", n, err)
		}
	}
	conn := connect(t, addr)
	conn.Write([]byte("\x05\x01\x00\x05\x01\x00\x07abc"))
	expect(t, conn, "\x05\x00\x05\x08\x00\x01\x00\x00\x00\x00\x00\x00")
}

func TestRefusedPort(t *testing.T) {
	// A socket that is bound and does not listen: nobody else can be given the port.
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	at, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	dest := Address{IP: netip.MustParseAddr("127.0.0.1"), Port: uint16(at.(*syscall.SockaddrInet4).Port)}
	addr, _ := begin(t, &Server{})
	c := connect(t, addr)
	c.Write(AppendRequest([]byte("\x05\x01\x00"), Request{Connect, dest}))
	expect(t, c, "\x05\x00")
	if r := reply(t, c); r.Code != ConnectionRefused {
		t.Errorf("%v", r.Code)
	}
}

func TestUsers(t *testing.T) {
	dest := addressOf(echo(t, "tcp4", "127.0.0.1:0"))
	addr, log := begin(t, &Server{Users: []User{{"ann", "one"}, {"bob", "two"}}})
	for _, c := range []struct {
		user User
		ok   bool
	}{{User{"ann", "one"}, true}, {User{"bob", "two"}, true}, {User{"ann", "two"}, false}, {User{"eve", ""}, false}} {
		conn := connect(t, addr)
		conn.Write([]byte("\x05\x02\x00\x02"))
		expect(t, conn, "\x05\x02")
		conn.Write(AppendUser(nil, c.user))
		if !c.ok {
			expect(t, conn, "\x01\x01")
			if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("%v: still open: %v", c.user, err)
			}
			continue
		}
		expect(t, conn, "\x01\x00")
		conn.Write(AppendRequest(nil, Request{Connect, dest}))
		if r := reply(t, conn); r.Code != Succeeded {
			t.Errorf("%v: %v", c.user, r.Code)
		}
	}
	conn := connect(t, addr)
	conn.Write([]byte("\x05\x01\x00"))
	expect(t, conn, "\x05\xff")
	if strings.Contains(log.String(), "two") {
		t.Error("a password is in the log")
	}
}

func TestForeignProtocols(t *testing.T) {
	addr, log := begin(t, &Server{})
	for _, c := range []struct{ sent, answer, logged string }{
		{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.0 501 ", "speaks HTTP"},
		{"CONNECT x:443 HTTP/1.1\r\n\r\n", "HTTP/1.0 501 ", "speaks HTTP"},
		{"\x04\x01\x00\x50\xc6\x12\x00\x01\x00", "\x00\x5b\x00\x00\x00\x00\x00\x00", "speaks SOCKS4"},
		{"\x16\x03\x01\x02\x00", "", "speaks TLS"},
		{"\x00\x00\x00garbage", "", "version 0, want 5"},
		{"\x05\x00", "", "no authentication method"},
		{"\x05\x01\x00\x09", "\x05\x00", "version 9, want 5"},
	} {
		conn := connect(t, addr)
		conn.Write([]byte(c.sent))
		got, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(got), c.answer) {
			t.Errorf("%q: got %q, %v", c.sent, got, err)
		}
		conn.Close()
		for end := time.Now().Add(time.Minute); !strings.Contains(log.String(), c.logged); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Errorf("%q: nothing logged of %q:\n%s", c.sent, c.logged, log)
				break
			}
		}
	}
}

func TestHandshakeDeadline(t *testing.T) {
	addr, log := begin(t, &Server{HandshakeTimeout: 50 * time.Millisecond})
	for _, sent := range []string{"", "\x05", "\x05\x01\x00\x05\x01"} {
		c := connect(t, addr)
		c.Write([]byte(sent))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q: still open", sent)
		}
	}
	if !strings.Contains(log.String(), "i/o timeout") {
		t.Errorf("no word of it in the log:\n%s", log)
	}
}

func TestHangupCancelsTheDial(t *testing.T) {
	for _, ahead := range []string{"", "octets"} {
		cancelled := make(chan error, 1)
		dialling := make(chan struct{})
		addr, _ := begin(t, &Server{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			close(dialling)
			<-ctx.Done()
			cancelled <- context.Cause(ctx)
			return nil, ctx.Err()
		}})
		c := connect(t, addr)
		c.Write(AppendRequest([]byte("\x05\x01\x00"), Request{Connect, Address{Name: "silent.example", Port: 1}}))
		expect(t, c, "\x05\x00")
		<-dialling
		if ahead != "" {
			// Octets sent ahead and then FIN is a client that has asked all it wants: no hangup.
			c.Write([]byte(ahead))
			c.CloseWrite()
			select {
			case err := <-cancelled:
				t.Errorf("cancelled: %v", err)
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		c.Close()
		select {
		case err := <-cancelled:
			if err != errHangup {
				t.Errorf("cause %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("the dial goes on")
		}
	}
}

func TestMaxClients(t *testing.T) {
	addr, log := begin(t, &Server{MaxClients: 1})
	first, second := connect(t, addr), connect(t, addr)
	first.Write([]byte("\x05\x01\x00"))
	expect(t, first, "\x05\x00")
	second.Write([]byte("\x05\x01\x00"))
	second.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := second.Read(make([]byte, 1)); err == nil {
		t.Fatal("a second client was served")
	}
	for end := time.Now().Add(time.Minute); !strings.Contains(log.String(), "as many clients as allowed"); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not logged")
		}
	}
	first.Close()
	second.SetReadDeadline(time.Now().Add(time.Minute))
	expect(t, second, "\x05\x00")
}

func TestCloseEndsEverything(t *testing.T) {
	dest := addressOf(echo(t, "tcp4", "127.0.0.1:0"))
	s := &Server{HandshakeTimeout: time.Hour}
	addr, _ := begin(t, s)
	relaying, waiting := connect(t, addr), connect(t, addr)
	relaying.Write(AppendRequest([]byte("\x05\x01\x00"), Request{Connect, dest}))
	expect(t, relaying, "\x05\x00")
	reply(t, relaying)
	waiting.Write([]byte("\x05"))
	began := time.Now()
	s.Close()
	if d := time.Since(began); d > 30*time.Second {
		t.Errorf("Close took %v", d)
	}
	for _, c := range []net.Conn{relaying, waiting} {
		if n, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after Close: %d octets, %v", n, err)
		}
	}
	ln, _ := net.Listen("tcp", "127.0.0.1:0")
	if err := s.Serve(ln); err != ErrServerClosed {
		t.Errorf("Serve after Close: %v", err)
	}
}

// curl, unmodified, against a real HTTP server.
func TestCurl(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	web, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hs := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(body) })}
	go hs.Serve(web)
	t.Cleanup(func() { hs.Close() })
	_, port, _ := net.SplitHostPort(web.Addr().String())
	// Names are the server's to resolve: "files.invalid" exists only here.
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if host, port, _ := net.SplitHostPort(addr); host == "files.invalid" {
			addr = net.JoinHostPort("127.0.0.1", port)
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	open, _ := begin(t, &Server{Dial: dial})
	closed, _ := begin(t, &Server{Dial: dial, Users: []User{{"ann", "p:ss"}}})
	curl := func(args ...string) ([]byte, error) {
		cmd := exec.Command("curl", append([]string{"-sS", "--max-time", "120", "--noproxy", ""}, args...)...)
		return cmd.Output()
	}
	for name, args := range map[string][]string{
		"socks5":          {"--socks5", open, "http://127.0.0.1:" + port},
		"socks5-hostname": {"--socks5-hostname", open, "http://files.invalid:" + port},
		"user":            {"--socks5-hostname", closed, "--proxy-user", "ann:p:ss", "http://files.invalid:" + port},
	} {
		if got, err := curl(args...); err != nil || !bytes.Equal(got, body) {
			t.Errorf("%s: %d octets, %v", name, len(got), err)
		}
	}
	const cannotConnect = 97 // CURLE_PROXY
	for name, args := range map[string][]string{
		"wrong password": {"--socks5", closed, "--proxy-user", "ann:no", "http://127.0.0.1:" + port},
		"no password":    {"--socks5", closed, "http://127.0.0.1:" + port},
		"refused":        {"--socks5", open, "http://127.0.0.1:1"},
	} {
		_, err := curl(args...)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != cannotConnect {
			t.Errorf("%s: %v", name, err)
		}
	}
}
