package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"innertun/integration/netlab"
)

// Ports of the server: what `serve` listens on, and the origin's own behind it on loopback.
const serveOrigins = `
[egress]
interface = "eth0"
[[serve]]
listen = ":80"
forward = "127.0.0.1:8080"
[[serve]]
listen = ":2001"
forward = "127.0.0.1:9001"
[[serve]]
listen = ":2002"
forward = "127.0.0.1:9002"
[[serve]]
listen = ":2003"
forward = "127.0.0.1:9003"
[[serve]]
listen = ":2004"
forward = "127.0.0.1:9004"
`

// TestConcurrency is about many connections at once, and about how connections end.
func TestConcurrency(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	web := lab.Server.StartNginx(t, 16<<20, "127.0.0.1:8080")
	lab.Server.Serve(t, "127.0.0.1:9001", answerSum)
	speakFirst := make(chan error, 4)
	lab.Server.Serve(t, "127.0.0.1:9002", func(c *net.TCPConn) { speakFirst <- sendThenRead(c) })
	flooded := make(chan error, 8)
	lab.Server.Serve(t, "127.0.0.1:9003", func(c *net.TCPConn) { flooded <- flood(c) })
	lab.Server.Serve(t, "127.0.0.1:9004", sayBye)
	server := startRun(t, lab.Server, serveOrigins)
	client := startRun(t, lab.Client, clientConfig)
	atRest := residentSize(t, client)

	for _, w := range ways(lab.Client) {
		t.Run(w.name, func(t *testing.T) {
			t.Run("200 downloads", func(t *testing.T) { manyDownloads(t, w, web, 200) })
			t.Run("100 uploads", func(t *testing.T) { manyUploads(t, w, web, 100) })
			t.Run("half-close by client", func(t *testing.T) {
				if err := exchange(t, w, families()[0].at(2001)); err != nil {
					t.Error(err)
				}
			})
			t.Run("half-close by server", func(t *testing.T) { halfCloseByServer(t, w, speakFirst, client, server) })
			t.Run("slow reader", func(t *testing.T) { slowReader(t, w, web) })
			t.Run("client aborts", func(t *testing.T) { abort(t, w, flooded) })
			t.Run("client killed", func(t *testing.T) { killClient(t, lab, w, flooded) })
			client.waitIdle(t)
			server.waitIdle(t)
		})
	}
	t.Run("same source port", func(t *testing.T) { sameSourcePort(t, lab.Client) })
	for _, d := range []*daemon{client, server} {
		for _, r := range d.conns(t) {
			if !r.Encrypted {
				t.Errorf("%s: not encrypted: %+v", d.host.Role, r)
			}
		}
	}
	// Buffers grow to 16 MiB each while a reader is slow; they may not stay.
	t.Logf("client: %d MiB resident at rest, %d afterwards; server %d", atRest>>20, residentSize(t, client)>>20, residentSize(t, server)>>20)
	if after := residentSize(t, client); after > atRest+400<<20 && os.Getenv("INNERTUN_RACE") != "1" {
		t.Errorf("client: %d MiB resident at rest, %d after all connections ended", atRest>>20, after>>20)
	}
}

