package relay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"innertun/internal/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// pair returns the two ends of a loopback connection.
func pair(t testing.TB) (*net.TCPConn, *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	near, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	for _, c := range []net.Conn{near, far} {
		c.SetDeadline(time.Now().Add(2 * time.Minute))
	}
	return near.(*net.TCPConn), far.(*net.TCPConn)
}

// own is a connection in the manner of this project's: it moves its own buffers, waits without one, and aborts.
type own struct {
	*net.TCPConn
	fault   error // returned by WriteTo in place of a clean end
	aborted atomic.Bool
	waiting atomic.Int32 // 1 within WaitRead
}

func (o *own) Abort() error { o.aborted.Store(true); o.SetLinger(0); return o.TCPConn.Close() }
func (o *own) WaitRead() error {
	o.waiting.Add(1)
	defer o.waiting.Add(-1)
	return rawReader(o.TCPConn).wait()
}
func (o *own) WriteTo(w io.Writer) (int64, error) {
	buf := make([]byte, 16<<10)
	var total int64
	for {
		n, err := o.Read(buf)
		if n > 0 {
			n, werr := w.Write(buf[:n])
			total += int64(n)
			if werr != nil {
				return total, werr
			}
		}
		if err == io.EOF {
			return total, o.fault
		}
		if err != nil {
			return total, err
		}
	}
}
func (o *own) ReadFrom(r io.Reader) (int64, error) {
	buf := make([]byte, 16<<10)
	var total int64
	for {
		if err := r.(interface{ WaitRead() error }).WaitRead(); err != nil && err != io.EOF {
			return total, err
		}
		n, err := r.Read(buf)
		if n > 0 {
			n, werr := o.Write(buf[:n])
			total += int64(n)
			if werr != nil {
				return total, werr
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// plain hides everything but net.Conn and CloseWrite.
type plain struct {
	net.Conn
	tcp *net.TCPConn
}

func (p plain) CloseWrite() error { return p.tcp.CloseWrite() }
func (p plain) Abort() error      { p.tcp.SetLinger(0); return p.tcp.Close() }

var kinds = map[string]func(*net.TCPConn) Conn{
	"kernel": func(c *net.TCPConn) Conn { return c },
	"own":    func(c *net.TCPConn) Conn { return &own{TCPConn: c} },
	"plain":  func(c *net.TCPConn) Conn { return plain{c, c} },
}

func eachKind(t *testing.T, f func(t *testing.T, a, b func(*net.TCPConn) Conn)) {
	for an, a := range kinds {
		for bn, b := range kinds {
			t.Run(an+"-"+bn, func(t *testing.T) { f(t, a, b) })
		}
	}
}

type world struct {
	client, server *net.TCPConn // the outer ends
	a, b           Conn
	toB, toA       atomic.Uint64
	half           atomic.Int32
	done           chan error
	cancel         context.CancelCauseFunc
}

func start(t *testing.T, cfg Config, mkA, mkB func(*net.TCPConn) Conn) *world {
	w := &world{done: make(chan error, 1)}
	client, a := pair(t)
	b, server := pair(t)
	a.SetDeadline(time.Time{})
	b.SetDeadline(time.Time{})
	w.client, w.server, w.a, w.b = client, server, mkA(a), mkB(b)
	ctx, cancel := context.WithCancelCause(context.Background())
	w.cancel = cancel
	t.Cleanup(func() { cancel(nil) })
	go func() {
		w.done <- New(cfg).Run(ctx, w.a, w.b, Observer{AToB: &w.toB, BToA: &w.toA, HalfClosed: func() { w.half.Add(1) }})
	}()
	return w
}

func (w *world) result(t *testing.T) error {
	t.Helper()
	select {
	case err := <-w.done:
		return err
	case <-time.After(time.Minute):
		t.Fatal("the relay did not end")
		return nil
	}
}

// until waits for cond, and fails the test if it does not come to hold.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func TestBothWaysWithHalfClose(t *testing.T) {
	eachKind(t, func(t *testing.T, a, b func(*net.TCPConn) Conn) {
		w := start(t, Config{}, a, b)
		up, down := random(3<<20+17), random(5<<20+3)
		go func() { w.client.Write(up); w.client.CloseWrite() }()
		got, err := io.ReadAll(w.server)
		if err != nil || sha256.Sum256(got) != sha256.Sum256(up) {
			t.Fatalf("upload: %d of %d octets, %v", len(got), len(up), err)
		}
		// The upload has ended; the other way is still open.
		until(t, "told of one half-close", func() bool { return w.half.Load() == 1 })
		go func() { w.server.Write(down); w.server.CloseWrite() }()
		got, err = io.ReadAll(w.client)
		if err != nil || !bytes.Equal(got, down) {
			t.Fatalf("download: %d of %d octets, %v", len(got), len(down), err)
		}
		if err := w.result(t); err != nil {
			t.Fatal(err)
		}
		if u, d := w.toB.Load(), w.toA.Load(); u != uint64(len(up)) || d != uint64(len(down)) {
			t.Errorf("counted %d up, %d down; want %d, %d", u, d, len(up), len(down))
		}
		if n := w.half.Load(); n != 1 {
			t.Errorf("told of %d half-closes, want 1", n)
		}
	})
}

func TestAbortBecomesAbort(t *testing.T) {
	eachKind(t, func(t *testing.T, a, b func(*net.TCPConn) Conn) {
		for _, side := range []string{"client", "server"} {
			t.Run(side, func(t *testing.T) {
				w := start(t, Config{}, a, b)
				dies, sees := w.client, w.server
				if side == "server" {
					dies, sees = sees, dies
				}
				dies.Write([]byte("some octets"))
				if _, err := io.ReadFull(sees, make([]byte, 11)); err != nil {
					t.Fatal(err)
				}
				dies.SetLinger(0)
				dies.Close()
				if _, err := sees.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the other side saw %v, want a reset", err)
				}
				var e *Error
				if err := w.result(t); !errors.As(err, &e) || !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("result %v", err)
				}
				if n := w.half.Load(); n != 0 {
					t.Errorf("an abort passed for %d half-closes", n)
				}
			})
		}
	})
}

func TestIntegrityErrorIsNoCleanEnd(t *testing.T) {
	broken := errors.New("authentication failed")
	w := start(t, Config{}, kinds["kernel"], func(c *net.TCPConn) Conn { return &own{TCPConn: c, fault: broken} })
	w.server.Write([]byte("truncated"))
	w.server.CloseWrite()
	got, err := io.ReadAll(w.client)
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client got %q and %v, want a reset", got, err)
	}
	if err := w.result(t); !errors.Is(err, broken) {
		t.Errorf("result %v", err)
	}
	if !w.b.(*own).aborted.Load() {
		t.Error("the failing side was not aborted")
	}
}

