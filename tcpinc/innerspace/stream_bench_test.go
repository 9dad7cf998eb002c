package innerspace_test

import (
	"fmt"
	"io"
	"sync"
	"syscall"
	"testing"
	"time"

	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt"
	"innertun/tcpinc/tcpcrypt/crypttest"
)

// nothing is a stream below with frames that costs nothing: what is sent is gone, and what comes is always the same.
type nothing struct {
	innerspace.Lower
	frame []byte // sent goes here
	units []byte // what comes at once
	n     int    // how often
}

const nothingFrame = 63_692

func (l *nothing) FrameData() int { return nothingFrame }

func (l *nothing) Write(p []byte) (int, error) { return len(p), nil }

func (l *nothing) WriteBehind(head, p []byte) (int, error) { return len(head) + len(p), nil }

func (l *nothing) ReadFrom(r io.Reader) (total int64, err error) {
	for {
		n, err := r.Read(l.frame[:nothingFrame])
		total += int64(n)
		if err == io.EOF {
			return total, nil
		}
	}
}

func (l *nothing) WriteTo(w io.Writer) (total int64, err error) {
	for range l.n {
		n, err := w.Write(l.units)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// BenchmarkLayer is what a Stream itself costs for each unit, sent and received.
func BenchmarkLayer(b *testing.B) {
	for _, size := range []int64{64, nothingFrame - innerspace.HeaderLen} {
		b.Run(fmt.Sprintf("send/%d", size), func(b *testing.B) {
			s := innerspace.NewStream(&nothing{frame: make([]byte, 1<<16)}, innerspace.StreamConfig{})
			b.ReportAllocs()
			r := &each{size: size, left: b.N}
			if n, err := s.ReadFrom(r); n != size*int64(b.N) || err != nil {
				b.Fatal(n, err)
			}
		})
		b.Run(fmt.Sprintf("receive/%d", size), func(b *testing.B) {
			unit, err := innerspace.AppendUnit(nil, nil, make([]byte, size))
			if err != nil {
				b.Fatal(err)
			}
			s := innerspace.NewStream(&nothing{units: unit, n: b.N}, innerspace.StreamConfig{})
			b.ReportAllocs()
			if n, err := s.WriteTo(onlyWriter{io.Discard}); n != size*int64(b.N) || err != nil {
				b.Fatal(n, err)
			}
		})
	}
}

// each is reads that cost nothing, all of one size.
type each struct {
	size int64
	left int
}

func (e *each) Read([]byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	e.left--
	return int(e.size), nil
}

func benchStream(b *testing.B, size int, write func([]byte) (int, error), end func() error, r io.WriterTo) {
	b.SetBytes(int64(size))
	b.ReportAllocs()
	defer cpu(b)()
	var wg sync.WaitGroup
	wg.Go(func() {
		if n, err := r.WriteTo(onlyWriter{io.Discard}); n != int64(b.N*size) || err != nil {
			b.Errorf("received %d of %d octets, %v", n, b.N*size, err)
		}
	})
	p := make([]byte, size)
	b.ResetTimer()
	for range b.N {
		if _, err := write(p); err != nil {
			b.Fatal(err)
		}
	}
	end()
	wg.Wait()
}

// BenchmarkStream is one encrypted stream over a pipe in memory, without Inner Space and with it.
func BenchmarkStream(b *testing.B) {
	for _, size := range []int{64, 1400, 16 << 10, 256 << 10} {
		for _, with := range []bool{false, true} {
			b.Run(fmt.Sprintf("Write/%d/inner=%v", size, with), func(b *testing.B) {
				x, y := encryptedPipe(b)
				if !with {
					benchStream(b, size, x.Write, x.CloseWrite, y)
					return
				}
				s, r := innerspace.NewStream(x, innerspace.StreamConfig{}), innerspace.NewStream(y, innerspace.StreamConfig{})
				benchStream(b, size, s.Write, s.CloseWrite, r)
			})
		}
	}
	for _, with := range []bool{false, true} {
		b.Run(fmt.Sprintf("ReadFrom/inner=%v", with), func(b *testing.B) {
			x, y := encryptedPipe(b)
			var s io.ReaderFrom = x
			var r io.WriterTo = y
			end := x.CloseWrite
			if with {
				o := innerspace.NewStream(x, innerspace.StreamConfig{})
				s, end = o, o.CloseWrite
				r = innerspace.NewStream(y, innerspace.StreamConfig{})
			}
			b.SetBytes(64 << 10)
			defer cpu(b)()
			var wg sync.WaitGroup
			total := int64(b.N) * 64 << 10
			wg.Go(func() {
				if n, err := r.WriteTo(onlyWriter{io.Discard}); n != total || err != nil {
					b.Errorf("received %d of %d octets, %v", n, total, err)
				}
			})
			if n, err := s.ReadFrom(io.LimitReader(zeros{}, total)); n != total || err != nil {
				b.Fatal(n, err)
			}
			end()
			wg.Wait()
		})
	}
}

// cpu reports the processor time of the process: other programs disturb it less than the clock.
func cpu(b *testing.B) (stop func()) {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	start := used()
	return func() { b.ReportMetric(float64(used()-start)/float64(b.N), "cpu-ns/op") }
}

func encryptedPipe(b *testing.B) (x, y *tcpcrypt.Conn) {
	a, z := crypttest.Pipe(crypttest.Options{})
	return encrypted(b, a, z)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
