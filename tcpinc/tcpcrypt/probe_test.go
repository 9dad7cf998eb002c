package tcpcrypt

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"innertun/tcpinc/tcpcrypt/crypttest"
)

// probe asks with c, and returns what came of it and when.
func probe(t *testing.T, c *Conn, p Probe) (result func() (alive bool, after time.Duration)) {
	t.Helper()
	start := time.Now()
	type end struct {
		alive bool
		after time.Duration
	}
	done := make(chan end, 2)
	p.Done = func(alive bool) { done <- end{alive, time.Since(start)} }
	if err := c.Probe(p); err != nil {
		t.Fatal(err)
	}
	return func() (bool, time.Duration) {
		e := <-done
		time.Sleep(time.Minute)
		if len(done) > 0 {
			t.Error("told twice")
		}
		return e.alive, e.after
	}
}

const soon = 100 * time.Millisecond // in virtual time: at once

func TestProbeAnswered(t *testing.T) {
	for _, who := range []string{"both read", "only the peer reads"} {
		synctest.Test(t, func(t *testing.T) {
			a, b, _, _ := connect(t, crypttest.Options{})
			_, endB := reading(b)
			if who == "both read" {
				_, endA := reading(a)
				defer endA()
			}
			alive, after := probe(t, a, Probe{Beyond: a.ReceivedOctets(), Limit: time.Second})()
			if s := a.State(); !alive || after > soon || s.Sent.Generation != 1 || s.Received.Generation != 1 {
				t.Errorf("%s: %v after %v, %+v", who, alive, after, s)
			}
			a.Close()
			b.Close()
			endB()
		})
	}
}

// The peer's TCP takes what is sent, and nothing comes back.
func TestProbeUnanswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _, _ := connect(t, crypttest.Options{})
		_, endA := reading(a)
		for _, limit := range []time.Duration{time.Second, 4 * time.Second, time.Minute} {
			alive, after := probe(t, a, Probe{Limit: limit, Beyond: 1 << 40})()
			if want := min(limit, MaxProbe); alive || after < want || after > want+limit/probeLooks+soon {
				t.Errorf("limit %v: %v after %v", limit, alive, after)
			}
		}
		if s := a.State(); s.Sent.Generation != 1 || s.Sent.Frames != 1 || s.Phase != PhaseOpen {
			t.Errorf("an unanswered rekey serves for the next question: %+v", s)
		}
		if a.aims() {
			t.Error("data would carry a second rekey")
		}
		_, endB := reading(b)
		synctest.Wait()
		if alive, after := probe(t, a, Probe{Limit: time.Second})(); !alive || after > soon {
			t.Errorf("%v after %v", alive, after)
		}
		a.Close()
		b.Close()
		endA()
		endB()
	})
}

// Data that had been sent before the question arose is no answer; data beyond it is one.
func TestProbeBeyond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _, _ := connect(t, crypttest.Options{})
		b.Write(make([]byte, 1000)) // and B reads nothing
		beyond := a.ReceivedOctets() + 1000 + frameOverhead
		if alive, after := probe(t, a, Probe{Beyond: beyond, Limit: time.Second})(); alive || after < time.Second {
			t.Errorf("by old data: %v after %v", alive, after)
		}
		result := probe(t, a, Probe{Beyond: beyond, Limit: time.Second})
		time.Sleep(500 * time.Millisecond)
		b.Write([]byte("x"))
		if alive, after := result(); !alive || after > 600*time.Millisecond {
			t.Errorf("by new data: %v after %v", alive, after)
		}
		got := make([]byte, 1001)
		if _, err := io.ReadFull(a, got); err != nil || !bytes.Equal(got, append(make([]byte, 1000), 'x')) {
			t.Errorf("%v, %.10x", err, got)
		}
	})
}

// blocked is a writer that takes nothing until it is opened, and says when it is first given something.
type blocked struct {
	entered, open chan struct{}
	once          sync.Once
	bytes.Buffer
}

