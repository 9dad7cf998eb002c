package innerspace_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"innertun/internal/leak"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt"
	"innertun/tcpinc/tcpcrypt/crypttest"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// lowers are the streams below: one without frames, one with, and one that has neither buffer nor WaitRead.
var lowers = map[string]func(t testing.TB, o crypttest.Options) (a, b innerspace.Lower){
	"pipe": func(t testing.TB, o crypttest.Options) (a, b innerspace.Lower) { return crypttest.Pipe(o) },
	"tcpcrypt": func(t testing.TB, o crypttest.Options) (a, b innerspace.Lower) {
		x, y := crypttest.Pipe(o)
		return encrypted(t, x, y)
	},
	"net.Pipe": func(testing.TB, crypttest.Options) (a, b innerspace.Lower) {
		x, y := net.Pipe()
		return whole{x}, whole{y}
	},
}

// whole is a net.Conn without half-close.
type whole struct{ net.Conn }

func (w whole) CloseWrite() error { return w.Close() }
func (w whole) Abort() error      { return w.Close() }

func encrypted(t testing.TB, x, y tcpcrypt.Transport) (a, b *tcpcrypt.Conn) {
	t.Helper()
	make := func(lower tcpcrypt.Transport, role eno.Role) *tcpcrypt.Conn {
		c, err := tcpcrypt.New(lower, tcpcrypt.Config{Role: role, TEP: tcpcrypt.TEPs()[0], Transcript: []byte("test")})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	a, b = make(x, eno.RoleA), make(y, eno.RoleB)
	var wg sync.WaitGroup
	var errA error
	wg.Go(func() { errA = a.Handshake(t.Context()) })
	errB := b.Handshake(t.Context())
	wg.Wait()
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	return a, b
}

// connect returns two Streams over what make gives.
func connect(t testing.TB, lower string, o crypttest.Options, cfg ...innerspace.StreamConfig) (a, b *innerspace.Stream) {
	cfg = append(cfg, innerspace.StreamConfig{}, innerspace.StreamConfig{})
	x, y := lowers[lower](t, o)
	a, b = innerspace.NewStream(x, cfg[0]), innerspace.NewStream(y, cfg[1])
	t.Cleanup(func() { a.Abort(); b.Abort() })
	return a, b
}

func eachLower(t *testing.T, f func(t *testing.T, lower string)) {
	for name := range lowers {
		t.Run(name, func(t *testing.T) { f(t, name) })
	}
}

func rekey(n int) innerspace.Option { return innerspace.AppendRekey(nil, uint32(n)) }

func number(t testing.TB, r innerspace.Received) int {
	t.Helper()
	g, _, err := innerspace.ParseRekey(r.Option)
	if err != nil {
		t.Fatal(err)
	}
	return int(g)
}

func octets(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// onlyReader and onlyWriter hide the other methods from io.Copy.
type onlyReader struct{ io.Reader }
type onlyWriter struct{ io.Writer }

// Data and options go both ways at once, by all ways of writing and reading, however the stream below is cut.
func TestStreamCarries(t *testing.T) {
	eachLower(t, func(t *testing.T, lower string) {
		seed := rand.Uint64()
		t.Logf("seed %#x", seed)
		for range 12 {
			var mu sync.Mutex
			r := rand.New(rand.NewPCG(seed, 1))
			seed++
			draw := func(n int) int { mu.Lock(); defer mu.Unlock(); return 1 + r.IntN(n) }
			limit := draw(1 << 17)
			a, b := connect(t, lower, crypttest.Options{Capacity: 20 + draw(1<<18), Segment: func(n int) int { return draw(min(n, limit)) }})
			up, down := octets(r, 1+r.IntN(400_000)), octets(r, 1+r.IntN(400_000))
			var wg sync.WaitGroup
			carry(t, &wg, a, b, up, draw)
			if lower != "net.Pipe" {
				carry(t, &wg, b, a, down, draw)
			}
			wg.Wait()
			a.Close()
			b.Close()
		}
	})
}

func carry(t *testing.T, wg *sync.WaitGroup, from, to *innerspace.Stream, data []byte, draw func(int) int) {
	const options = 40
	wg.Go(func() {
		for rest, sent := data, 0; len(rest) > 0 || sent < options; {
			if sent < options && (draw(4) == 1 || len(rest) == 0) {
				if err := from.SendOption(rekey(sent)); err != nil {
					t.Errorf("SendOption: %v", err)
					return
				}
				sent++
				continue
			}
			p := rest[:min(len(rest), draw(1<<uint(draw(18))))]
			rest = rest[len(p):]
			var n int64
			var err error
			if draw(2) == 1 {
				n, err = from.ReadFrom(onlyReader{bytes.NewReader(p)})
			} else {
				var k int
				k, err = from.Write(p)
				n = int64(k)
			}
			if n != int64(len(p)) || err != nil {
				t.Errorf("wrote %d of %d: %v", n, len(p), err)
				return
			}
		}
		if err := from.CloseWrite(); err != nil {
			t.Errorf("CloseWrite: %v", err)
		}
	})
	wg.Go(func() {
		var got []byte
		var err error
		seen, last := 0, uint64(0)
		for err == nil && draw(5) > 1 {
			if draw(2) == 1 {
				err = to.WaitRead()
			}
			p := make([]byte, draw(100_000))
			var n int
			if err == nil {
				n, err = to.Read(p)
			}
			got = append(got, p[:n]...)
		}
		if err == nil {
			var rest bytes.Buffer
			if _, err = to.WriteTo(onlyWriter{&rest}); err == nil {
				err = io.EOF
			}
			got = append(got, rest.Bytes()...)
		}
		if err != io.EOF || !bytes.Equal(got, data) {
			t.Errorf("received %d octets of %d, %v", len(got), len(data), err)
		}
		for o := range to.Options() {
			if number(t, o) != seen || o.Position < last || o.Position > uint64(len(data)) || o.Missed > 0 {
				t.Errorf("option %d of %d at %d after %d, missed %d", number(t, o), seen, o.Position, last, o.Missed)
			}
			seen, last = seen+1, o.Position
		}
		if seen != options {
			t.Errorf("%d options, want %d", seen, options)
		}
		if err := to.WaitOption(t.Context()); err != io.EOF {
			t.Errorf("WaitOption at the end: %v", err)
		}
	})
}

// An option stands where it was sent: behind what was written before, before what is written after.
func TestOptionPositions(t *testing.T) {
	eachLower(t, func(t *testing.T, lower string) {
		a, b := connect(t, lower, crypttest.Options{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := range 50 {
				a.Write(make([]byte, i*97%5000))
				a.SendOption(rekey(i))
				a.Write(make([]byte, 3))
			}
			a.CloseWrite()
		})
		io.Copy(io.Discard, onlyReader{b})
		wg.Wait()
		at, n := 0, 0
		for o := range b.Options() {
			at += n * 97 % 5000
			if number(t, o) != n || o.Position != uint64(at) {
				t.Fatalf("option %d at %d, want %d", number(t, o), o.Position, at)
			}
			at += 3
			n++
		}
		if s, r := a.Stats(), b.Stats(); n != 50 || s.OptionsSent != 50 || r.OptionsReceived != 50 || r.Unknown != 0 || s.UnitsSent != r.UnitsReceived {
			t.Errorf("%d options; %+v, %+v", n, s, r)
		}
	})
}

// What is not in the registry is passed over, counted and shown.
func TestUnknownOptions(t *testing.T) {
	a, b := connect(t, "tcpcrypt", crypttest.Options{})
	for _, o := range []innerspace.Option{{30, 3, 1}, {253, 4, 0x12, 0x34}, rekey(1), {254, 4, 0x49, 0x60}} {
		if err := a.SendOption(o); err != nil {
			t.Fatal(err)
		}
	}
	a.Write([]byte("data"))
	p := make([]byte, 10)
	if n, err := b.Read(p); string(p[:n]) != "data" || err != nil {
		t.Fatal(err)
	}
	known := []bool{}
	for o := range b.Options() {
		known = append(known, o.Option.Known())
	}
	if s := b.Stats(); s.Unknown != 3 || s.OptionsReceived != 4 || !slices.Equal(known, []bool{false, false, true, false}) {
		t.Errorf("%+v, %v", s, known)
	}
}

// A stream that ends within a unit, or is none, is an error, and the peer is told.
func TestStreamFails(t *testing.T) {
	for name, v := range map[string]struct {
		octets []byte
		want   error
	}{
		"cut in the header":  {[]byte{0, 5, 0}, innerspace.ErrTruncated},
		"cut in the options": {[]byte{0, 5, 0, 5, 30, 3}, innerspace.ErrTruncated},
		"cut in the payload": {[]byte{0, 5, 0, 1, 'x'}, innerspace.ErrTruncated},
		"not a unit":         {[]byte("HTTP/1.0 200"), innerspace.ErrUnit},
		"no options":         {[]byte{0, 1, 0, 5, 30, 1, 0, 0, 'x'}, innerspace.ErrOptions},
		"after a unit":       {[]byte{0, 1, 0, 1, 'x', 0, 0, 0, 0}, innerspace.ErrUnit},
	} {
		for way, read := range map[string]func(s *innerspace.Stream) error{
			"Read":    func(s *innerspace.Stream) error { _, err := io.Copy(io.Discard, onlyReader{s}); return err },
			"WriteTo": func(s *innerspace.Stream) error { _, err := s.WriteTo(onlyWriter{io.Discard}); return err },
		} {
			t.Run(name+"/"+way, func(t *testing.T) {
				for _, framed := range []bool{false, true} {
					x, y := crypttest.Pipe(crypttest.Options{})
					var from, to innerspace.Lower = x, y
					if framed {
						from, to = encrypted(t, x, y)
					}
					s := innerspace.NewStream(to, innerspace.StreamConfig{})
					from.Write(v.octets)
					from.CloseWrite()
					err := read(s)
					if !errors.Is(err, v.want) || errors.Is(err, io.ErrUnexpectedEOF) != (v.want == innerspace.ErrTruncated) {
						t.Errorf("framed %v: %v", framed, err)
					}
					if _, again := s.Read(make([]byte, 1)); again != err {
						t.Errorf("then %v", again)
					}
					if err := s.WaitOption(t.Context()); !errors.Is(err, v.want) {
						t.Errorf("WaitOption: %v", err)
					}
					if _, err := s.Write([]byte("x")); err == nil {
						t.Error("Write goes on")
					}
					if _, err := x.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("the peer sees %v", err)
					}
					from.Abort()
				}
			})
		}
	}
}

// Deadlines that pass cost nothing, however often.
func TestStreamDeadlines(t *testing.T) {
	for _, lower := range []string{"pipe", "tcpcrypt"} {
		t.Run(lower, func(t *testing.T) {
			// Room for the options of many writes in a row that get no payload off, should nobody read for a while.
			a, b := connect(t, lower, crypttest.Options{Capacity: 3000}, innerspace.StreamConfig{}, innerspace.StreamConfig{ReceiveLimit: 1 << 20})
			r := rand.New(rand.NewPCG(1, 2))
			data := octets(r, 500_000)
			var wg sync.WaitGroup
			options := 0
			wg.Go(func() {
				for rest := data; len(rest) > 0; {
					if a.SendOption(rekey(options)) == nil {
						options++
					}
					a.SetWriteDeadline(time.Now().Add(200 * time.Microsecond))
					n, err := a.Write(rest[:min(len(rest), 20_000)])
					if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Error(err)
						return
					}
					rest = rest[n:]
				}
				a.SetWriteDeadline(time.Time{})
				if err := a.CloseWrite(); err != nil {
					t.Error(err)
				}
			})
			var got []byte
			seen := 0
			for {
				b.SetReadDeadline(time.Now().Add(time.Duration(r.IntN(300)) * time.Microsecond))
				p := make([]byte, 5000)
				n, err := b.Read(p)
				got = append(got, p[:n]...)
				for o := range b.Options() {
					if number(t, o) != seen {
						t.Fatalf("option %d, want %d", number(t, o), seen)
					}
					seen++
				}
				if err == io.EOF {
					break
				}
				if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatal(err)
				}
			}
			wg.Wait()
			if !bytes.Equal(got, data) || seen != options {
				t.Errorf("%d octets of %d, %d options of %d", len(got), len(data), seen, options)
			}
		})
	}
}