func connect(t *testing.T, w way, address string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), netlab.Patience)
	defer cancel()
	c, err := w.dial(ctx, address)
	if err != nil {
		t.Fatalf("%s to %s: %v", w.name, address, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(3 * netlab.Patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

// many runs f n times at once.
func many(t *testing.T, n int, f func(ctx context.Context, i int) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*netlab.Patience)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, n)
	begin := time.Now()
	for i := range n {
		wg.Go(func() { errs[i] = f(ctx, i) })
	}
	wg.Wait()
	failed, first := 0, error(nil)
	for i, err := range errs {
		if err != nil {
			if failed++; first == nil {
				first = fmt.Errorf("number %d: %w", i, err)
			}
		}
	}
	if failed > 0 {
		t.Errorf("%d of %d failed, first: %v", failed, n, first)
	}
	t.Logf("%d in %v", n, time.Since(begin).Round(time.Millisecond))
}

// manyDownloads fetches parts of the file, n at once, half of them by each family.
func manyDownloads(t *testing.T, w way, web *netlab.Nginx, n int) {
	many(t, n, func(ctx context.Context, i int) error {
		const size = 128 << 10
		from := (i * 75_000) % (len(web.Data) - size)
		got, err := get(ctx, w, families()[i%2].at(80), from, from+size)
		if err == nil && !bytes.Equal(got, web.Data[from:from+size]) {
			err = fmt.Errorf("%w octets", errUnexpected)
		}
		return err
	})
}

// manyUploads sends n files at once.
func manyUploads(t *testing.T, w way, web *netlab.Nginx, n int) {
	many(t, n, func(ctx context.Context, i int) error {
		return putAndCheck(ctx, w, web, families()[i%2].at(80), fmt.Sprintf("%s-%d", w.name, i), pattern(byte(i), 100_000+i))
	})
}

func putAndCheck(ctx context.Context, w way, web *netlab.Nginx, address, name string, body []byte) error {
	if err := put(ctx, w, address, name, body); err != nil {
		return err
	}
	got, err := web.Uploaded(name)
	if err == nil && !bytes.Equal(got, body) {
		err = fmt.Errorf("%w upload of %d octets", errUnexpected, len(got))
	}
	return err
}

const firstSpeech = 2 << 20

// sendThenRead is an origin that ends its own direction first and checks what comes afterwards.
func sendThenRead(c *net.TCPConn) error {
	if _, err := c.Write(pattern(3, firstSpeech)); err != nil {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err == nil && !bytes.Equal(got, pattern(4, 1<<20)) {
		err = fmt.Errorf("%w %d octets", errUnexpected, len(got))
	}
	return err
}

func halfCloseByServer(t *testing.T, w way, origin <-chan error, daemons ...*daemon) {
	last := make(map[*daemon]uint64)
	for _, d := range daemons {
		last[d] = d.lastID(t)
	}
	c := connect(t, w, families()[1].at(2002))
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, pattern(3, firstSpeech)) {
		t.Fatalf("%d octets, %v", len(got), err)
	}
	// The server's direction has ended, which both ends know; ours goes on.
	for _, d := range daemons {
		closing := func(r record) bool {
			return r.ID > last[d] && r.State == "closing" && (strings.HasSuffix(r.Local, ":2002") || strings.HasSuffix(r.Remote, ":2002"))
		}
		netlab.WaitFor(t, netlab.Patience, "a connection to be closing", func() error {
			all := d.conns(t)
			if !slices.ContainsFunc(all, closing) {
				return fmt.Errorf("%+v", all)
			}
			return nil
		})
	}
	if _, err := c.Write(pattern(4, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, origin); err != nil {
		t.Errorf("origin: %v", err)
	}
}

func receive(t *testing.T, from <-chan error) error {
	t.Helper()
	select {
	case err := <-from:
		return err
	case <-time.After(netlab.Patience):
		t.Fatalf("nothing from the origin within %v", netlab.Patience)
		return nil
	}
}

func slowReader(t *testing.T, w way, web *netlab.Nginx) {
	c := connect(t, w, families()[0].at(80))
	if _, err := io.WriteString(c, "GET /file HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	for i := range 20 { // slowly at first, with a pause that lets every buffer on the way fill up
		if i == 1 {
			time.Sleep(1500 * time.Millisecond)
		}
		if _, err := io.CopyN(&got, c, 16<<10); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if _, err := io.Copy(&got, c); err != nil {
		t.Fatal(err)
	}
	if !bytes.HasSuffix(got.Bytes(), web.Data) {
		t.Errorf("%d octets, not those of the file", got.Len())
	}
}

// flood is an origin that sends without end; it returns why it could not go on.
func flood(c *net.TCPConn) error {
	b := pattern(5, 64<<10)
	for {
		if _, err := c.Write(b); err != nil {
			return err
		}
	}
}

// abort resets a connection in the midst of a transfer: the origin must see no clean end.
func abort(t *testing.T, w way, origin <-chan error) {
	c := connect(t, w, families()[0].at(2003))
	if _, err := io.ReadFull(c, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	wantAbort(t, origin)
}

func wantAbort(t *testing.T, origin <-chan error) {
	t.Helper()
	if err := receive(t, origin); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("origin: %v, want a reset", err)
	}
}

func killClient(t *testing.T, lab *netlab.Lab, w way, origin <-chan error) {
	dir := t.TempDir()
	file := filepath.Join(dir, "received")
	args := append([]string{"curl", "-sN", "--http0.9", "--limit-rate", "10M", "-o", file}, w.curl...)
	p := lab.Client.Start(t, dir, "curl", append(args, "http://"+families()[0].at(2003)+"/")...)
	netlab.WaitFor(t, netlab.Patience, "curl to receive something", func() error {
		if p.Exited() {
			t.Fatalf("curl ended early: %s", p.Log())
		}
		info, err := os.Stat(file)
		if err == nil && info.Size() == 0 {
			err = errors.New("nothing yet")
		}
		return err
	})
	p.Kill()
	wantAbort(t, origin)
}

// sayBye is an origin that closes first.
func sayBye(c *net.TCPConn) { _, _ = io.WriteString(c, "bye") }

// sameSourcePort connects again and again from one port to a server that closes first: whoever answers the
// application in the server's place keeps that connection in TIME-WAIT, and must let go of it for a new SYN.
func sameSourcePort(t *testing.T, h *netlab.Host) {
	for i := range 5 {
		for n, f := range families() {
			watch := netlab.StartStopwatch()
			c, err := dialFrom(t.Context(), h, 25_000+n, f.at(2004))
			wall, own := watch.Took()
			if err != nil {
				t.Fatalf("connection %d, %s: %v", i, f.name, err)
			}
			if own > 3*time.Second { // a TIME-WAIT lasts longer
				t.Errorf("connection %d, %s: open after %v", i, f.name, wall)
			}
			if got, err := io.ReadAll(c); err != nil || string(got) != "bye" {
				t.Errorf("connection %d, %s: %q, %v", i, f.name, got, err)
			}
			_ = c.Close()
		}
	}
}

func dialFrom(ctx context.Context, h *netlab.Host, port int, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, netlab.Patience)
	defer cancel()
	for {
		c, err := h.DialFrom(ctx, port, address)
		// Our own kernel waits for the acknowledgment of its FIN before it lets the port be used again.
		if !errors.Is(err, syscall.EADDRNOTAVAIL) || ctx.Err() != nil {
			return c, err
		}
		time.Sleep(time.Millisecond)
	}
}

// residentSize returns a daemon's memory in octets.
func residentSize(t testing.TB, d *daemon) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}
