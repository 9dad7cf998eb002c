package tcpcrypt

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"innertun/tcpinc/tcpcrypt/crypttest"
)

// waitUntil fails the test unless cond comes to hold.
func waitUntil(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// reading reads c in the background until it ends, and returns what it has read so far.
func reading(c *Conn) (soFar func() []byte, end func() error) {
	var mu sync.Mutex
	var got []byte
	done := make(chan error, 1)
	go func() {
		p := make([]byte, 1000)
		for {
			n, err := c.Read(p)
			mu.Lock()
			got = append(got, p[:n]...)
			mu.Unlock()
			if err != nil {
				done <- err
				return
			}
		}
	}()
	return func() []byte {
			mu.Lock()
			defer mu.Unlock()
			return bytes.Clone(got)
		}, func() error {
			return <-done
		}
}

// A host that only reads answers a rekey at once, with an empty frame; data goes on under the new keys both ways.
func TestRekeyIsAnswered(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{})
	gotA, endA := reading(a)
	gotB, endB := reading(b)
	for gen := uint32(1); gen <= 3; gen++ {
		if err := a.Rekey(); err != nil {
			t.Fatal(err)
		}
		waitUntil(t, "answer", func() bool { return a.State().Received.Generation == gen })
		if s := b.State(); s.Sent.Generation != gen || s.Received.Generation != gen {
			t.Errorf("generation %d: B is at %+v", gen, s)
		}
		a.Write([]byte{byte(gen)})
		b.Write([]byte{byte(10 * gen)})
	}
	a.CloseWrite()
	b.CloseWrite()
	if errA, errB := endA(), endB(); errA != io.EOF || errB != io.EOF {
		t.Errorf("ends: %v, %v", errA, errB)
	}
	if string(gotA()) != "\x0a\x14\x1e" || string(gotB()) != "\x01\x02\x03" {
		t.Errorf("data %x and %x", gotA(), gotB())
	}
}

func TestRekeyOneAtATime(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{})
	if err := a.Rekey(); err != nil {
		t.Fatal(err)
	}
	if err := a.Rekey(); !errors.Is(err, ErrRekeyPending) {
		t.Errorf("second Rekey: %v", err)
	}
	if err := b.Rekey(); err != nil { // both at the same time: neither owes the other an answer
		t.Errorf("B's Rekey: %v", err)
	}
	reading(a)
	reading(b)
	waitUntil(t, "both at generation 1", func() bool {
		return a.State().Received.Generation == 1 && b.State().Received.Generation == 1
	})
	if a.State().Sent.Frames != 1 || b.State().Sent.Frames != 1 {
		t.Errorf("frames sent: %+v, %+v", a.State().Sent, b.State().Sent)
	}
}

// Rekeys at any time, from both sides, while both sides are blocked writing, lose nothing and block nobody.
func TestRekeyUnderLoad(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{Capacity: 5000})
	dataA, dataB := randomBytes(2_000_000, 1), randomBytes(2_000_000, 2)
	var wg sync.WaitGroup
	send := func(c *Conn, data []byte) {
		for len(data) > 0 {
			n := min(len(data), 1+rand.IntN(50_000))
			if _, err := c.Write(data[:n]); err != nil {
				t.Errorf("Write: %v", err)
			}
			data = data[n:]
			if err := c.Rekey(); err != nil && !errors.Is(err, ErrRekeyPending) {
				t.Errorf("Rekey: %v", err)
			}
		}
		c.CloseWrite()
	}
	receive := func(c *Conn, want []byte) {
		var got bytes.Buffer
		if _, err := c.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%d octets, %v", got.Len(), err)
		}
	}
	wg.Go(func() { send(a, dataA) })
	wg.Go(func() { send(b, dataB) })
	wg.Go(func() { receive(a, dataB) })
	receive(b, dataA)
	wg.Wait()
	if sa, sb := a.State(), b.State(); sa.Received.Generation < 1 || sa.Received.Generation != sb.Sent.Generation {
		t.Errorf("states %+v and %+v", sa, sb)
	}
}

