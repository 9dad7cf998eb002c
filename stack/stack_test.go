package stack_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"innertun/internal/leak"

	"innertun/stack"
	"innertun/stack/stacktest"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

var (
	client4 = netip.MustParsePrefix("198.18.0.1/24")
	server4 = netip.MustParsePrefix("198.18.0.2/24")
	client6 = netip.MustParsePrefix("fd00::1/64")
	server6 = netip.MustParsePrefix("fd00::2/64")
)

const testTimeout = 2 * time.Minute // for what hangs

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// world is two stacks on one path: the client is A, the server B.
type world struct {
	path           *stacktest.Path
	client, server *stack.Stack
}

func newWorld(t testing.TB, delay time.Duration, change ...func(c, s *stack.Config)) *world {
	t.Helper()
	w := &world{path: stacktest.NewPath(t, 1500, delay)}
	c := stack.Config{Link: w.path.A, Addresses: []netip.Prefix{client4, client6}, Routes: routes}
	s := stack.Config{Link: w.path.B, Addresses: []netip.Prefix{server4, server6}, Routes: routes}
	for _, f := range change {
		f(&c, &s)
	}
	w.client, w.server = newStack(t, c), newStack(t, s)
	return w
}

// still gives both stacks clocks that stand still: no timer of theirs expires, however long a step takes.
func still(c, s *stack.Config) { c.Clock, s.Clock = stacktest.NewClock(), stacktest.NewClock() }

var routes = []stack.Route{{Prefix: netip.MustParsePrefix("0.0.0.0/0")}, {Prefix: netip.MustParsePrefix("::/0")}}

func newStack(t testing.TB, cfg stack.Config) *stack.Stack {
	t.Helper()
	s, err := stack.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func (w *world) listen(t testing.TB, at netip.AddrPort, h func(stack.Flow) stack.Handshake) *stack.Listener {
	t.Helper()
	l, err := w.server.Listen(at, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// connect opens one connection and returns both its ends.
func (w *world) connect(t testing.TB, l *stack.Listener, to netip.AddrPort, h stack.Handshake) (c, s *stack.Conn) {
	t.Helper()
	c, err := w.client.Dial(testContext(t), stack.Flow{Remote: to}, h)
	if err != nil {
		t.Fatal(err)
	}
	s, err = l.AcceptConn()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	for _, x := range []*stack.Conn{c, s} {
		x.SetDeadline(time.Now().Add(testTimeout))
	}
	return c, s
}

// inTime measures until once no more than limit was taken. A busy machine makes each of some runs late; what waits for a
// timer is late in all.
func inTime(t testing.TB, limit time.Duration, run func() time.Duration) {
	t.Helper()
	const runs = 10
	best := run()
	for n := 1; n < runs && best > limit; n++ {
		best = min(best, run())
	}
	if best > limit {
		t.Errorf("it takes %v", best)
	}
}

// families runs a test over IPv4 and IPv6.
func families(t *testing.T, f func(t *testing.T, at netip.AddrPort)) {
	t.Run("IPv4", func(t *testing.T) { f(t, netip.AddrPortFrom(server4.Addr(), 80)) })
	t.Run("IPv6", func(t *testing.T) { f(t, netip.AddrPortFrom(server6.Addr(), 80)) })
}

// carry sends data one way and checks that it arrives.
func carry(t testing.TB, from, to *stack.Conn, data []byte) {
	t.Helper()
	sent := make(chan error, 1)
	go func() {
		_, err := from.Write(data)
		sent <- err
	}()
	got := make([]byte, len(data))
	if _, err := io.ReadFull(to, got); err != nil {
		t.Fatalf("reading: %v", err)
	}
	if err := <-sent; err != nil {
		t.Fatalf("writing: %v", err)
	}
	if sha256.Sum256(got) != sha256.Sum256(data) {
		t.Fatal("the data arrived changed")
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.New(rand.NewSource(1)).Read(b)
	return b
}

func TestDialAndTransfer(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		w := newWorld(t, 0)
		l := w.listen(t, at, nil)
		c, s := w.connect(t, l, at, nil)
		if c.RemoteAddr().String() != at.String() || s.LocalAddr().String() != at.String() || c.LocalAddr().String() != s.RemoteAddr().String() {
			t.Fatalf("addresses do not match: %v-%v, %v-%v", c.LocalAddr(), c.RemoteAddr(), s.LocalAddr(), s.RemoteAddr())
		}
		data := randomBytes(3 << 20)
		carry(t, c, s, data)
		carry(t, s, c, data)
		if info := c.Info(); info.State != "ESTABLISHED" || info.RTT <= 0 || info.SegmentsSent == 0 {
			t.Fatalf("Info: %+v", info)
		}
	})
}

func TestHalfClose(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		w := newWorld(t, 0)
		c, s := w.connect(t, w.listen(t, at, nil), at, nil)
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if n, err := s.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Fatalf("Read after the peer's FIN: %d, %v", n, err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Fatalf("Write after CloseWrite: %v", err)
		}
		carry(t, s, c, randomBytes(100000))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Fatalf("Read at the end: %d, %v", n, err)
		}
	})
}

