package tcpcrypt

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt/crypttest"
)

// kept is a transport that notes how TCP's keep-alive is switched.
type kept struct {
	*crypttest.End
	mu       sync.Mutex
	switched []bool
}

func (k *kept) SetKeepAlive(on bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.switched = append(k.switched, on)
	return nil
}

func (k *kept) is(t *testing.T, want ...bool) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	if !slices.Equal(k.switched, want) {
		t.Errorf("TCP's keep-alive: %v, want %v", k.switched, want)
	}
}

// connectKept is connect with transports that have a keep-alive.
func connectKept(t *testing.T, o crypttest.Options, edit ...func(a, b *Config)) (a, b *Conn, la, lb *kept) {
	t.Helper()
	ea, eb := crypttest.Pipe(o)
	la, lb = &kept{End: ea}, &kept{End: eb}
	ca, cb := testConfig(eno.RoleA, Curve25519), testConfig(eno.RoleB, Curve25519)
	for _, f := range edit {
		f(&ca, &cb)
	}
	a, b = newConns(t, la, lb, ca, cb)
	if errA, errB := handshakeBoth(t, a, b); errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	return a, b, la, lb
}

// Two idle ends ask each other again and again, by one empty rekey each time, and stay.
func TestIdlePeersStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, la, lb := connectKept(t, crypttest.Options{})
		_, endA := reading(a)
		_, endB := reading(b)
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		sa, sb := a.State(), b.State()
		if sa.Phase != PhaseOpen || sb.Phase != PhaseOpen {
			t.Fatalf("%v, %v", sa.Err, sb.Err)
		}
		// Asked after 5 min to 6 min 15 s, and each question and answer is one frame.
		if n := sa.Sent.Frames; n < 230 || n > 288 || sb.Sent.Frames != n || sa.Sent.Generation != uint32(n) || sa.Sent.Data != 0 {
			t.Errorf("sent %+v and %+v", sa.Sent, sb.Sent)
		}
		la.is(t, false)
		lb.is(t, false)
		a.Close()
		b.Close()
		endA()
		endB()
	})
}

// B is gone, as far as A can tell from what is authenticated.
func TestSilentPeerIsFoundOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, la, _ := connectKept(t, crypttest.Options{}, func(ca, cb *Config) { cb.Liveness.Idle = -1 })
		gone := b.lower.(*kept).End
		b.in.mu.Lock() // nothing of B runs any more, but its TCP still acknowledges
		defer b.in.mu.Unlock()
		_, end := reading(a)
		start := time.Now()
		err := end()
		took := time.Since(start)
		if !errors.Is(err, ErrPeerSilent) || took < DefaultIdle+DefaultAnswer || took > (DefaultIdle+DefaultAnswer)*5/4 {
			t.Errorf("after %v: %v", took, err)
		}
		s := a.State()
		if s.Phase != PhaseFailed || !errors.Is(s.Err, ErrPeerSilent) || s.Sent.Frames != 1 {
			t.Errorf("state %+v", s)
		}
		if _, err := a.Write([]byte("x")); !errors.Is(err, ErrPeerSilent) {
			t.Errorf("Write: %v", err)
		}
		if _, err := io.Copy(io.Discard, struct{ io.Reader }{gone}); err == nil {
			t.Error("the transport was not reset")
		}
		la.is(t, false)
	})
}

// What the peer's TCP does is no proof: its keys have to.
func TestSilentPeerOwnTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _, _ := connectKept(t, crypttest.Options{}, func(ca, cb *Config) {
			ca.Liveness = Liveness{Idle: 10 * time.Second, Answer: 2 * time.Second}
			cb.Liveness.Idle = -1
		})
		b.in.mu.Lock()
		defer b.in.mu.Unlock()
		_, end := reading(a)
		start := time.Now()
		if err := end(); !errors.Is(err, ErrPeerSilent) || time.Since(start) > 15*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

// A peer that sends and sends without an answer has its time too, but longer.
func TestPeerThatSendsButDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _, _ := connectKept(t, crypttest.Options{}, func(ca, cb *Config) {
			ca.Liveness = Liveness{Idle: time.Minute, Answer: time.Minute}
			cb.Liveness.Idle = -1
		})
		b.in.mu.Lock() // what A sends is not read
		defer b.in.mu.Unlock()
		_, end := reading(a)
		start := time.Now()
		time.Sleep(80 * time.Second) // A has asked
		for a.State().Phase == PhaseOpen {
			b.Write([]byte("x"))
			time.Sleep(30 * time.Second)
		}
		if err := end(); !errors.Is(err, ErrPeerSilent) || time.Since(start) < 5*time.Minute || time.Since(start) > 6*time.Minute {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

// A host on which nobody reads neither takes its peer for dead nor seems dead: it speaks. TCP's keep-alive stands in.
func TestStalledReaderIsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, la, lb := connectKept(t, crypttest.Options{})
		_, endA := reading(a)
		time.Sleep(12 * time.Hour) // nobody reads at B
		if sa, sb := a.State(), b.State(); sa.Phase != PhaseOpen || sb.Phase != PhaseOpen || sb.Sent.Frames < 150 ||
			sb.Sent.Generation != 0 || sa.Sent.Frames > 2 {
			t.Fatalf("A %+v, B %+v", sa, sb)
		}
		la.is(t, false)
		lb.is(t, false, true)
		_, endB := reading(b)
		time.Sleep(time.Hour)
		synctest.Wait()
		lb.is(t, false, true, false)
		if sa, sb := a.State(), b.State(); sa.Phase != PhaseOpen || sb.Phase != PhaseOpen || sa.Received.Generation < 5 {
			t.Fatalf("A %+v, B %+v", sa, sb)
		}
		a.Close()
		b.Close()
		endA()
		endB()
	})
}