// wrappedEOF ends with an error that only wraps io.EOF, which is not a clean end.
type wrappedEOF struct{ plain }

func (w wrappedEOF) Read(p []byte) (int, error) {
	n, err := w.plain.Read(p)
	if err == io.EOF {
		err = errors.Join(errors.New("cut short"), io.EOF)
	}
	return n, err
}

func TestOnlyEOFItselfIsClean(t *testing.T) {
	for _, to := range []string{"kernel", "own"} {
		t.Run(to, func(t *testing.T) {
			w := start(t, Config{}, func(c *net.TCPConn) Conn { return wrappedEOF{plain{c, c}} }, kinds[to])
			w.client.CloseWrite()
			if _, err := w.server.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the server saw %v, want a reset", err)
			}
			if w.result(t) == nil {
				t.Error("a truncated stream ended well")
			}
		})
	}
}

// A destination that stops reading early must not look like a transfer that is complete.
type lazy struct{ own }

func (l *lazy) ReadFrom(r io.Reader) (int64, error) { return 0, nil }

func TestReadFromThatStopsEarly(t *testing.T) {
	w := start(t, Config{Drain: 10 * time.Millisecond}, kinds["kernel"],
		func(c *net.TCPConn) Conn { return &lazy{own{TCPConn: c}} })
	if err := w.result(t); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("result %v", err)
	}
}

// What a server said before it refused the rest of an upload still arrives.
func TestAnswerBeforeReset(t *testing.T) {
	eachKind(t, func(t *testing.T, a, b func(*net.TCPConn) Conn) {
		w := start(t, Config{}, a, b)
		w.client.Write([]byte("POST"))
		io.ReadFull(w.server, make([]byte, 4))
		answer := []byte("413 too large")
		w.server.Write(answer)
		got := make([]byte, len(answer))
		if _, err := io.ReadFull(w.client, got); err != nil || !bytes.Equal(got, answer) {
			t.Fatalf("%q %v", got, err)
		}
		w.server.SetLinger(0)
		w.server.Close()
		for { // keeps on uploading until it is told
			if _, err := w.client.Write(make([]byte, 1<<10)); err != nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if err := w.result(t); err == nil {
			t.Error("an upload that was cut off ended well")
		}
	})
}

func TestSlowReaderStallsTheSender(t *testing.T) {
	eachKind(t, func(t *testing.T, a, b func(*net.TCPConn) Conn) {
		w := start(t, Config{}, a, b)
		w.client.SetReadBuffer(256 << 10)
		data := random(8 << 20)
		go func() { w.server.Write(data); w.server.Close() }()
		h := sha256.New()
		buf := make([]byte, 64<<10)
		for i := 0; ; i++ {
			n, err := w.client.Read(buf)
			h.Write(buf[:n])
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if i < 20 {
				time.Sleep(5 * time.Millisecond)
			}
		}
		want := sha256.Sum256(data)
		if !bytes.Equal(h.Sum(nil), want[:]) {
			t.Error("the octets differ")
		}
		w.client.Close()
		if err := w.result(t); err != nil {
			t.Error(err)
		}
	})
}

func TestContextEndsIt(t *testing.T) {
	eachKind(t, func(t *testing.T, a, b func(*net.TCPConn) Conn) {
		w := start(t, Config{}, a, b)
		why := errors.New("shutting down")
		w.cancel(why)
		if err := w.result(t); !errors.Is(err, why) {
			t.Errorf("result %v", err)
		}
		for _, c := range []net.Conn{w.client, w.server} {
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("a side saw %v, want a reset", err)
			}
		}
	})
}