func TestAbort(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		w := newWorld(t, 0)
		c, s := w.connect(t, w.listen(t, at, nil), at, nil)
		if err := c.Abort(); err != nil {
			t.Fatal(err)
		}
		for range 3 { // and it stays an error: never a clean end
			if _, err := s.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Fatalf("Read after the peer's RST: %v", err)
			}
			if _, err := s.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
				t.Fatalf("Write after the peer's RST: %v", err)
			}
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("Read after Abort: %v", err)
		}
	})
}

func TestDialRefused(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		w := newWorld(t, 0)
		_, err := w.client.Dial(testContext(t), stack.Flow{Remote: at}, nil)
		var op *net.OpError
		if !errors.Is(err, syscall.ECONNREFUSED) || !errors.As(err, &op) || op.Op != "dial" {
			t.Fatalf("Dial: %v", err)
		}
	})
}

func TestDialCancelled(t *testing.T) {
	w := newWorld(t, 0)
	w.path.SetTap(func(stacktest.Direction, stacktest.Packet) [][]byte { return nil })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := w.client.Dial(ctx, stack.Flow{Remote: netip.AddrPortFrom(server4.Addr(), 80)}, nil)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Dial: %v", err)
	}
}

func TestDeadlines(t *testing.T) {
	at := netip.AddrPortFrom(server4.Addr(), 80)
	w := newWorld(t, 0)
	c, s := w.connect(t, w.listen(t, at, nil), at, nil)
	c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	for range 2 {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("Read: %v", err)
		}
		if err := c.WaitRead(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("WaitRead: %v", err)
		}
	}
	c.SetReadDeadline(time.Time{})
	carry(t, s, c, []byte("still good"))

	// A deadline set while a Read waits applies to it.
	got := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		got <- err
	}()
	time.Sleep(10 * time.Millisecond)
	c.SetReadDeadline(time.Now())
	var ne net.Error
	if err := <-got; !errors.As(err, &ne) || !ne.Timeout() {
		t.Fatalf("Read: %v", err)
	}

	// Nobody reads: Write gets as far as the buffers go and tells how far.
	large := make([]byte, 64<<20)
	c.SetWriteDeadline(time.Time{})
	go func() {
		s.WaitRead() // until it has begun
		c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	}()
	n, err := c.Write(large)
	if !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 {
		t.Fatalf("Write: %d, %v", n, err)
	}
}

func TestWaitReadAndWriteTo(t *testing.T) {
	at := netip.AddrPortFrom(server4.Addr(), 80)
	w := newWorld(t, 0)
	c, s := w.connect(t, w.listen(t, at, nil), at, nil)
	data := randomBytes(1 << 20)
	go func() {
		time.Sleep(20 * time.Millisecond)
		c.Write(data)
		c.CloseWrite()
	}()
	if err := s.WaitRead(); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	n, err := s.WriteTo(&got)
	if err != nil || n != int64(len(data)) || !bytes.Equal(got.Bytes(), data) {
		t.Fatalf("WriteTo: %d, %v", n, err)
	}
	if err := s.WaitRead(); err != nil { // the end is there to be read
		t.Fatal(err)
	}
}

func TestStackClose(t *testing.T) {
	at := netip.AddrPortFrom(server4.Addr(), 80)
	w := newWorld(t, 0)
	l := w.listen(t, at, nil)
	c, s := w.connect(t, l, at, nil)
	accepted := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		accepted <- err
	}()
	read := make(chan error, 1)
	go func() {
		_, err := s.Read(make([]byte, 1))
		read <- err
	}()
	time.Sleep(10 * time.Millisecond)
	if err := w.server.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Fatalf("Accept: %v", err)
	}
	if err := <-read; err == nil || err == io.EOF {
		t.Fatalf("Read: %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("Read at the peer: %v", err)
	}
	if _, err := w.server.Dial(t.Context(), stack.Flow{Remote: at}, nil); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("Dial: %v", err)
	}
}

func contextWithTimeout(t testing.TB, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}