// Neither end reads, and both have written until nothing went: they wait, as TCP does.
func TestBothStalledStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _, _ := connectKept(t, crypttest.Options{Capacity: 5000})
		data := randomBytes(100_000, 3)
		var wg sync.WaitGroup
		for _, c := range []*Conn{a, b} {
			wg.Go(func() {
				if _, err := c.Write(data); err != nil {
					t.Errorf("Write: %v", err)
				}
				c.CloseWrite()
			})
		}
		time.Sleep(24 * time.Hour)
		for _, c := range []*Conn{a, b} {
			wg.Go(func() {
				if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%d octets, %v", len(got), err)
				}
			})
		}
		wg.Wait()
	})
}

// A writer that is held up by a peer whose application does not read does not take it for dead.
func TestHeldUpWriterWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _, _ := connectKept(t, crypttest.Options{Capacity: 5000}, func(ca, cb *Config) {
			cb.Liveness.Idle = -1 // an implementation that does not speak unasked
		})
		data := randomBytes(100_000, 4)
		_, endA := reading(a)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := a.Write(data); err != nil {
				t.Errorf("Write: %v", err)
			}
			a.CloseWrite()
		})
		time.Sleep(24 * time.Hour)
		if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d octets, %v", len(got), err)
		}
		wg.Wait()
		b.CloseWrite()
		if err := endA(); err != io.EOF {
			t.Errorf("A: %v", err)
		}
	})
}

// Once a stream has ended no answer can come that way: TCP's keep-alive has to do.
func TestHalfClosedIsLeftToTCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, la, lb := connectKept(t, crypttest.Options{})
		_, endA := reading(a)
		_, endB := reading(b)
		a.CloseWrite()
		if err := endB(); err != io.EOF {
			t.Fatal(err)
		}
		time.Sleep(12 * time.Hour)
		if sa, sb := a.State(), b.State(); sa.Phase != PhaseWriteClosed || sb.Phase != PhaseReadClosed || sb.Sent.Frames != 0 {
			t.Errorf("A %+v, B %+v", sa, sb)
		}
		la.is(t, false, true)
		lb.is(t, false, true)
		b.Write([]byte("late"))
		b.CloseWrite()
		if err := endA(); err != io.EOF {
			t.Error(err)
		}
	})
}

// Without liveness TCP's keep-alive is not touched, and without a time limit either no timer runs.
func TestLivenessOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		off := func(ca, cb *Config) {
			for _, c := range []*Config{ca, cb} {
				c.Liveness.Idle, c.KeyLimits.Time = -1, -1
			}
		}
		a, b, la, lb := connectKept(t, crypttest.Options{}, off)
		if a.watch.stop != nil || b.watch.stop != nil {
			t.Error("a timer runs")
		}
		reading(a)
		reading(b)
		time.Sleep(24 * time.Hour)
		if sa, sb := a.State(), b.State(); sa.Sent.Frames != 0 || sb.Sent.Frames != 0 {
			t.Errorf("%+v, %+v", sa, sb)
		}
		la.is(t)
		lb.is(t)
	})
	if _, err := New(nil, Config{Role: eno.RoleA, TEP: P256, Liveness: Liveness{Answer: -1}}); !errors.Is(err, ErrConfig) {
		t.Errorf("negative time to answer: %v", err)
	}
}

// Only one question is under way, whoever asks: RFC 8548, Section 3.8.
func TestOneQuestionAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _, _ := connectKept(t, crypttest.Options{}, func(ca, cb *Config) {
			ca.KeyLimits.Time = time.Second
			ca.Liveness = Liveness{Idle: time.Minute, Answer: time.Hour}
			cb.Liveness.Idle = -1
		})
		b.in.mu.Lock()
		_, end := reading(a)
		a.Write([]byte("used")) // so that time is a reason as well
		time.Sleep(30 * time.Minute)
		if s := a.State(); s.Sent.Generation != 1 || s.Sent.Frames != 2 {
			t.Errorf("%+v", s.Sent)
		}
		if err := a.Rekey(); !errors.Is(err, ErrRekeyPending) {
			t.Errorf("Rekey: %v", err)
		}
		a.Write([]byte("the key is too old now"))
		time.Sleep(2 * time.Minute)
		if s := a.State(); s.Sent.Generation != 1 || s.Sent.Frames != 3 {
			t.Errorf("%+v", s.Sent)
		}
		a.Write([]byte("data may carry another"))
		if s := a.State(); s.Sent.Generation != 2 || s.Sent.Frames != 4 {
			t.Errorf("%+v", s.Sent)
		}
		b.in.mu.Unlock()
		_, endB := reading(b)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if s := a.State(); s.Phase != PhaseOpen || s.Received.Generation < 2 {
			t.Errorf("%+v", s)
		}
		a.Close()
		b.Close()
		end()
		endB()
	})
}
