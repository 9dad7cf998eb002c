package tcpcrypt

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt/crypttest"

	"innertun/internal/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// testConfig is the configuration of one end.
func testConfig(role eno.Role, tep eno.TEP, ciphers ...Cipher) Config {
	return Config{Role: role, TEP: tep, Transcript: []byte("transcript"), Ciphers: ciphers}
}

// handshakeBoth runs both handshakes and returns their errors.
func handshakeBoth(t testing.TB, a, b *Conn) (errA, errB error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { errA = a.Handshake(ctx) })
	errB = b.Handshake(ctx)
	wg.Wait()
	return errA, errB
}

func newConns(t testing.TB, la, lb Transport, cfgA, cfgB Config) (a, b *Conn) {
	t.Helper()
	a, err := New(la, cfgA)
	if err != nil {
		t.Fatal(err)
	}
	if b, err = New(lb, cfgB); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Abort(); b.Abort() })
	return a, b
}

// connect returns two connected Conns and the transport ends below them.
func connect(t testing.TB, o crypttest.Options, edit ...func(a, b *Config)) (a, b *Conn, la, lb *crypttest.End) {
	t.Helper()
	la, lb = crypttest.Pipe(o)
	cfgA, cfgB := testConfig(eno.RoleA, Curve25519), testConfig(eno.RoleB, Curve25519)
	for _, f := range edit {
		f(&cfgA, &cfgB)
	}
	a, b = newConns(t, la, lb, cfgA, cfgB)
	if errA, errB := handshakeBoth(t, a, b); errA != nil || errB != nil {
		t.Fatalf("handshake: %v, %v", errA, errB)
	}
	return a, b, la, lb
}

func randomBytes(n int, seed uint64) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	b := make([]byte, n)
	r.Read(b)
	return b
}

func TestConnCarriesBothWays(t *testing.T) {
	for _, tep := range TEPs() {
		for _, cipher := range Ciphers() {
			t.Run(tep.String()+"/"+cipher.String(), func(t *testing.T) {
				a, b, _, _ := connect(t, crypttest.Options{}, func(ca, cb *Config) {
					ca.TEP, cb.TEP = tep, tep
					cb.Ciphers = []Cipher{cipher}
				})
				up, down := randomBytes(300_000, 1), randomBytes(200_001, 2)
				var wg sync.WaitGroup
				send := func(c *Conn, p []byte) {
					if n, err := c.Write(p); n != len(p) || err != nil {
						t.Errorf("Write: %d, %v", n, err)
					}
					if err := c.CloseWrite(); err != nil {
						t.Errorf("CloseWrite: %v", err)
					}
				}
				receive := func(c *Conn, want []byte) {
					got, err := io.ReadAll(c)
					if err != nil || !bytes.Equal(got, want) {
						t.Errorf("got %d octets, %v; want %d", len(got), err, len(want))
					}
				}
				wg.Go(func() { send(a, up) })
				wg.Go(func() { send(b, down) })
				wg.Go(func() { receive(a, down) })
				receive(b, up)
				wg.Wait()

				sa, sb := a.State(), b.State()
				if !bytes.Equal(sa.SessionID, sb.SessionID) || len(sa.SessionID) != 33 || sa.SessionID[0] != byte(tep) {
					t.Errorf("session IDs %x and %x", sa.SessionID, sb.SessionID)
				}
				if sa.Cipher != cipher || sb.Cipher != cipher {
					t.Errorf("ciphers %v and %v", sa.Cipher, sb.Cipher)
				}
				if sa.Phase != PhaseDone || sb.Phase != PhaseDone {
					t.Errorf("phases %v and %v", sa.Phase, sb.Phase)
				}
				if sa.Sent != sb.Received || sa.Received != sb.Sent || sa.Sent.Data != uint64(len(up)) {
					t.Errorf("counts %+v and %+v", sa, sb)
				}
			})
		}
	}
}

// The stream may be cut anywhere, and pieces of any size may be written and read.
func TestConnAnySegmentation(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 1))
		var mu sync.Mutex
		a, b, _, _ := connect(t, crypttest.Options{
			Capacity: 1 + r.IntN(100_000),
			Segment: func(n int) int {
				mu.Lock()
				defer mu.Unlock()
				return 1 + r.IntN(min(n, 1<<r.IntN(17)))
			},
		}, func(ca, cb *Config) {
			if seed%3 == 1 {
				ca.MaxFrame = MinFrameLen + 1 + r.IntN(100)
			} else if seed%3 == 2 {
				ca.MaxFrame = MaxFrameLen
			}
		})
		want := randomBytes(400_000, seed)
		if a.cfg.MaxFrame < 200 {
			want = want[:20_000]
		}
		pick := rand.New(rand.NewPCG(seed, 2))
		var wg sync.WaitGroup
		wg.Go(func() {
			rest := want
			for len(rest) > 0 {
				n := min(len(rest), pick.IntN(1<<pick.IntN(19)))
				if _, err := a.Write(rest[:n]); err != nil {
					t.Errorf("Write: %v", err)
					return
				}
				rest = rest[n:]
			}
			a.CloseWrite()
		})
		var got bytes.Buffer
		read := rand.New(rand.NewPCG(seed, 3))
		if seed%2 == 0 {
			if _, err := b.WriteTo(&got); err != nil {
				t.Errorf("seed %d: WriteTo: %v", seed, err)
			}
		} else {
			for {
				p := make([]byte, read.IntN(1<<read.IntN(18)))
				n, err := b.Read(p)
				got.Write(p[:n])
				if err != nil {
					if err != io.EOF {
						t.Errorf("seed %d: Read: %v", seed, err)
					}
					break
				}
			}
		}
		wg.Wait()
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("seed %d: got %d octets, want %d, or they differ", seed, got.Len(), len(want))
		}
	}
}

func TestHalfCloseEachWay(t *testing.T) {
	a, b, _, _ := connect(t, crypttest.Options{})
	pairs := [][2]*Conn{{a, b}, {b, a}}
	for i, pair := range pairs {
		closer, other := pair[0], pair[1]
		if err := closer.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := closer.CloseWrite(); err != nil {
			t.Errorf("second CloseWrite: %v", err)
		}
		if _, err := closer.Write([]byte("x")); !errors.Is(err, ErrWriteClosed) {
			t.Errorf("Write after CloseWrite: %v", err)
		}
		for range 2 { // the end of the stream stays
			if n, err := other.Read(make([]byte, 10)); n != 0 || err != io.EOF {
				t.Errorf("Read: %d, %v", n, err)
			}
		}
		if i == 0 {
			if closer.State().Phase != PhaseWriteClosed || other.State().Phase != PhaseReadClosed {
				t.Errorf("phases %v, %v", closer.State().Phase, other.State().Phase)
			}
			if _, err := other.Write([]byte("still")); err != nil {
				t.Fatal(err)
			}
			p := make([]byte, 10)
			if n, err := closer.Read(p); string(p[:n]) != "still" || err != nil {
				t.Errorf("Read: %q, %v", p[:n], err)
			}
		}
	}
	if a.State().Phase != PhaseDone || b.State().Phase != PhaseDone {
		t.Errorf("phases %v, %v", a.State().Phase, b.State().Phase)
	}
}
