package tcpcrypt

import (
	"fmt"
	"io"
	"sync"
	"testing"

	"innertun/tcpinc/tcpcrypt/crypttest"
)

var benchSizes = []int{64, 1400, DefaultMaxFrame - frameOverhead}

func testDirection(t testing.TB, c Cipher, w way) *direction {
	t.Helper()
	d, err := newDirection(c, w, masterKey{1, 2, 3}, 77)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Frames against the bare AEAD, in one run.
func BenchmarkSeal(b *testing.B) {
	for _, c := range Ciphers() {
		for _, size := range benchSizes {
			b.Run(fmt.Sprintf("%v/%d/bare", c, size), func(b *testing.B) {
				aead, _ := c.aead(make([]byte, c.KeyLen()))
				buf, nonce := make([]byte, size+tagLen), make([]byte, nonceLen)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					aead.Seal(buf[:0], nonce, buf[:size], nil)
				}
			})
			b.Run(fmt.Sprintf("%v/%d/frame", c, size), func(b *testing.B) {
				d := testDirection(b, c, wayAB)
				buf := make([]byte, size+frameOverhead)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := d.seal(buf, size, false, false); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, c := range Ciphers() {
		for _, size := range benchSizes {
			b.Run(fmt.Sprintf("%v/%d/bare", c, size), func(b *testing.B) {
				aead, _ := c.aead(make([]byte, c.KeyLen()))
				nonce := make([]byte, nonceLen)
				sealed := aead.Seal(nil, nonce, make([]byte, size), nil)
				buf := make([]byte, len(sealed))
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					copy(buf, sealed)
					if _, err := aead.Open(buf[:0], nonce, buf, nil); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run(fmt.Sprintf("%v/%d/frame", c, size), func(b *testing.B) {
				sealed := make([]byte, size+frameOverhead)
				testDirection(b, c, wayAB).seal(sealed, size, false, false)
				d := testDirection(b, c, wayAB)
				buf := make([]byte, len(sealed))
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					copy(buf, sealed)
					d.offset = 77
					if _, err := d.open(buf); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkConn is one stream through two Conns over a pipe in memory; "pipe" is the pipe alone. A pipe copies each
// octet twice.
func BenchmarkConn(b *testing.B) {
	for _, size := range []int{64, 1400, 16 << 10, 256 << 10} {
		b.Run(fmt.Sprintf("pipe/%d", size), func(b *testing.B) {
			x, y := crypttest.Pipe(crypttest.Options{})
			benchStream(b, size, x.Write, x.CloseWrite, struct{ io.Reader }{y})
		})
		for _, c := range Ciphers() {
			b.Run(fmt.Sprintf("%v/%d", c, size), func(b *testing.B) {
				x, y, _, _ := connect(b, crypttest.Options{}, func(ca, cb *Config) { cb.Ciphers = []Cipher{c} })
				benchStream(b, size, x.Write, x.CloseWrite, y)
			})
		}
	}
}

func benchStream(b *testing.B, size int, write func([]byte) (int, error), end func() error, r io.Reader) {
	b.SetBytes(int64(size))
	b.ReportAllocs()
	var wg sync.WaitGroup
	wg.Go(func() {
		if n, err := io.Copy(struct{ io.Writer }{io.Discard}, r); n != int64(b.N*size) || err != nil {
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

// BenchmarkReadFrom is the way of a relay's client side: one frame a read.
func BenchmarkReadFrom(b *testing.B) {
	x, y, _, _ := connect(b, crypttest.Options{})
	b.SetBytes(64 << 10)
	b.ReportAllocs()
	var wg sync.WaitGroup
	total := int64(b.N) * 64 << 10
	wg.Go(func() {
		if n, err := y.WriteTo(struct{ io.Writer }{io.Discard}); n != total || err != nil {
			b.Errorf("received %d of %d octets, %v", n, total, err)
		}
	})
	if n, err := x.ReadFrom(io.LimitReader(zeros{}, total)); n != total || err != nil {
		b.Fatal(n, err)
	}
	x.CloseWrite()
	wg.Wait()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func BenchmarkHandshake(b *testing.B) {
	for _, tep := range TEPs() {
		b.Run(tep.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				o, err := newOffer(tep, Ciphers(), zeroRand{})
				if err != nil {
					b.Fatal(err)
				}
				init2, _, err := answer(tep, Ciphers(), zeroRand{}, nil, o.init1)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := o.finish(nil, init2); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// zeroRand gives octets that make a valid private key of every curve.
type zeroRand struct{}

func (zeroRand) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 7
	}
	return len(p), nil
}
