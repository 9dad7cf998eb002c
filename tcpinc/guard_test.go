package tcpinc

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
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

// resumedFrame is the first frame of a session that is to be resumed, and what tells it at host B.
func resumedFrame(t *testing.T, data string, rekey bool) (wire []byte, opener *tcpcrypt.Opener) {
	t.Helper()
	frames := make(chan []byte, 16)
	atA, atB := new(tcpcrypt.SessionCache), new(tcpcrypt.SessionCache)
	to := netip.MustParseAddrPort("198.18.0.2:80")
	for range 2 {
		ta, tb := atA.Take(to, nil), atB.Take(to, nil)
		la, lb := crypttest.Pipe(crypttest.Options{})
		cfg := tcpcrypt.Config{Role: eno.RoleA, TEP: tcpcrypt.P256, Sessions: atA, Peer: to, Ticket: ta, SessionNonce: []byte("sn")}
		if ta != nil {
			la.Tap = func(_ uint64, p []byte) { frames <- append([]byte(nil), p...) }
		}
		a, err := tcpcrypt.New(la, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if ta == nil {
			cfg.Role, cfg.Sessions = eno.RoleB, atB
			b, err := tcpcrypt.New(lb, cfg)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- b.Handshake(t.Context()) }()
			if err := errors.Join(a.Handshake(t.Context()), <-done); err != nil {
				t.Fatal(err)
			}
			a.Abort()
			b.Abort()
			continue
		}
		if err := a.Handshake(t.Context()); err != nil {
			t.Fatal(err)
		}
		if rekey {
			err = a.Rekey()
		} else {
			_, err = a.Write([]byte(data))
		}
		if err != nil {
			t.Fatal(err)
		}
		a.Abort()
		if opener, err = tcpcrypt.NewOpener(tb, []byte("sn")); err != nil {
			t.Fatal(err)
		}
	}
	return <-frames, opener
}

// A frame of the session that was to be resumed reaches no application, however it is cut into segments.
func TestGuardOpensFrames(t *testing.T) {
	for name, o := range map[string]crypttest.Options{"whole": {}, "octet by octet": oneOctet} {
		for _, rekey := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				wire, opener := resumedFrame(t, "GET / HTTP/1.1\r\n\r\n", rekey)
				a, b := crypttest.Pipe(o)
				g := guard(b, opener, tcpcrypt.RealClock{})
				a.Write(wire)
				a.CloseWrite()
				if got, err := io.ReadAll(onlyReader{g}); len(got) != 0 || !errors.Is(err, ErrInitInPlain) {
					t.Errorf("%s: read %q, %v", name, got, err)
				}
				if _, err := a.Write([]byte("more")); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
					t.Errorf("%s: the connection goes on: %v", name, err)
				}
			})
		}
	}
}

// What only looks like a frame is handed over whole: at once when it is no frame, after holdTime when it may become one.
func TestGuardReleasesWhatIsNoFrame(t *testing.T) {
	for text, held := range map[string]bool{
		"GET /":                            false,
		"\x00\x00\x10 too short to be one": false,
		"\x02\x00\x20 reserved bit":        false,
		"\x00":                             true,
		"\x01\x00":                         true,
		"\x00\x10\x00 is incomplete":       true,
		"\x00\x00\x11seventeen octets.":    false, // authenticates under no key
		"\x00\x00\x11seventeen octets. and then some": false,
	} {
		for _, wait := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				_, opener := resumedFrame(t, "x", false)
				a, b := crypttest.Pipe(crypttest.Options{})
				g := guard(b, opener, tcpcrypt.RealClock{})
				g.SetReadDeadline(time.Now().Add(time.Minute))
				a.Write([]byte(text))
				start := time.Now()
				if wait {
					if err := g.WaitRead(); err != nil {
						t.Errorf("%q: %v", text, err)
					}
				}
				got := make([]byte, len(text))
				if _, err := io.ReadFull(g, got); err != nil || string(got) != text {
					t.Errorf("%q: read %q, %v", text, got, err)
				}
				if took := time.Since(start); took != 0 && !held || held && took != holdTime {
					t.Errorf("%q: took %v", text, took)
				}
				a.Write([]byte("more"))
				if n, err := io.ReadFull(g, got[:1]); n != 1 || err != nil {
					t.Errorf("%q: then %v", text, err)
				}
				if _, err := io.ReadAll(onlyReader{g}); !errors.Is(err, os.ErrDeadlineExceeded) { // the application's own
					t.Errorf("%q: in the end %v", text, err)
				}
			})
		}
	}
}

// The application's deadline passes while octets are held.
func TestGuardHoldsUnderADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, opener := resumedFrame(t, "x", false)
		a, b := crypttest.Pipe(crypttest.Options{})
		g := guard(b, opener, tcpcrypt.RealClock{})
		a.Write([]byte("\x00\x10"))
		g.SetDeadline(time.Now().Add(time.Second))
		p := make([]byte, 10)
		if n, err := g.Read(p); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(n, err)
		}
		g.SetDeadline(time.Time{})
		start := time.Now()
		if n, err := g.Read(p); string(p[:n]) != "\x00\x10" || err != nil || time.Since(start) != holdTime-time.Second {
			t.Fatal(p[:n], err)
		}
	})
}

// After Close, or a reset, no part of a frame is handed over.
func TestGuardClosedWhileHolding(t *testing.T) {
	for name, end := range map[string]func(g *guarded, a *crypttest.End){
		"closed":  func(g *guarded, _ *crypttest.End) { g.Close() },
		"aborted": func(g *guarded, _ *crypttest.End) { g.Abort() },
		"reset":   func(_ *guarded, a *crypttest.End) { a.Abort() },
	} {
		for _, reading := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				_, opener := resumedFrame(t, "x", false)
				a, b := crypttest.Pipe(crypttest.Options{})
				g := guard(b, opener, tcpcrypt.RealClock{})
				a.Write([]byte("\x00\x10\x00part"))
				read := make(chan int, 1)
				try := func() {
					n, err := g.Read(make([]byte, 100))
					if n != 0 || err == nil {
						t.Errorf("%s: read %d octets, %v", name, n, err)
					}
					read <- n
				}
				if reading {
					go try()
					synctest.Wait()
				}
				end(g, a)
				if !reading {
					try()
				}
				<-read
				b.Abort()
			})
		}
	}
}
