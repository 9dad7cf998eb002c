package tcpcrypt

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"innertun/tcpinc/tcpcrypt/crypttest"
)

func TestCloseIsACleanEnd(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{})
	a.Write([]byte("last words"))
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(b); string(got) != "last words" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if err := a.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read: %v", err)
	}
	if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write: %v", err)
	}
	if a.State().Phase != PhaseClosed || a.in.dir.aead != nil || a.out.dir.aead != nil || a.in.dir.master != (masterKey{}) {
		t.Errorf("state %+v, or keys are left", a.State())
	}
}

func TestCloseUnblocksRead(t *testing.T) { synctest.Test(t, testCloseUnblocksRead) }

func testCloseUnblocksRead(t *testing.T) {
	a, _, _, _ := connect(t, crypttest.Options{})
	_, end := reading(a)
	synctest.Wait()
	a.Close()
	if err := end(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read: %v", err)
	}
}

// Close while a Write is stuck cannot end the stream in order: the peer must not take it for a clean end.
func TestCloseDuringWrite(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{Capacity: 1000})
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := a.Write(make([]byte, 1_000_000)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write: %v", err)
		}
	})
	waitUntil(t, "Write under way", func() bool { return a.out.busy.Load() == 1 && a.State().Sent.Frames > 0 })
	if err := a.Close(); err == nil {
		t.Error("Close says all went well")
	}
	wg.Wait()
	if _, err := io.ReadAll(b); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("peer: %v", err)
	}
}

// Nor when there is no room for the last frame, for as long as Close waits.
func TestCloseWithoutRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _, _ := connect(t, crypttest.Options{Capacity: 1000})
		a.SetWriteDeadline(time.Now().Add(time.Second))
		if n, err := a.Write(make([]byte, 5000)); n != 5000 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write: %d, %v", n, err)
		}
		start := time.Now()
		if err := a.Close(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != closeTimeout {
			t.Errorf("Close: %v after %v", err, time.Since(start))
		}
		if _, err := io.ReadAll(b); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("peer: %v", err)
		}
	})
}

func TestAbort(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{})
	b.Write([]byte("unread"))
	if err := a.Abort(); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"Read":       func() error { _, err := a.Read(make([]byte, 9)); return err }(),
		"Write":      func() error { _, err := a.Write([]byte("x")); return err }(),
		"CloseWrite": a.CloseWrite(),
		"Rekey":      a.Rekey(),
		"Close":      a.Close(),
	} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := b.Read(make([]byte, 9)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("peer: %v", err)
	}
}

func TestBeforeHandshake(t *testing.T) {
	la, lb := crypttest.Pipe(crypttest.Options{})
	a, _ := newConns(t, la, lb, testConfig(1, Curve25519), testConfig(2, Curve25519))
	for name, err := range map[string]error{
		"Read":       func() error { _, err := a.Read(make([]byte, 9)); return err }(),
		"Write":      func() error { _, err := a.Write([]byte("x")); return err }(),
		"CloseWrite": a.CloseWrite(),
		"Rekey":      a.Rekey(),
	} {
		if !errors.Is(err, ErrNoSession) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := a.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if _, err := lb.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("peer: %v", err)
	}
}

func TestReadDeadlineLosesNothing(t *testing.T) { synctest.Test(t, testReadDeadlineLosesNothing) }

func testReadDeadlineLosesNothing(t *testing.T) {
	a, b, la, _ := connect(t, crypttest.Options{})
	b.SetReadDeadline(time.Now().Add(-time.Second))
	if _, err := b.Read(make([]byte, 9)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read: %v", err)
	}
	frame := sealed(t, a.out.dir, []byte("data"), false, false)
	la.Write(frame[:10])
	b.SetReadDeadline(time.Now().Add(5 * time.Millisecond)) // in the middle of a frame
	if _, err := b.Read(make([]byte, 9)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read: %v", err)
	}
	la.Write(frame[10:])
	b.SetReadDeadline(time.Time{})
	p := make([]byte, 9)
	if n, err := b.Read(p); string(p[:n]) != "data" || err != nil {
		t.Errorf("Read: %q, %v", p[:n], err)
	}
}

