package tcpinc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/hello"
	"innertun/tcpinc/tcpcrypt"
	"innertun/tcpinc/tcpcrypt/crypttest"
)

// newGreeted is a stream that may begin with a hello, and the peer's end of it.
func newGreeted(t *testing.T, o crypttest.Options) (*greeted, *tcpcrypt.Conn) {
	t.Helper()
	ends := make([]*tcpcrypt.Conn, 2)
	a, b := crypttest.Pipe(o)
	errs := make(chan error)
	for i, lower := range []*crypttest.End{a, b} {
		c, err := tcpcrypt.New(lower, tcpcrypt.Config{Role: eno.Role(i + 1), TEP: tcpcrypt.Curve25519})
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = c
		go func() { errs <- c.Handshake(context.Background()) }()
	}
	if err := errors.Join(<-errs, <-errs); err != nil {
		t.Fatal(err)
	}
	g := &greeted{Conn: ends[0], now: time.Now}
	g.judge = func(h *hello.Hello) (*peerHello, error) {
		said := new(peerHello)
		if h != nil {
			said.capabilities = h.Capabilities
		}
		return said, nil
	}
	return g, ends[1]
}

// paths are all the ways to read a stream to its end.
var readPaths = map[string]func(*greeted) ([]byte, error){
	"Read": func(g *greeted) ([]byte, error) { return io.ReadAll(onlyReader{g}) },
	"Read by octets": func(g *greeted) ([]byte, error) {
		var all []byte
		for p := make([]byte, 1); ; {
			if n, err := g.Read(nil); n != 0 || err != nil && err != io.EOF {
				return all, errors.Join(errors.New("reading nothing"), err)
			}
			n, err := g.Read(p)
			all = append(all, p[:n]...)
			if err == io.EOF {
				return all, nil
			} else if err != nil {
				return all, err
			}
		}
	},
	"WriteTo": func(g *greeted) ([]byte, error) {
		var b bytes.Buffer
		n, err := g.WriteTo(&b)
		if n != int64(b.Len()) {
			err = errors.Join(err, errors.New("WriteTo counts otherwise"))
		}
		return b.Bytes(), err
	},
	"WaitRead, then Read": func(g *greeted) ([]byte, error) {
		var all []byte
		for p := make([]byte, 3); ; {
			if err := g.WaitRead(); err != nil && err != io.EOF {
				return all, err
			}
			n, err := g.Read(p)
			all = append(all, p[:n]...)
			if err == io.EOF {
				return all, nil
			} else if err != nil {
				return all, err
			}
		}
	},
	"Read, then WriteTo": func(g *greeted) ([]byte, error) {
		p := make([]byte, 2)
		n, err := g.Read(p)
		if err == io.EOF {
			return p[:n], nil
		} else if err != nil {
			return p[:n], err
		}
		var b bytes.Buffer
		_, err = g.WriteTo(&b)
		return append(p[:n], b.Bytes()...), err
	},
}

// Whatever way the stream is read, and however it is cut: the application gets its octets, and the hello is taken.
func TestGreetedStrips(t *testing.T) {
	said := string(hello.Append(nil, hello.Hello{Capabilities: 5}))
	long := string(bytes.Repeat([]byte("0123456789"), 5000))
	for _, c := range []struct {
		frames []string
		want   string
		caps   hello.Capabilities
	}{
		{[]string{said}, "", 5},
		{[]string{said, "a"}, "a", 5},
		{[]string{said, long}, long, 5},
		{[]string{said, said}, said, 5}, // only the first is one
		{[]string{said + "more"}, "more", 5},
		{nil, "", 0},
		{[]string{"a"}, "a", 0},
		{[]string{"I"}, "I", 0},
		{[]string{"ITH"}, "ITH", 0},
		{[]string{"ITH1"}, "ITH1", 0},
		{[]string{"GET / HTTP/1.1\r\n", long}, "GET / HTTP/1.1\r\n" + long, 0},
		{[]string{long}, long, 0},
	} {
		for name, read := range readPaths {
			for _, o := range []crypttest.Options{{}, oneOctet} {
				g, peer := newGreeted(t, o)
				for _, f := range c.frames {
					peer.Write([]byte(f))
				}
				peer.CloseWrite()
				got, err := read(g)
				if string(got) != c.want || err != nil {
					t.Errorf("%s of %.20q: %d octets %.20q, %v", name, c.frames, len(got), got, err)
				}
				if s := g.said.Load(); s == nil || s.capabilities != c.caps {
					t.Errorf("%s of %.20q: %+v, want capabilities %v", name, c.frames, s, c.caps)
				}
				g.Abort()
				peer.Abort()
			}
		}
	}
}

