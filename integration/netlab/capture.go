package netlab

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Capture is a running tcpdump on the router.
type Capture struct {
	File string // pcap

	t       testing.TB
	process *Process
	stopped bool
}

var dropped = regexp.MustCompile(`(\d+) packets dropped by kernel`)

// Capture starts tcpdump on an interface of the router. snaplen bounds the octets kept of each packet (0: all). If
// the test fails, the file stays in its artifact directory.
func (l *Lab) Capture(t testing.TB, iface string, snaplen int, filter string) *Capture {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "router-"+iface+".pcap")
	// A snapshot length of zero is tcpdump's own maximum, which holds a whole 64 KiB super-packet. Without
	// --immediate-mode the ring's slots have the packets' size, so that the ring holds far more of them.
	args := []string{"tcpdump", "-i", iface, "-n", "-p", "-s", strconv.Itoa(snaplen), "-B", "131072", "-U", "-Z", "root",
		"-w", file}
	if filter != "" {
		args = append(args, filter)
	}
	c := &Capture{File: file, t: t, process: l.Router.Start(t, dir, "tcpdump-"+iface, args...)}
	t.Cleanup(func() {
		if !c.stopped {
			c.process.Kill()
		}
		if t.Failed() {
			Keep(t, file)
		}
	})
	WaitFor(t, 10*time.Second, "tcpdump to listen", func() error {
		if strings.Contains(c.process.Log(), "listening on") {
			return nil
		}
		if c.process.Exited() {
			t.Fatalf("tcpdump ended: %s", c.process.Log())
		}
		return fmt.Errorf("log: %s", c.process.Log())
	})
	return c
}

// Stop ends the capture and returns the file. Packets that the kernel dropped fail the test: a capture with holes
// proves nothing.
func (c *Capture) Stop() string {
	c.t.Helper()
	if c.stopped {
		return c.File
	}
	// The kernel hands over its current block when it is full or after at most a second.
	time.Sleep(1100 * time.Millisecond)
	c.stopped = true
	if _, err := c.process.Stop(); err != nil {
		c.t.Fatalf("tcpdump: %v", err)
	}
	m := dropped.FindStringSubmatch(c.process.Log())
	if m == nil || m[1] != "0" {
		c.t.Fatalf("capture has holes: %s", c.process.Log())
	}
	return c.File
}

// Keep copies a file to the test's artifact directory and logs where.
func Keep(t testing.TB, file string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Logf("keep %s: %v", file, err)
		return
	}
	to := filepath.Join(t.ArtifactDir(), filepath.Base(file))
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Logf("keep %s: %v", file, err)
		return
	}
	t.Logf("kept %s", to)
}

// WaitFor polls until check returns nil; after the timeout the test ends with the last error.
func WaitFor(t testing.TB, timeout time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(timeout)
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s: %v", timeout, what, err)
		}
		time.Sleep(pause)
	}
}