// What a write deadline cut off leaves once the deadline is moved, without a further call and before anything else.
func TestWriteDeadlineLosesNothing(t *testing.T) { synctest.Test(t, testWriteDeadlineLosesNothing) }

func testWriteDeadlineLosesNothing(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{Capacity: 1000})
	want := randomBytes(300_000, 3)
	a.SetWriteDeadline(time.Now().Add(5 * time.Millisecond))
	n, err := a.Write(want)
	if n == 0 || n >= len(want) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Write: %d, %v", n, err)
	}
	if k, err := a.Write(want[n:]); k != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("second Write: %d, %v", k, err)
	}
	got, end := reading(b)
	a.SetWriteDeadline(time.Time{})
	waitUntil(t, "the rest", func() bool { return len(got()) == n })
	if k, err := a.Write(want[n:]); k != len(want)-n || err != nil {
		t.Errorf("last Write: %d, %v", k, err)
	}
	a.CloseWrite()
	if err := end(); err != io.EOF || !bytes.Equal(got(), want) {
		t.Errorf("%d octets, %v", len(got()), err)
	}
}

// moving is a transport of which the deadline is moved as soon as a Write has run into it, before the Write returns.
type moving struct {
	Transport
	move func()
}

func (m *moving) Write(p []byte) (int, error) {
	n, err := m.Transport.Write(p)
	if passing(err) {
		m.move()
	}
	return n, err
}

// Nothing is left behind if the deadline is moved at the moment it cuts something off.
func TestWriteDeadlineMovedMeanwhile(t *testing.T) {
	la, lb := crypttest.Pipe(crypttest.Options{})
	lower := &moving{Transport: la}
	a, b := newConns(t, lower, lb, testConfig(1, Curve25519), testConfig(2, Curve25519))
	if errA, errB := handshakeBoth(t, a, b); errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	lower.move = func() { a.SetWriteDeadline(time.Time{}) }
	a.SetWriteDeadline(time.Now().Add(-time.Second))
	if n, err := a.Write([]byte("data")); n != 4 || err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Write: %d, %v", n, err)
	}
	b.SetReadDeadline(time.Now().Add(time.Minute))
	p := make([]byte, 9)
	if n, err := b.Read(p); string(p[:n]) != "data" || err != nil {
		t.Errorf("Read: %q, %v", p[:n], err)
	}
}

// So does the end of the stream.
func TestCloseWritePastDeadline(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{})
	a.SetWriteDeadline(time.Now().Add(-time.Second))
	if err := a.CloseWrite(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("CloseWrite: %v", err)
	}
	if _, err := a.Write([]byte("x")); !errors.Is(err, ErrWriteClosed) {
		t.Errorf("Write: %v", err)
	}
	a.SetWriteDeadline(time.Time{})
	if got, err := io.ReadAll(b); len(got) != 0 || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	waitUntil(t, "FIN", func() bool { return a.State().Phase == PhaseWriteClosed })
}

// A rekey is answered even if the application's last write deadline has passed: late, and harmlessly.
func TestRekeyPastWriteDeadline(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{})
	reading(a)
	reading(b)
	b.SetWriteDeadline(time.Now().Add(-time.Second))
	a.Rekey()
	waitUntil(t, "sealed answer", func() bool { return b.out.pending.Load() })
	if a.State().Received.Generation != 0 {
		t.Error("answered past the deadline")
	}
	b.SetWriteDeadline(time.Time{})
	waitUntil(t, "answer", func() bool { return a.State().Received.Generation == 1 })
}

// limited is a writer that takes only so much.
type limited struct {
	bytes.Buffer
	room int
}

func (l *limited) Write(p []byte) (int, error) {
	n, _ := l.Buffer.Write(p[:min(len(p), l.room)])
	l.room -= n
	if n < len(p) {
		return n, io.ErrShortBuffer
	}
	return n, nil
}

