package tcpcrypt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"innertun/tcpinc/tcpcrypt/crypttest"
)

// Keys are replaced by octets and by frames, at both ends at once, in the middle of bulk transfers both ways, for every
// cipher, and not an octet is lost.
func TestRekeyByOctetsAndFrames(t *testing.T) {
	for _, cipher := range Ciphers() {
		for name, limits := range map[string]KeyLimits{"octets": {Octets: 200_000}, "frames": {Frames: 20}} {
			t.Run(cipher.String()+"/"+name, func(t *testing.T) {
				a, b, la, lb := connect(t, crypttest.Options{Capacity: 50_000}, func(ca, cb *Config) {
					for _, c := range []*Config{ca, cb} {
						c.KeyLimits, c.Ciphers, c.MaxFrame = limits, []Cipher{cipher}, 10_000
					}
				})
				countA, countB := newKeyUse(la), newKeyUse(lb)
				up, down := randomBytes(4_000_000, 1), randomBytes(3_000_000, 2)
				transfer(t, a, b, up, down)
				for _, use := range []*keyUse{countA, countB} {
					use.mu.Lock()
					if use.rekeys < 10 {
						t.Errorf("%d rekeys", use.rekeys)
					}
					use.mu.Unlock()
				}
				sa, sb := a.State(), b.State()
				if sa.Sent.Generation != sb.Received.Generation || sb.Sent.Generation != sa.Received.Generation {
					t.Errorf("%+v, %+v", sa, sb)
				}
			})
		}
	}
}

// No key serves longer than it may, whatever the peer does, up to what patience allows; and a peer that has ended its stream
// owes no answers.
func TestKeysKeepTheirLimits(t *testing.T) {
	for name, limits := range map[string]KeyLimits{"octets": {Octets: 100_000}, "frames": {Frames: 7}} {
		for _, ended := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v/ended %v", name, ended), func(t *testing.T) {
				a, b, la, _ := connect(t, crypttest.Options{}, func(ca, cb *Config) { ca.KeyLimits, ca.MaxFrame = limits, 20_000 })
				use := newKeyUse(la)
				_, end := reading(b)
				rekeys := patience - 1
				if ended {
					b.CloseWrite()
					if n, err := a.Read(make([]byte, 1)); n > 0 || err != io.EOF {
						t.Fatal(n, err)
					}
					rekeys = 50
				}
				for a.State().Sent.Generation < uint32(rekeys) {
					if _, err := a.Write(make([]byte, 1+rand.IntN(60_000))); err != nil {
						t.Fatal(err)
					}
				}
				use.mu.Lock()
				if limits.Octets > 0 && (use.mostOctets > limits.Octets || use.mostOctets < limits.Octets-20_000) ||
					limits.Frames > 0 && use.mostFrames != limits.Frames || use.rekeys < rekeys {
					t.Errorf("%d rekeys; a key sealed %d frames, %d octets", use.rekeys, use.mostFrames, use.mostOctets)
				}
				use.mu.Unlock()
				a.CloseWrite()
				if err := end(); err != io.EOF {
					t.Error(err)
				}
			})
		}
	}
}

// transfer sends up from a and down from b at the same time.
func transfer(t *testing.T, a, b *Conn, up, down []byte) {
	t.Helper()
	var wg sync.WaitGroup
	send := func(c *Conn, p []byte) {
		if _, err := c.ReadFrom(bytes.NewReader(p)); err != nil {
			t.Errorf("ReadFrom: %v", err)
		}
		c.CloseWrite()
	}
	receive := func(c *Conn, want []byte) {
		var got bytes.Buffer
		if _, err := c.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%d octets of %d, %v", got.Len(), len(want), err)
		}
	}
	wg.Go(func() { send(a, up) })
	wg.Go(func() { send(b, down) })
	wg.Go(func() { receive(a, down) })
	wg.Go(func() { receive(b, up) })
	wg.Wait()
}

// keyUse counts, on the wire, what goes under each key.
type keyUse struct {
	mu                     sync.Mutex
	rekeys                 int
	frames, octets         uint64
	mostFrames, mostOctets uint64
	rest                   []byte
}

func newKeyUse(e *crypttest.End) *keyUse {
	u := new(keyUse)
	e.Tap = func(_ uint64, p []byte) {
		u.mu.Lock()
		defer u.mu.Unlock()
		for u.rest = append(u.rest, p...); len(u.rest) >= frameHeaderLen; {
			h, err := parseFrameHeader(u.rest)
			size := frameHeaderLen + h.clen
			if err != nil || len(u.rest) < size {
				return
			}
			if h.rekey {
				u.rekeys++
				u.frames, u.octets = 0, 0
			}
			u.frames, u.octets = u.frames+1, u.octets+uint64(size)
			u.mostFrames, u.mostOctets = max(u.mostFrames, u.frames), max(u.mostOctets, u.octets)
			u.rest = u.rest[size:]
		}
	}
	return u
}

