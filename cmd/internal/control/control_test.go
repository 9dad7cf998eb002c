package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"innertun/internal/leak"

	"innertun/cmd/internal/conns"
	"innertun/tcpinc"
	"innertun/tcpinc/identity"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

var status = Status{Version: "v1", PID: 42, Uptime: 1234.5, Interface: "eth0", Link: LinkUp, Egress: "packet", Active: 2,
	Totals:     conns.Totals{Encrypted: 3, Plain: map[string]uint64{"peer-no-eno": 1}, Failed: map[string]uint64{}},
	Downgrades: 1}

var infos = []conns.Info{{ID: 1, Role: conns.Client, State: conns.Open}, {ID: 2, Role: conns.Server, State: conns.Failed, Error: "x\ny"}}

func begin(t *testing.T, path string) *Server {
	t.Helper()
	s, err := Listen(path, Source{Status: func() Status { return status }, Conns: func() []conns.Info { return infos }}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "control.sock")
	s := begin(t, path)
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	c := NewClient(path)
	st, err := c.Status(t.Context())
	if d := cmp.Diff(status, st); d != "" || err != nil {
		t.Error(d, err)
	}
	all, err := c.Conns(t.Context())
	if d := cmp.Diff(infos, all); d != "" || err != nil {
		t.Error(d, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	left, _ := os.ReadDir(filepath.Dir(path))
	if len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	var gone *NotRunningError
	if _, err := c.Status(t.Context()); !errors.As(err, &gone) || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
}

// The names and types are a contract with others.
func TestStatusKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	s, err := Listen(path, Source{Status: func() Status { return Status{} }}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /status HTTP/1.0\r\n\r\n")
	answer, _ := io.ReadAll(conn)
	_, body, _ := bytes.Cut(answer, []byte("\r\n\r\n"))
	var got map[string]any
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatalf("%s: %v", answer, err)
	}
	want := map[string]any{"version": "", "pid": 0.0, "uptime_ms": 0.0, "interface": "", "interface_state": "", "egress": "", "active": 0.0,
		"totals": map[string]any{"encrypted": 0.0, "plain": map[string]any{}, "failed": map[string]any{}}, "downgrades": 0.0}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	begin(t, path)
	_, err := Listen(path, Source{}, nil)
	var in *InUseError
	if !errors.As(err, &in) || in.PID != 42 {
		t.Errorf("%v", err)
	}
	if _, err := NewClient(path).Status(t.Context()); err != nil {
		t.Errorf("the first one was harmed: %v", err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	var gone *NotRunningError
	if _, err := NewClient(path).Conns(t.Context()); !errors.As(err, &gone) {
		t.Errorf("%v", err)
	}
	begin(t, path)
	if _, err := NewClient(path).Status(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestPathsThatDoNotDo(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file:                     "is no socket",
		filepath.Join(file, "s"): "not a directory",
		filepath.Join(dir, strings.Repeat("x", 120)): "too long",
	} {
		if _, err := Listen(path, Source{}, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if got, _ := os.ReadFile(file); string(got) != "precious" {
		t.Error("a file was replaced")
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func TestReplacedSocketStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	first := begin(t, path)
	os.Remove(path)
	begin(t, path)
	first.Close()
	if _, err := NewClient(path).Status(t.Context()); err != nil {
		t.Errorf("closing one removed the other's socket: %v", err)
	}
}

func TestGarbage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	begin(t, path)
	for _, c := range []struct{ sent, answer string }{
		{"\x00\xff\x13garbage\r\n\r\n", "HTTP/1.1 400"},
		{"GET /nothing HTTP/1.0\r\n\r\n", "HTTP/1.0 404"},
		{"POST /status HTTP/1.0\r\n\r\n", "HTTP/1.0 405"},
		{"GET /status HTTP/1.0\r\nX: " + strings.Repeat("a", 1<<20), "HTTP/1.1 431"},
	} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(time.Minute))
		go io.WriteString(conn, c.sent)
		got, _ := io.ReadAll(conn)
		conn.Close()
		if !strings.HasPrefix(string(got), c.answer) {
			t.Errorf("%.30q: %.60q", c.sent, got)
		}
	}
	idle, err := net.Dial("unix", path) // says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	if _, err := NewClient(path).Status(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	defer func() { ln.Close(); <-done }()
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, "SSH-2.0-x\r\n")
			conn.Close()
		}
	}()
	if _, err := NewClient(path).Status(context.Background()); err == nil || !strings.Contains(err.Error(), "does not answer as a daemon") {
		t.Errorf("%v", err)
	}
	_, err = Listen(path, Source{}, nil)
	var in *InUseError
	if !errors.As(err, &in) || in.PID != 0 {
		t.Errorf("%v", err)
	}
}

func TestPrint(t *testing.T) {
	var out bytes.Buffer
	PrintStatus(&out, status)
	const want = `innertun v1, pid 42, up 1.2s
interface   eth0 (packet)
active      2
encrypted   3
plain       1 (peer-no-eno 1)
failed      0
downgrades  1
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Error(d)
	}
	out.Reset()
	PrintConns(&out, []conns.Info{
		{ID: 1, Role: conns.Client, Remote: "198.18.0.1:80", State: conns.Open, Encrypted: true, Cipher: "chacha20-poly1305",
			TEP: "curve25519", RTT: 1.234, BytesIn: 3 << 20, BytesOut: 999, Age: 3723000},
		{ID: 12345, Role: conns.Server, Remote: "[fd00:1:2:3::4]:61000", State: conns.Closing, FallbackReason: "peer-no-eno", RTT: 120, BytesIn: 5 << 40},
		{ID: 12346, Role: conns.Client, Remote: "198.18.0.2:80", State: conns.Failed, Error: "dial tcp 198.18.0.1:61001->198.18.0.2:80: dial:\nconnection refused"},
		{ID: 12347, Role: conns.Client, Remote: "198.18.0.2:80", State: conns.Failed, FallbackReason: "peer-no-eno", Error: "198.18.0.2:80: encryption is required, but not to be had (peer-no-eno)"},
		{ID: 12348, Role: conns.Client, Remote: "198.18.0.2:80", State: conns.Failed, Encrypted: true, Error: "far side: read tcp 198.18.0.1:61001->198.18.0.2:80: read: connection reset by peer"},
		{ID: 12349, Role: conns.Client, Remote: "198.18.0.2:80", State: conns.Failed, Error: (&tcpinc.IdentityError{Err: &identity.ChangedError{Destination: "198.18.0.2:80"}}).Error()},
	})
	PrintConns(&out, []conns.Info{
		{ID: 12347, Remote: "198.18.0.3:80", State: conns.Open, FallbackReason: "syn-eno-dropped", Downgraded: true},
		{ID: 12348, Remote: "198.18.0.3:80", State: conns.Failed, FallbackReason: "eno-stripped", Downgraded: true, Error: "required"},
		{ID: 12351, Remote: "198.18.0.3:80", State: conns.Failed, FallbackReason: "policy-off", Error: "far side: read tcp a->b: read: connection reset by peer"},
		{ID: 12350, Role: conns.Server, Remote: "198.18.0.2:61000", State: conns.Closed, Encrypted: true, Cipher: "chacha20-poly1305", TEP: "curve25519", Resumed: true, Peer: peerKey},
		{ID: 12352, Role: conns.Client, Remote: "198.18.0.2:80", State: conns.Closed, Encrypted: true, Cipher: "chacha20-poly1305", TEP: "curve25519", Resumed: true, EarlyData: true, Peer: peerKey},
		{ID: 12353, Role: conns.Client, Remote: "198.18.0.2:80", State: conns.Closed, Encrypted: true, Cipher: "chacha20-poly1305", TEP: "curve25519", Downgraded: true, Peer: peerKey},
	})
	t.Log("\n" + out.String())
	for i, line := range strings.Split(out.String(), "\n") {
		if len(line) > 120 {
			t.Errorf("line %d has %d columns", i, len(line))
		}
	}
	for _, want := range []string{"chacha20-poly1305 curve25519 1.23ms 3.0MiB 999B 1h2m3s", "plain: peer-no-eno", "open downgraded: syn-eno-dropped", "failed downgraded: eno-stripped", "failed connection refused -", "failed encryption required: peer-no-eno", "failed far side: connection reset by peer", "198.18.0.3:80 failed far side: connection reset by peer",
		"failed not proven to be who is meant: --json -", "resumed, peer " + peerKey[8:18] + "... ",
		"curve25519 early data, peer ", "curve25519 downgraded, peer "} {
		if !strings.Contains(strings.Join(strings.Fields(out.String()), " "), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}