// deaf takes no octets, and never ends by itself.
type deaf struct{ own }

func (d *deaf) Write([]byte) (int, error)           { return 0, syscall.EPIPE }
func (d *deaf) ReadFrom(r io.Reader) (int64, error) { return io.Copy(struct{ io.Writer }{d}, r) }

func TestDrainIsBounded(t *testing.T) {
	w := start(t, Config{Drain: 50 * time.Millisecond}, kinds["kernel"],
		func(c *net.TCPConn) Conn { return &deaf{own{TCPConn: c}} })
	began := time.Now()
	w.client.Write([]byte("x"))
	if err := w.result(t); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("result %v", err)
	}
	if d := time.Since(began); d > 30*time.Second {
		t.Errorf("took %v", d)
	}
}

// slow takes a moment to tell the other end why it is aborted. To abort it in another way cuts that short.
type slow struct {
	own
	deaf  bool
	tells chan struct{}
	told  chan struct{} // ends the moment
	cut   atomic.Bool
	calls atomic.Int32
}

func (s *slow) AbortFor(error) error {
	if s.calls.Add(1) == 1 {
		close(s.tells)
		<-s.told
	}
	return nil
}

func (s *slow) Abort() error {
	select {
	case <-s.told:
	default:
		s.cut.Store(true)
	}
	return s.own.Abort()
}

func (s *slow) Write(b []byte) (int, error) {
	if s.deaf {
		return 0, syscall.EPIPE
	}
	return s.own.Write(b)
}

func (s *slow) ReadFrom(r io.Reader) (int64, error) { return io.Copy(struct{ io.Writer }{s}, r) }

// One side is aborted at once, which ends a direction, while the other one is still told why: it is let finish, and Run
// returns no sooner.
func TestAbortIsLetFinish(t *testing.T) {
	for _, why := range []string{"cancelled", "drained"} {
		t.Run(why, func(t *testing.T) {
			s := &slow{deaf: why == "drained", tells: make(chan struct{}), told: make(chan struct{})}
			w := start(t, Config{Drain: time.Millisecond}, kinds["kernel"], func(c *net.TCPConn) Conn {
				s.TCPConn = c
				return s
			})
			cause := syscall.EPIPE
			if s.deaf {
				w.client.Write([]byte("x"))
			} else {
				cause = syscall.ESHUTDOWN
				w.cancel(cause)
			}
			<-s.tells
			if _, err := w.client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the client saw %v, want a reset", err)
			}
			time.Sleep(50 * time.Millisecond) // for what should not come
			if s.cut.Load() || len(w.done) > 0 {
				t.Errorf("cut short: %v, returned: %v", s.cut.Load(), len(w.done) > 0)
			}
			close(s.told)
			if err := w.result(t); !errors.Is(err, cause) {
				t.Errorf("result %v", err)
			}
			if n := s.calls.Load(); n != 1 {
				t.Errorf("aborted %d times", n)
			}
		})
	}
}

func TestReadDeadlineIsAnError(t *testing.T) {
	eachKind(t, func(t *testing.T, a, b func(*net.TCPConn) Conn) {
		w := start(t, Config{}, a, b)
		w.a.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if err := w.result(t); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("result %v", err)
		}
	})
}

func TestIdleHoldsNoBuffers(t *testing.T) {
	const n = 150 // would be 37 MiB with a buffer each way
	r := New(Config{})
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	defer wg.Wait()
	defer cancel()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range n {
		client, a := pair(t)
		b, server := pair(t)
		wg.Go(func() { r.Run(ctx, a, b, Observer{}) })
		client.Write([]byte("ping"))
		if _, err := io.ReadFull(server, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		server.Write([]byte("pong"))
		if _, err := io.ReadFull(client, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.GC() // empties the pool's victims too
	runtime.ReadMemStats(&after)
	if got := int64(after.HeapAlloc) - int64(before.HeapAlloc); got > 8<<20 {
		t.Errorf("%d idle connections hold %d KiB", n, got>>10)
	}
}

func BenchmarkRelay(b *testing.B) {
	for name, mk := range kinds {
		b.Run("kernel-"+name, func(b *testing.B) {
			client, x := pair(b)
			y, server := pair(b)
			for _, c := range []net.Conn{client, server, x, y} {
				c.SetDeadline(time.Time{})
			}
			done := make(chan error, 1)
			go func() { done <- New(Config{}).Run(context.Background(), x, mk(y), Observer{}) }()
			go func() {
				buf := make([]byte, 256<<10)
				for {
					if _, err := server.Read(buf); err != nil {
						server.Close()
						return
					}
				}
			}()
			chunk := make([]byte, 1<<20)
			b.SetBytes(int64(len(chunk)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.Write(chunk); err != nil {
					b.Fatal(err)
				}
			}
			client.Close()
			<-done
		})
	}
}