func (w *blocked) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.entered) })
	<-w.open
	return w.Buffer.Write(p)
}

func keptAhead(c *Conn) int {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	return len(c.in.ahead)
}

// A relay waits for its other side, in the middle of a transfer: the question is answered all the same, and no octet
// is lost or out of place. The answer stands behind what the peer sends.
func TestProbeReadsAhead(t *testing.T) {
	for _, size := range []int{100, 10_000, 3 << 20} {
		t.Run(strconv.Itoa(size), func(t *testing.T) { // by the real clock: mutexes are waited for
			const room = 128 << 10
			a, b, _, lb := connect(t, crypttest.Options{Capacity: room})
			_, endB := reading(b)
			sent := randomBytes(size, 7)
			wrote := make(chan error, 1)
			go func() {
				_, err := b.Write(sent[:size/2])
				if err == nil {
					_, err = b.Write(sent[size/2:])
				}
				wrote <- err
			}()
			w := &blocked{entered: make(chan struct{}), open: make(chan struct{})}
			end := make(chan error, 1)
			go func() {
				_, err := a.WriteTo(w)
				end <- err
			}()
			<-w.entered
			if size > room { // until all stands still
				lb.WaitFull()
			} else {
				wrote <- <-wrote
			}
			for range 3 {
				done := make(chan bool, 1)
				p := Probe{Beyond: a.ReceivedOctets(), Limit: MaxProbe, Done: func(alive bool) { done <- alive }}
				if err := a.Probe(p); err != nil {
					t.Fatal(err)
				}
				if !<-done {
					t.Errorf("%d octets: no answer", size)
				}
			}
			if size > 100_000 && keptAhead(a) == 0 {
				t.Error("nothing was read ahead")
			}
			close(w.open)
			if err := <-wrote; err != nil {
				t.Error(err)
			}
			b.CloseWrite()
			if err := <-end; err != nil || !bytes.Equal(w.Bytes(), sent) {
				t.Errorf("%d octets of %d, %v", w.Len(), size, err)
			}
			a.Close()
			b.Close()
			endB()
		})
	}
}

// What is read for nobody is bounded.
func TestProbeReadsAheadNoFurther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _, _ := connect(t, crypttest.Options{})
		go b.Write(make([]byte, 3*maxAhead))
		synctest.Wait()
		// Beyond all of it, so that none of it is an answer.
		if alive, after := probe(t, a, Probe{Beyond: 1 << 40, Limit: 20 * time.Second})(); alive || after < MaxProbe {
			t.Errorf("%v after %v", alive, after)
		}
		if n := keptAhead(a); n < maxAhead || n > maxAhead+bulkBuffer {
			t.Errorf("%d octets kept, at most %d", n, maxAhead+bulkBuffer)
		}
		n, err := io.CopyN(io.Discard, a, 3*maxAhead)
		if err != nil {
			t.Errorf("%d octets, %v", n, err)
		}
	})
}

// A stream that ends, or a connection that does, while the peer is being asked.
func TestProbeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, la, _ := connect(t, crypttest.Options{})
		if err := a.Probe(Probe{Limit: time.Second, Done: func(bool) { t.Error("told although the connection ended") }}); err != nil {
			t.Fatal(err)
		}
		if err := a.Probe(Probe{Limit: time.Second}); !errors.Is(err, ErrProbePending) {
			t.Errorf("a second one: %v", err)
		}
		la.Abort()
		if _, err := a.Read(make([]byte, 1)); err == nil {
			t.Error("read")
		}
		time.Sleep(time.Minute)
		if err := a.Probe(Probe{}); err == nil {
			t.Error("asked on a connection that is over")
		}
		b.Abort()

		a, b, _, _ = connect(t, crypttest.Options{})
		result := probe(t, a, Probe{Limit: 4 * time.Second, Beyond: 1 << 40})
		a.CloseWrite()
		if alive, after := result(); alive || after > time.Second {
			t.Errorf("after CloseWrite: %v after %v", alive, after)
		}
		if err := a.Probe(Probe{}); !errors.Is(err, ErrWriteClosed) {
			t.Errorf("after CloseWrite: %v", err)
		}
		if err := b.Probe(Probe{Limit: time.Second, Done: func(bool) {}}); err != nil {
			t.Errorf("FINp is yet to be read: %v", err)
		}
		synctest.Wait()
		if err := b.Probe(Probe{}); err != io.EOF {
			t.Errorf("after FINp: %v", err)
		}
		if _, err := b.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("after FINp: %v", err)
		}
		c, err := New(b.lower, testConfig(b.cfg.Role, b.cfg.TEP))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Probe(Probe{}); !errors.Is(err, ErrNoSession) {
			t.Errorf("before the handshake: %v", err)
		}
	})
}

