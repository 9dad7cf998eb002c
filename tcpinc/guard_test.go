package tcpinc

import (
	"bytes"
	"errors"
	"io"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"innertun/tcpinc/tcpcrypt/crypttest"
)

func newGuarded(o crypttest.Options) (*guarded, *crypttest.End) {
	a, b := crypttest.Pipe(o)
	return &guarded{Transport: b}, a
}

var oneOctet = crypttest.Options{Segment: func(int) int { return 1 }}

func TestGuardPassesOrdinaryStreams(t *testing.T) {
	for _, text := range []string{"", "G", "GET / HTTP/1.1\r\n", "\x15", "\x15\x10\x1a", "\x15\x10\x1a\x0f and more", "\x15\x15\x10\x1a\x0e"} {
		for name, read := range map[string]func(*guarded) ([]byte, error){
			"Read": func(g *guarded) ([]byte, error) { return io.ReadAll(onlyReader{g}) },
			"WriteTo": func(g *guarded) ([]byte, error) {
				var b bytes.Buffer
				n, err := g.WriteTo(&b)
				if n != int64(b.Len()) {
					t.Errorf("WriteTo counts %d of %d", n, b.Len())
				}
				return b.Bytes(), err
			},
			"WaitRead, then Read": func(g *guarded) ([]byte, error) {
				var all []byte
				for {
					if err := g.WaitRead(); err != nil {
						return all, err
					}
					p := make([]byte, 3)
					n, err := g.Read(p)
					all = append(all, p[:n]...)
					if err == io.EOF {
						return all, nil
					}
					if err != nil {
						return all, err
					}
				}
			},
			"Read, then WriteTo": func(g *guarded) ([]byte, error) {
				p := make([]byte, 2)
				n, err := g.Read(p)
				if err != nil && err != io.EOF {
					return nil, err
				}
				var b bytes.Buffer
				_, err = g.WriteTo(&b)
				return append(p[:n], b.Bytes()...), err
			},
		} {
			for _, o := range []crypttest.Options{{}, oneOctet} {
				g, peer := newGuarded(o)
				peer.Write([]byte(text))
				peer.CloseWrite()
				if got, err := read(g); err != nil || string(got) != text {
					t.Errorf("%s of %q gives %q, %v", name, text, got, err)
				}
			}
		}
	}
}

func TestGuardResetsInit1(t *testing.T) {
	for name, read := range map[string]func(*guarded) (int64, error){
		"Read":     func(g *guarded) (int64, error) { n, err := g.Read(make([]byte, 100)); return int64(n), err },
		"WriteTo":  func(g *guarded) (int64, error) { return g.WriteTo(io.Discard) },
		"WaitRead": func(g *guarded) (int64, error) { g.WaitRead(); n, err := g.Read(make([]byte, 1)); return int64(n), err },
	} {
		for _, o := range []crypttest.Options{{}, oneOctet} {
			g, peer := newGuarded(o)
			peer.Write(append(bytes.Clone(magic), "a key exchange"...))
			for range 2 {
				if n, err := read(g); n != 0 || !errors.Is(err, ErrInitInPlain) {
					t.Errorf("%s gives %d octets, %v", name, n, err)
				}
			}
			if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s: the peer reads %v", name, err)
			}
		}
	}
}

// A server that speaks first is not held up, and a deadline in the middle of the decision loses nothing.
func TestGuardWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, peer := newGuarded(crypttest.Options{})
		if n, err := g.ReadFrom(bytes.NewReader([]byte("220 ready"))); n != 9 || err != nil {
			t.Fatal(n, err)
		}
		buf := make([]byte, 20)
		if n, err := peer.Read(buf); err != nil || string(buf[:n]) != "220 ready" {
			t.Fatalf("%q, %v", buf[:n], err)
		}
		peer.Write(magic[:3])
		g.SetReadDeadline(time.Now().Add(time.Second))
		for range 2 {
			if n, err := g.Read(buf); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("%d, %v", n, err)
			}
			if err := g.WaitRead(); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			if n, err := g.WriteTo(io.Discard); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(n, err)
			}
		}
		g.SetReadDeadline(time.Time{})
		peer.Write([]byte("no magic"))
		peer.CloseWrite()
		if got, err := io.ReadAll(onlyReader{g}); err != nil || string(got) != string(magic[:3])+"no magic" {
			t.Fatalf("%q, %v", got, err)
		}
	})
}

// Whatever the stream and however it is cut: it passes unchanged, or is reset if it begins with Init1.
func FuzzGuard(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1"), uint8(3), uint8(2))
	f.Add([]byte("\x15\x10\x1a\x0e rest"), uint8(1), uint8(9))
	f.Fuzz(func(t *testing.T, stream []byte, cut, room uint8) {
		g, peer := newGuarded(crypttest.Options{Segment: func(n int) int { return min(n, int(cut)%5+1) }})
		peer.Write(stream)
		peer.CloseWrite()
		var got []byte
		var err error
		for err == nil {
			p := make([]byte, int(room)%7+1)
			var n int
			n, err = g.Read(p)
			got = append(got, p[:n]...)
		}
		if bytes.HasPrefix(stream, magic) {
			if len(got) > 0 || !errors.Is(err, ErrInitInPlain) {
				t.Fatalf("read %x, %v", got, err)
			}
		} else if !bytes.Equal(got, stream) || err != io.EOF {
			t.Fatalf("read %x of %x, %v", got, stream, err)
		}
	})
}