// A new key for every frame is possible, and one end alone may have limits.
func TestRekeyEveryFrame(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{Capacity: 3000}, func(ca, cb *Config) {
		ca.KeyLimits.Frames, ca.MaxFrame, cb.MaxFrame = 1, 500, 700
	})
	transfer(t, a, b, randomBytes(200_000, 1), randomBytes(200_000, 2))
	// B may have ended its stream before it has read of a new generation: then it answers none.
	if s, got := a.State(), b.State().Received.Generation; s.Sent.Generation < patience || got != s.Sent.Generation {
		t.Errorf("%+v, %d generations arrived", s, got)
	}
}

// A peer that never begins a generation itself is asked for one.
func TestRekeyOfPeersKey(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{}, func(ca, cb *Config) { cb.KeyLimits.Octets, ca.MaxFrame = 100_000, 5000 })
	_, endB := reading(b)
	reading(a)
	waitUntil(t, "new keys", func() bool {
		if _, err := a.Write(make([]byte, 20_000)); err != nil {
			t.Fatal(err)
		}
		return b.State().Received.Generation >= 4
	})
	a.CloseWrite()
	if err := endB(); err != io.EOF {
		t.Fatal(err)
	}
	if s := b.State(); s.Sent.Generation < 4 || s.Sent.Data != 0 || a.out.dir.generation < 4 {
		t.Errorf("%+v", s)
	}
}

// Of an application that writes and never reads, no answer is ever seen. Keys are replaced all the same, but it does not
// run away from its peer until the default limits make it.
func TestRekeyWithoutReading(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{}, func(ca, cb *Config) { ca.KeyLimits.Frames = 2 })
	_, endB := reading(b)
	for range 200 {
		if _, err := a.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	a.CloseWrite()
	if err := endB(); err != io.EOF {
		t.Fatal(err)
	}
	if s := a.State(); s.Sent.Generation != patience || s.Sent.Frames != 201 {
		t.Errorf("%+v", s.Sent)
	}
	d := &direction{keyFrames: DefaultKeyFrames}
	if d.fits(max(2, DefaultKeyOctets), max(2, DefaultKeyFrames), 100) {
		t.Error("the default limits do not bind")
	}
}

// By time, on a virtual clock: keys that have carried data do not grow old; those that have not may.
func TestRekeyByTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _, _ := connect(t, crypttest.Options{}, func(ca, cb *Config) {
			ca.Liveness.Idle, cb.Liveness.Idle = -1, -1
			cb.KeyLimits.Time = -1
		})
		_, endA := reading(a)
		_, endB := reading(b)
		time.Sleep(5 * time.Hour)
		if s := a.State(); s.Sent.Frames != 0 {
			t.Errorf("unused keys were replaced: %+v", s.Sent)
		}
		b.Write([]byte("x")) // the peer's data counts as well
		time.Sleep(16 * time.Minute)
		synctest.Wait()
		for range 3 {
			if s, at := a.State(), b.State(); s.Sent.Generation != 1 || s.Received.Generation != 1 || at.Sent.Generation != 1 {
				t.Errorf("%+v, %+v", s, at)
			}
			time.Sleep(3 * time.Hour)
		}
		for i := range 10 { // busy all the time: an hour each
			for range 12 {
				a.Write([]byte("x"))
				time.Sleep(5 * time.Minute)
			}
			synctest.Wait()
			if s := a.State(); s.Sent.Generation < uint32(i+1) || s.Sent.Generation > uint32(i+3) {
				t.Errorf("after %d hours: %+v", i+1, s.Sent)
			}
		}
		a.Close()
		b.Close()
		endA()
		endB()
	})
}

// Once replaced, the old key opens nothing more: neither half has it.
func TestOldKeysAreGone(t *testing.T) { synctest.Test(t, testOldKeysAreGone) }

func testOldKeysAreGone(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{}, func(ca, cb *Config) { ca.KeyLimits.Frames = 3 })
	first, second := a.out.dir.master, b.in.dir.master
	if first != second {
		t.Fatal("the ends differ")
	}
	_, endB := reading(b)
	for range 4 {
		a.Write([]byte("x"))
	}
	a.CloseWrite()
	if err := endB(); err != io.EOF {
		t.Fatal(err)
	}
	waitUntil(t, "the answer", func() bool { return b.State().Sent.Frames > 0 })
	a.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || a.State().Received.Generation != 1 {
		t.Errorf("%v, %+v", err, a.State())
	}
	for _, c := range []*Conn{a, b} {
		c.in.mu.Lock()
		c.out.mu.Lock()
		for _, d := range []*direction{c.in.dir, c.out.dir} {
			if d.master == first {
				t.Errorf("generation %d still has mk[0]", d.generation)
			}
		}
		c.out.mu.Unlock()
		c.in.mu.Unlock()
	}
}

func TestKeyLimitDefaults(t *testing.T) {
	want := KeyLimits{16 << 30, 16777216, time.Hour}
	if got := (KeyLimits{}).filled(); got != want {
		t.Errorf("%+v", got)
	}
	if got := (KeyLimits{1 << 63, ^uint64(0), -1}).filled(); 2*got.Octets < got.Octets || 2*got.Frames < got.Frames || got.Time != -1 {
		t.Errorf("%+v", got)
	}
}