// Options nobody takes are bounded: dropped and counted, or, if someone waits for them, held back at the peer.
func TestOptionFlowControl(t *testing.T) {
	eachLower(t, func(t *testing.T, lower string) {
		const sent = 2000
		send := func(wg *sync.WaitGroup, a *innerspace.Stream) {
			wg.Go(func() {
				for i := range sent {
					for a.SendOption(rekey(i)) != nil {
						time.Sleep(10 * time.Microsecond)
					}
				}
				a.Write([]byte("end"))
				a.CloseWrite()
			})
		}
		t.Run("dropped", func(t *testing.T) {
			var wg sync.WaitGroup
			a, b := connect(t, lower, crypttest.Options{Capacity: 1 << 10}, innerspace.StreamConfig{}, innerspace.StreamConfig{ReceiveLimit: 400})
			send(&wg, a)
			if got, err := io.ReadAll(b); string(got) != "end" || err != nil {
				t.Fatal(err)
			}
			wg.Wait()
			n := 0
			for range b.Options() {
				n++
			}
			if n != 10 || b.Stats().Missed != sent-10 {
				t.Errorf("%d taken, %+v", n, b.Stats())
			}
		})
		t.Run("held back", func(t *testing.T) {
			var wg sync.WaitGroup
			a, b := connect(t, lower, crypttest.Options{Capacity: 1 << 10}, innerspace.StreamConfig{}, innerspace.StreamConfig{ReceiveLimit: 400})
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := b.WaitOption(ctx); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			send(&wg, a)
			b.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if n, err := b.Read(make([]byte, 10)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("Read with a full queue: %d, %v", n, err)
			}
			b.SetReadDeadline(time.Time{})
			next := 0
			wg.Go(func() {
				for b.WaitOption(t.Context()) == nil {
					for o := range b.Options() {
						if number(t, o) != next || o.Missed > 0 {
							t.Errorf("option %d, want %d", number(t, o), next)
						}
						next++
					}
				}
			})
			var got bytes.Buffer
			if _, err := b.WriteTo(onlyWriter{&got}); got.String() != "end" || err != nil {
				t.Errorf("%q, %v", &got, err)
			}
			wg.Wait()
			if next != sent || b.Stats().Missed != 0 {
				t.Errorf("%d of %d, %+v", next, sent, b.Stats())
			}
		})
		t.Run("closed", func(t *testing.T) {
			var wg sync.WaitGroup
			a, b := connect(t, lower, crypttest.Options{}, innerspace.StreamConfig{}, innerspace.StreamConfig{ReceiveLimit: 400})
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			b.WaitOption(ctx)
			wg.Go(func() {
				for i := 0; !errors.Is(a.SendOption(rekey(i)), innerspace.ErrWriteClosed); i++ {
					time.Sleep(10 * time.Microsecond)
				}
			})
			wg.Go(func() { io.Copy(io.Discard, b) }) // waits for room that nobody makes
			if err := b.WaitOption(t.Context()); err != nil {
				t.Error(err)
			}
			for b.Stats().OptionsReceived < 10 { // there is no room for more
				time.Sleep(time.Millisecond)
			}
			b.Close()
			a.Abort()
			wg.Wait()
		})
	})
}

