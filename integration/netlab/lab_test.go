package netlab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

func fetch(t *testing.T, l *Lab, url, want string) {
	t.Helper()
	out := l.Client.MustRun(t, "sh", "-c", "curl -sSf --max-time 60 "+url+" | sha256sum")
	if got, _, _ := strings.Cut(out, " "); got != want {
		t.Fatalf("%s: sha256 %s, want %s", url, got, want)
	}
}

func TestKernelTransfer(t *testing.T) {
	l := New(t, Options{})
	n := l.Server.StartNginx(t, 4<<20, "198.18.2.2:8081", "[fd00:2::2]:8081")
	c := l.Capture(t, "c0", 0, "tcp port 8081")
	fetch(t, l, "http://198.18.2.2:8081/file", n.SHA256)
	fetch(t, l, "http://[fd00:2::2]:8081/file", n.SHA256)
	l.Client.MustRun(t, "sh", "-c", "head -c 100000 /dev/zero | curl -sSf -T - http://198.18.2.2:8081/up/x")
	if b, err := n.Uploaded("x"); err != nil || len(b) != 100000 {
		t.Fatalf("uploaded: %d octets, %v", len(b), err)
	}
	out, err := exec.Command("tcpdump", "-nr", c.Stop()).Output()
	if err != nil || bytes.Count(out, []byte("\n")) < 50 {
		t.Fatalf("capture: %v\n%s", err, out)
	}
}

func TestPathMTU(t *testing.T) {
	// A host that has learnt the path's MTU announces a smaller MSS, so each direction needs a topology of its own.
	for _, dir := range []string{"download", "upload"} {
		t.Run(dir, func(t *testing.T) {
			l := New(t, Options{PathMTU: 1280, RPFilter: 1})
			n := l.Server.StartNginx(t, 1<<20, "198.18.2.2:8081", "[fd00:2::2]:8081")
			sender, to4, to6 := l.Server, "198.18.1.2", "fd00:1::2"
			if dir == "download" {
				fetch(t, l, "http://198.18.2.2:8081/file", n.SHA256)
				fetch(t, l, "http://[fd00:2::2]:8081/file", n.SHA256)
			} else {
				sender, to4, to6 = l.Client, "198.18.2.2", "fd00:2::2"
				l.Client.MustRun(t, "sh", "-c", "head -c 300000 /dev/zero | curl -sSf -T - http://198.18.2.2:8081/up/4")
				l.Client.MustRun(t, "sh", "-c", "head -c 300000 /dev/zero | curl -sSf -T - http://[fd00:2::2]:8081/up/6")
			}
			for _, to := range []string{to4, to6} {
				// The router's ICMP message leaves its MTU in the sender's route cache.
				if out := sender.MustRun(t, "ip", "route", "get", to); !strings.Contains(out, "mtu 1280") {
					t.Errorf("%s: route to %s has no mtu 1280: %s", sender.Role, to, out)
				}
			}
		})
	}
}

func TestFailures(t *testing.T) {
	l := New(t, Options{})
	for _, c := range []struct {
		name string
		to   netip.Addr
		want error
	}{
		{"refused4", ServerIP4, syscall.ECONNREFUSED},
		{"refused6", ServerIP6, syscall.ECONNREFUSED},
		{"unreachable4", UnreachableIP4, syscall.EHOSTUNREACH},
		{"unreachable6", UnreachableIP6, syscall.EHOSTUNREACH},
		{"silent4", SilentIP4, context.DeadlineExceeded},
		{"silent6", SilentIP6, context.DeadlineExceeded},
	} {
		t.Run(c.name, func(t *testing.T) {
			// The kernel may miss the ICMP message to its first SYN, while connect still holds the socket.
			limit := 30 * time.Second
			if c.want == context.DeadlineExceeded {
				limit = 2500 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			_, err := l.Client.Dial(ctx, "tcp", netip.AddrPortFrom(c.to, 7).String())
			if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
				err = context.DeadlineExceeded
			}
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestServeAndDial(t *testing.T) {
	l := New(t, Options{})
	sum := make(chan string, 1)
	l.Server.Serve(t, "198.18.2.2:9", func(c *net.TCPConn) {
		var b bytes.Buffer
		_, err := b.ReadFrom(c)
		if err != nil {
			t.Error(err)
		}
		h := sha256.Sum256(b.Bytes())
		sum <- hex.EncodeToString(h[:])
	})
	c, err := l.Client.Dial(t.Context(), "tcp", "198.18.2.2:9")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("abc")); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-sum; !strings.HasPrefix(got, "ba7816bf") {
		t.Fatal(got)
	}
}

func TestOwnerOf(t *testing.T) {
	for name, want := range map[string]int{
		"itlab-12-0-client": 12, "itlab-x-0-client": 0, "other-12-0-client": 0, "itlab-12": 0, "": 0,
	} {
		if pid, ok := ownerOf(name); pid != want || ok != (want != 0) {
			t.Errorf("%q: %d, %v", name, pid, ok)
		}
	}
}

func TestRemoveStale(t *testing.T) {
	RequireRoot(t)
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	mine := New(t, Options{})
	stale := fmt.Sprintf("%s-%d-0-client", prefix, dead.ProcessState.Pid())
	if err := run("ip", "netns", "add", stale); err != nil {
		t.Fatal(err)
	}
	left := exec.Command("ip", "netns", "exec", stale, "sleep", "60")
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	// Not before ip has become sleep is the process in the namespace.
	WaitFor(t, Patience, "the process to enter the namespace", func() error {
		out, err := exec.Command("ip", "netns", "pids", stale).Output()
		if err == nil && len(out) == 0 {
			err = errors.New("no process in it")
		}
		return err
	})
	if err := RemoveStale(); err != nil {
		t.Fatal(err)
	}
	if err := left.Wait(); err == nil {
		t.Error("the process in the stale namespace went on")
	}
	out, err := exec.Command("ip", "netns", "list").Output()
	if err != nil || strings.Contains(string(out), stale) || !strings.Contains(string(out), mine.Client.Name) {
		t.Errorf("namespaces: %s, %v", out, err)
	}
}