// progressing is a transport with much to send before the question.
type progressing struct {
	*crypttest.End
	until time.Time
}

func (p progressing) Progress() uint64 {
	now := time.Now()
	if now.After(p.until) {
		now = p.until
	}
	return uint64(now.UnixNano())
}

func TestProbeWaitsBehindData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, la, _ := connect(t, crypttest.Options{})
		a.lower = progressing{la, time.Now().Add(3 * time.Second)}
		if alive, after := probe(t, a, Probe{Limit: time.Second, Beyond: 1 << 40})(); alive || after < 4*time.Second || after > 5*time.Second {
			t.Errorf("%v after %v", alive, after)
		}
		synctest.Wait()
		a.lower = progressing{la, time.Now().Add(time.Hour)}
		if alive, after := probe(t, a, Probe{Limit: time.Second, Beyond: 1 << 40})(); alive || after < MaxProbe || after > MaxProbe+time.Second {
			t.Errorf("%v after %v", alive, after)
		}
	})
}

// The keys for RSTs: one for each direction, the same at both ends, gone with the connection.
func TestResetMAC(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{})
	mac := a.AppendResetMAC(nil, 1000, 0x14)
	if len(mac) != ResetMACLen || !b.VerifyResetMAC(mac, 1000, 0x14) {
		t.Fatalf("%x", mac)
	}
	for i := range mac {
		bad := bytes.Clone(mac)
		bad[i] ^= 1
		if b.VerifyResetMAC(bad, 1000, 0x14) {
			t.Errorf("octet %d altered", i)
		}
	}
	if b.VerifyResetMAC(mac, 1001, 0x14) || b.VerifyResetMAC(mac, 1000, 0x04) || b.VerifyResetMAC(mac[:8], 1000, 0x14) ||
		b.VerifyResetMAC(nil, 1000, 0x14) || a.VerifyResetMAC(mac, 1000, 0x14) {
		t.Error("taken for another segment, cut short, or sent back")
	}
	other, _, _, _ := connect(t, crypttest.Options{})
	if other.VerifyResetMAC(mac, 1000, 0x14) {
		t.Error("taken in another connection")
	}
	b.Abort()
	if b.VerifyResetMAC(mac, 1000, 0x14) || len(b.AppendResetMAC(nil, 1, 4)) != 0 || b.resets.in != [keyLen]byte{} || b.resets.out != [keyLen]byte{} {
		t.Error("the keys are still there")
	}
}

// A session resumed twice from one secret, by a copy of a machine for instance, has keys of its own by its nonce.
func TestResetKeysDependOnTheNonce(t *testing.T) {
	ss := numbered(1)
	keys := map[[keyLen]byte]string{}
	for _, nonce := range []string{"", "one", "two"} {
		for _, w := range []way{wayAB, wayBA} {
			k := ss.resetKey(w, []byte(nonce))
			if other, same := keys[k]; same {
				t.Errorf("%q %v: that of %s", nonce, w, other)
			}
			keys[k] = nonce
		}
	}
}