// Of a host that has ended its stream no answer is due, and none comes.
func TestRekeyAfterFIN(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{})
	b.CloseWrite()
	_, end := reading(b)
	if err := a.Rekey(); err != nil {
		t.Fatal(err)
	}
	a.Write([]byte("x"))
	a.CloseWrite()
	if err := end(); err != io.EOF {
		t.Errorf("B: %v", err)
	}
	if got, err := io.ReadAll(a); len(got) != 0 || err != nil {
		t.Errorf("A: %q, %v", got, err)
	}
	if s := b.State(); s.Sent.Generation != 0 || s.Received.Generation != 1 {
		t.Errorf("B is at %+v", s)
	}
	if err := a.Rekey(); !errors.Is(err, ErrWriteClosed) {
		t.Errorf("Rekey after CloseWrite: %v", err)
	}
}

// Nor is one answered behind the last frame, when that was sealed and a deadline kept it from leaving.
func TestRekeyBehindTheLastFrame(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{})
	_, end := reading(b)
	b.SetWriteDeadline(time.Now().Add(-time.Second))
	if err := b.CloseWrite(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("CloseWrite: %v", err)
	}
	if err := a.Rekey(); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "the rekey", func() bool { return b.State().Received.Generation == 1 })
	b.SetWriteDeadline(time.Time{})
	if got, err := io.ReadAll(a); len(got) != 0 || err != nil {
		t.Errorf("A: %q, %v", got, err)
	}
	a.CloseWrite()
	if err := end(); err != io.EOF {
		t.Errorf("B: %v", err)
	}
	if s := b.State(); s.Sent.Generation != 0 || s.Sent.Frames != 1 {
		t.Errorf("B is at %+v", s)
	}
}

// A peer that rekeys without reading the answers is not followed for ever.
func TestRekeyFlood(t *testing.T) {
	a, b, la, lb := connect(t, crypttest.Options{})
	for i := 0; ; i++ { // fill the way to A, so that B's answers are stuck
		lb.SetWriteDeadline(time.Now().Add(time.Millisecond))
		if _, err := b.Write(make([]byte, 100_000)); errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	d := a.out.dir
	for range MaxUnanswered + 1 {
		if err := d.advance(); err != nil {
			t.Fatal(err)
		}
		frame := make([]byte, MinFrameLen)
		d.seal(frame, 0, true, false)
		la.Write(frame)
	}
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, ErrRekeyOverflow) {
		t.Errorf("Read: %v", err)
	}
}

// Several rekeys, each with data (RFC 8548 allows those at once), are each answered.
func TestRekeySeveralAhead(t *testing.T) {
	a, b, la, _ := connect(t, crypttest.Options{})
	d := a.out.dir
	var stream []byte
	for i := range 5 {
		d.advance()
		frame := sealed(t, d, []byte{byte(i)}, true, false)
		stream = append(stream, frame...)
	}
	la.Write(stream)
	p := make([]byte, 10)
	if n, err := b.Read(p); err != nil || n != 5 {
		t.Fatalf("Read: %x, %v", p[:n], err)
	}
	waitUntil(t, "answers", func() bool { return b.State().Sent.Generation == 5 })
	waitUntil(t, "five frames", func() bool { return b.State().Sent.Frames == 5 })
	reading(a)
	waitUntil(t, "A sees them", func() bool { return a.State().Received.Generation == 5 })
}

func TestKeyLogOncePerGeneration(t *testing.T) {
	var mu sync.Mutex
	var logs [2][]KeyLogEntry
	logTo := func(i int) func(KeyLogEntry) {
		return func(e KeyLogEntry) {
			mu.Lock()
			defer mu.Unlock()
			logs[i] = append(logs[i], e)
		}
	}
	a, b, _, _ := connect(t, crypttest.Options{}, func(ca, cb *Config) { ca.KeyLog, cb.KeyLog = logTo(0), logTo(1) })
	reading(a)
	reading(b)
	for gen := range uint32(3) {
		waitUntil(t, "Rekey", func() bool { return b.Rekey() == nil })
		waitUntil(t, "answer", func() bool { return b.State().Received.Generation == gen+1 })
	}
	mu.Lock()
	defer mu.Unlock()
	if len(logs[0]) != 4 || len(logs[1]) != 4 {
		t.Fatalf("%d and %d entries, want 4", len(logs[0]), len(logs[1]))
	}
	id, _ := a.SessionID()
	for i, e := range logs[0] {
		f := logs[1][i]
		if e.Generation != uint32(i) || f.Generation != e.Generation || !bytes.Equal(e.KAB, f.KAB) ||
			!bytes.Equal(e.KBA, f.KBA) || bytes.Equal(e.KAB, e.KBA) || !bytes.Equal(e.SessionID, id) {
			t.Errorf("entries %d: %+v and %+v", i, e, f)
		}
	}
}