func TestWriteToKeepsWhatWasNotTaken(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{})
	want := randomBytes(200_000, 4)
	go func() { a.Write(want); a.CloseWrite() }()
	first := limited{room: 100_001}
	if n, err := b.WriteTo(&first); n != 100_001 || err != io.ErrShortBuffer {
		t.Errorf("WriteTo: %d, %v", n, err)
	}
	rest, err := io.ReadAll(struct{ io.Reader }{b})
	if err != nil || !bytes.Equal(append(first.Bytes(), rest...), want) {
		t.Errorf("%d octets and %d, %v", first.Len(), len(rest), err)
	}
}

// counting counts writes.
type counting struct {
	bytes.Buffer
	writes int
}

func (c *counting) Write(p []byte) (int, error) {
	c.writes++
	return c.Buffer.Write(p)
}

func TestSmallFramesAreMerged(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{})
	for range 1000 {
		a.Write([]byte("seven o"))
	}
	a.CloseWrite()
	var got counting // a small buffer first, then all the rest
	if n, err := b.WriteTo(&got); n != 7000 || err != nil || got.writes != 2 || got.String() != strings.Repeat("seven o", 1000) {
		t.Errorf("%d octets in %d writes, %v", n, got.writes, err)
	}
}

// Large writes go to the transport several frames at a time; large frames are handed on where they are.
func TestBulkIsBatched(t *testing.T) {
	a, b, la, _ := connect(t, crypttest.Options{})
	var writes []int
	la.Tap = func(_ uint64, p []byte) { writes = append(writes, len(p)) }
	a.Write(make([]byte, 5*a.maxData()))
	a.CloseWrite()
	if want := []int{4 * DefaultMaxFrame, DefaultMaxFrame, MinFrameLen}; !slices.Equal(writes, want) {
		t.Errorf("writes of %v octets, want %v", writes, want)
	}
	var got counting
	if n, err := b.WriteTo(&got); n != int64(5*a.maxData()) || err != nil || got.writes != 5 {
		t.Errorf("%d octets in %d writes, %v", n, got.writes, err)
	}
}

func TestReadFrom(t *testing.T) {
	a, b, la, _ := connect(t, crypttest.Options{})
	want := randomBytes(1_000_000, 5)
	source, sink := crypttest.Pipe(crypttest.Options{})
	go func() { source.Write(want); source.CloseWrite() }()
	var writes []int
	la.Tap = func(_ uint64, p []byte) { writes = append(writes, len(p)) }
	got, end := reading(b)
	if n, err := a.ReadFrom(sink); n != int64(len(want)) || err != nil {
		t.Errorf("ReadFrom: %d, %v", n, err)
	}
	if n, err := a.ReadFrom(strings.NewReader("then")); n != 4 || err != nil { // the stream is still open
		t.Errorf("ReadFrom: %d, %v", n, err)
	}
	a.CloseWrite()
	if err := end(); err != io.EOF || !bytes.Equal(got(), append(want, "then"...)) {
		t.Errorf("%d octets, %v", len(got()), err)
	}
	for _, n := range writes {
		if n > DefaultMaxFrame {
			t.Errorf("a write of %d octets", n)
		}
	}
}

// Interactive data leaves at once: a frame and a write each.
func TestReadFromDoesNotWait(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{})
	keys, source := crypttest.Pipe(crypttest.Options{})
	var wg sync.WaitGroup
	wg.Go(func() { a.ReadFrom(source) })
	for i := range 10 {
		keys.Write([]byte{byte(i)})
		p := make([]byte, 10)
		if n, err := b.Read(p); n != 1 || p[0] != byte(i) || err != nil {
			t.Fatalf("%x, %v", p[:n], err)
		}
	}
	keys.CloseWrite()
	wg.Wait()
}

// noWait hides WaitRead.
type noWait struct{ Transport }

func TestIdleHoldsNoBuffer(t *testing.T) { synctest.Test(t, testIdleHoldsNoBuffer) }