// A stream below that takes nothing stops options too, without blocking who sends them.
func TestSendLimit(t *testing.T) {
	a, b := connect(t, "pipe", crypttest.Options{Capacity: 100}, innerspace.StreamConfig{SendLimit: 160})
	sent := 0
	for deadline := time.Now().Add(time.Minute); ; {
		err := a.SendOption(rekey(sent))
		if errors.Is(err, innerspace.ErrQueueFull) {
			if sent >= 20+9 { // 160 octets wait and about 100 are in the pipe
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d sent", sent)
			}
			time.Sleep(time.Millisecond)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		sent++
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := a.CloseWrite(); err != nil {
			t.Error(err)
		}
		if err := a.SendOption(rekey(0)); !errors.Is(err, innerspace.ErrWriteClosed) {
			t.Error(err)
		}
	})
	if _, err := io.ReadAll(b); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	n := 0
	for range b.Options() {
		n++
	}
	if n != sent {
		t.Errorf("%d of %d", n, sent)
	}
}

// A writer that fails loses nothing: reading can go on where it stopped.
func TestWriteToFails(t *testing.T) {
	for _, lower := range []string{"pipe", "tcpcrypt"} {
		t.Run(lower, func(t *testing.T) {
			r := rand.New(rand.NewPCG(3, 4))
			data := octets(r, 200_000)
			a, b := connect(t, lower, crypttest.Options{}, innerspace.StreamConfig{}, innerspace.StreamConfig{ReceiveLimit: 1 << 20})
			n := 0
			for rest := data; len(rest) > 0; n++ {
				k := min(len(rest), 1+r.IntN(1<<uint(r.IntN(13))))
				a.SendOption(rekey(n))
				a.Write(rest[:k])
				rest = rest[k:]
			}
			a.CloseWrite()
			var got bytes.Buffer
			for {
				if _, err := b.WriteTo(&failing{w: &got, room: r.IntN(9000)}); err == nil {
					break
				} else if err != errFull {
					t.Fatal(err)
				}
				p := make([]byte, r.IntN(50))
				k, _ := b.Read(p)
				got.Write(p[:k])
			}
			if !bytes.Equal(got.Bytes(), data) {
				t.Errorf("%d octets of %d", got.Len(), len(data))
			}
			for o := range b.Options() {
				if n--; o.Missed > 0 {
					t.Error(o)
				}
			}
			if n != 0 {
				t.Errorf("%d options missing", n)
			}
		})
	}
}

var errFull = errors.New("full")

type failing struct {
	w    io.Writer
	room int
}

func (f *failing) Write(p []byte) (int, error) {
	k := min(len(p), f.room)
	f.w.Write(p[:k])
	f.room -= k
	if k < len(p) {
		return k, errFull
	}
	return k, nil
}

// A Stream allocates nothing for a write and a read.
func TestStreamAllocates(t *testing.T) {
	l, m := crypttest.Pipe(crypttest.Options{})
	x, y := encrypted(t, l, m)
	a, b := innerspace.NewStream(x, innerspace.StreamConfig{}), innerspace.NewStream(y, innerspace.StreamConfig{})
	defer a.Abort()
	defer b.Abort()
	p, q := make([]byte, 30_000), make([]byte, 30_000)
	for _, size := range []int{100, len(p)} {
		if n := testing.AllocsPerRun(100, func() {
			if _, err := a.Write(p[:size]); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(b, q[:size]); err != nil {
				t.Fatal(err)
			}
		}); n > allocsPerWrite {
			t.Errorf("%d octets: %v allocations", size, n)
		}
	}
}