// A peer that has sent the first letter of a hello and waits for an answer gets one.
func TestGreetedDoesNotWaitForMore(t *testing.T) {
	g, peer := newGreeted(t, crypttest.Options{})
	defer peer.Abort()
	defer g.Abort()
	peer.Write([]byte("I"))
	p := make([]byte, 10)
	if n, err := g.Read(p); n != 1 || p[0] != 'I' || err != nil {
		t.Errorf("%d octets, %v", n, err)
	}
}

// A passed deadline loses nothing, before the hello and after it.
func TestGreetedDeadline(t *testing.T) {
	for name, wait := range map[string]func(*greeted) error{
		"Read":     func(g *greeted) error { _, err := g.Read(make([]byte, 10)); return err },
		"WriteTo":  func(g *greeted) error { _, err := g.WriteTo(io.Discard); return err },
		"WaitRead": func(g *greeted) error { return g.WaitRead() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, peer := newGreeted(t, crypttest.Options{})
				defer peer.Abort()
				defer g.Abort()
				for range 2 {
					g.SetReadDeadline(time.Now().Add(time.Second))
					if err := wait(g); !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Fatal(err)
					}
				}
				peer.Write(hello.Append(nil, hello.Hello{}))
				g.SetReadDeadline(time.Now().Add(time.Second))
				if err := wait(g); name != "WaitRead" && !errors.Is(err, os.ErrDeadlineExceeded) || err != nil && !isTimeout(err) {
					t.Fatal(err)
				}
				g.SetReadDeadline(time.Time{})
				peer.Write([]byte("data"))
				p := make([]byte, 10)
				if n, err := g.Read(p); string(p[:n]) != "data" || err != nil {
					t.Errorf("%q, %v", p[:n], err)
				}
			})
		})
	}
}

// A bad hello ends the connection, for both ends, and no way to read gets past it.
func TestGreetedRefuses(t *testing.T) {
	bad := errors.New("bad")
	for what, octets := range map[string]string{
		"malformed": "ITH1\x00\x04\x01\x00\x04\x00data",
		"refused":   string(hello.Append(nil, hello.Hello{})) + "data",
	} {
		for name, read := range readPaths {
			g, peer := newGreeted(t, crypttest.Options{})
			want := ErrHello
			if what == "refused" {
				want = bad
				g.judge = func(*hello.Hello) (*peerHello, error) { return nil, bad }
			}
			peer.Write([]byte(octets))
			got, err := read(g)
			if len(got) > 0 || !errors.Is(err, want) {
				t.Errorf("%s, %s: %q, %v", what, name, got, err)
			}
			if _, err := read(g); !errors.Is(err, want) {
				t.Errorf("%s, %s again: %v", what, name, err)
			}
			if _, err := peer.Read(make([]byte, 1)); err == nil || err == io.EOF {
				t.Errorf("%s, %s: the peer sees %v", what, name, err)
			}
			g.Close()
		}
	}
}

// A connection that is closed though nobody has read the hello ends in order: what was written arrives.
func TestGreetedCloseUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, peer := newGreeted(t, crypttest.Options{})
		g.Write([]byte("a banner"))
		go func() {
			time.Sleep(100 * time.Millisecond)
			peer.Write(hello.Append(nil, hello.Hello{}))
		}()
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		if g.said.Load() == nil {
			t.Error("closed with a hello unread")
		}
		if got, err := io.ReadAll(peer); string(got) != "a banner" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		peer.Close()

		// A peer that sends none and stays is not waited for without end.
		g, peer = newGreeted(t, crypttest.Options{})
		start := time.Now()
		g.Close()
		if d := time.Since(start); d > farewell {
			t.Errorf("closing took %v", d)
		}
		peer.Abort()

		// Nor is one waited for while somebody reads.
		g, peer = newGreeted(t, crypttest.Options{})
		go g.Read(make([]byte, 1))
		synctest.Wait()
		start = time.Now()
		g.Close()
		if d := time.Since(start); d > 0 {
			t.Errorf("closing took %v", d)
		}
		peer.Abort()
	})
}
