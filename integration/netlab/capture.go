package netlab

import (
	"bytes"
	"crypto/rand"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Capture is a running tcpdump on the router.
type Capture struct {
	File string // pcap

	t       testing.TB
	router  *Host
	iface   string
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
		args = append(args, fmt.Sprintf("(%s) or ether proto %#x", filter, markEtherType))
	}
	c := &Capture{File: file, t: t, router: l.Router, iface: iface, process: l.Router.Start(t, dir, "tcpdump-"+iface, args...)}
	t.Cleanup(func() {
		if !c.stopped {
			c.process.Kill()
		}
		if t.Failed() {
			Keep(t, file)
		}
	})
	WaitFor(t, Patience, "tcpdump to listen", func() error {
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
	time.Sleep(settling)
	c.drain()
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

// markEtherType is that of the frames by which a capture's end is told: for local experiments, of IEEE 802. Nobody
// answers them.
const markEtherType = 0x88b5

// settling is what packets that are under way have to reach the router.
const settling = 500 * time.Millisecond

// drain waits until tcpdump has written all that has passed the interface: a frame of its own that is sent last comes last
// in the file. The kernel hands over its current block when it is full or after at most a second, and tcpdump reads it when
// it comes to run; what it has not read when it is told to end is lost.
func (c *Capture) drain() {
	c.t.Helper()
	mark := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, markEtherType >> 8, markEtherType & 0xff}, rand.Text()...)
	if err := c.router.Do(func() error { return sendFrame(c.iface, mark) }); err != nil {
		c.t.Fatalf("mark the end of the capture: %v", err)
	}
	WaitFor(c.t, Patience, "tcpdump to write all there is", func() error {
		if c.process.Exited() {
			c.t.Fatalf("tcpdump ended: %s", c.process.Log())
		}
		return endsWith(c.File, mark)
	})
}

func sendFrame(iface string, frame []byte) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	i, err := net.InterfaceByName(iface)
	if err != nil {
		return err
	}
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: i.Index})
}

// endsWith reports an error unless the octets are among the last of a file. Others may have come behind.
func endsWith(file string, octets []byte) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	tail := make([]byte, min(info.Size(), 1<<20))
	if _, err := f.ReadAt(tail, info.Size()-int64(len(tail))); err != nil {
		return err
	}
	if !bytes.Contains(tail, octets) {
		return fmt.Errorf("the mark is not in the last %d of %d octets", len(tail), info.Size())
	}
	return nil
}

// Keep copies a file to the test's artifact directory and logs where, if artifacts are wanted (go test -artifacts): otherwise
// that directory goes with the test.
func Keep(t testing.TB, file string) {
	t.Helper()
	if f := flag.Lookup("test.artifacts"); f == nil || f.Value.String() != "true" {
		return
	}
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

// Patience is how long tests wait for what comes at once on a machine with nothing else to do. A loaded one may not let a
// program run for seconds. It guards against hanging only.
const Patience = time.Minute

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