func testIdleHoldsNoBuffer(t *testing.T) {
	la, lb := crypttest.Pipe(crypttest.Options{})
	a, b := newConns(t, la, noWait{lb}, testConfig(1, Curve25519), testConfig(2, Curve25519))
	if errA, errB := handshakeBoth(t, a, b); errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	for _, c := range []*Conn{a, b} {
		other := a
		if c == a {
			other = b
		}
		held := func() int { // 0: none
			c.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("Read: %v", err)
			}
			c.SetReadDeadline(time.Time{})
			if c.in.buf == nil {
				return 0
			}
			return len(c.in.buf.b)
		}
		limit := 0
		if c == b {
			limit = smallBuffer // a transport that cannot wait costs a small one
		}
		if n := held(); n > limit {
			t.Errorf("after the handshake: %d octets, limit %d", n, limit)
		}
		go other.Write(make([]byte, 1_000_000))
		if _, err := io.ReadFull(c, make([]byte, 1_000_000)); err != nil {
			t.Fatal(err)
		}
		other.Write([]byte("x"))
		c.Read(make([]byte, 1))
		if c.in.buf != nil {
			t.Error("a buffer is held with nothing in it")
		}
		if n := held(); n > limit {
			t.Errorf("after bulk transfer: %d octets, limit %d", n, limit)
		}
		if c.out.hold != nil {
			t.Error("a sending buffer is held")
		}
	}
}

func TestOtherTransportThroughput(t *testing.T) {
	la, lb := crypttest.Pipe(crypttest.Options{})
	a, b := newConns(t, noWait{la}, noWait{lb}, testConfig(1, P256), testConfig(2, P256))
	if errA, errB := handshakeBoth(t, a, b); errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	want := randomBytes(3_000_000, 6)
	go func() { a.Write(want); a.CloseWrite() }()
	var got bytes.Buffer
	if _, err := b.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%d octets, %v", got.Len(), err)
	}
}

// Many goroutines at one Conn: each Write stays whole.
func TestConcurrentUse(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{Capacity: 10_000})
	const writers, each, size = 8, 50, 700
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for range each {
				if _, err := a.Write(bytes.Repeat([]byte{byte(i)}, size)); err != nil {
					t.Errorf("Write: %v", err)
				}
				a.State()
			}
		})
	}
	wg.Go(func() {
		count := [writers]int{}
		p := make([]byte, size)
		for range writers * each {
			if _, err := io.ReadFull(b, p); err != nil {
				t.Errorf("Read: %v", err)
				return
			}
			if !bytes.Equal(p, bytes.Repeat(p[:1], size)) {
				t.Error("writes are mixed")
			}
			count[p[0]]++
		}
		for i, n := range count {
			if n != each {
				t.Errorf("writer %d: %d of %d", i, n, each)
			}
		}
	})
	wg.Wait()
	for range 4 {
		wg.Go(func() { a.Close() })
		wg.Go(func() { b.Abort() })
		wg.Go(func() { a.Write([]byte("x")) })
		wg.Go(func() { b.Read(make([]byte, 1)) })
	}
	wg.Wait()
}

func TestNoAllocationPerFrame(t *testing.T) {
	for _, size := range []int{1, 1400, 60_000, 256 << 10} {
		a, b, _, _ := connect(t, crypttest.Options{})
		p, q := make([]byte, size), make([]byte, size)
		got := testing.AllocsPerRun(200, func() {
			if _, err := a.Write(p); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(b, q); err != nil {
				t.Fatal(err)
			}
		})
		if got > allocsPerWrite {
			t.Errorf("%d octets: %v allocations, limit %d", size, got, allocsPerWrite)
		}
		d, e := testDirection(t, AES128GCM, wayAB), testDirection(t, AES128GCM, wayAB)
		frame := make([]byte, min(size+frameOverhead, MaxFrameLen))
		if got := testing.AllocsPerRun(200, func() {
			d.seal(frame, len(frame)-frameOverhead, false, false)
			if _, err := e.open(frame); err != nil {
				t.Fatal(err)
			}
		}); got > 0 {
			t.Errorf("frame of %d octets: %v allocations", len(frame), got)
		}
	}
}
