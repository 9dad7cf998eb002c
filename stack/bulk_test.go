package stack_test

import (
	"errors"
	"io"
	"math/rand"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"innertun/stack"
	"innertun/stack/stacktest"
)

// lossy loses, doubles and reorders packets of both directions.
func lossy(loss, double, reorder float64) stacktest.Tap {
	var mu sync.Mutex
	rng := rand.New(rand.NewSource(7))
	var late [2][]byte
	return func(d stacktest.Direction, p stacktest.Packet) [][]byte {
		mu.Lock()
		defer mu.Unlock()
		var out [][]byte
		x := rng.Float64()
		switch {
		case x < loss:
		case x < loss+double:
			out = append(out, p.Raw, append([]byte(nil), p.Raw...))
		case x < loss+double+reorder && late[d] == nil:
			late[d] = p.Raw
			return nil
		default:
			out = append(out, p.Raw)
		}
		if late[d] != nil {
			out = append(out, late[d])
			late[d] = nil
		}
		return out
	}
}

func TestBulkOverLossyPath(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		w := newWorld(t, time.Millisecond)
		var hs serverHandshakes
		l := w.listen(t, at, hs.new)
		w.path.SetTap(lossy(0.02, 0.01, 0.03))
		for range 3 {
			c, s := w.connect(t, l, at, clientHandshake())
			checkShown(t, c.Handshake(), s.Handshake())
			data := randomBytes(1 << 20)
			carry(t, c, s, data)
			carry(t, s, c, data)
		}
		if w.client.Stats().Retransmitted == 0 {
			t.Fatal("nothing was lost")
		}
	})
}

// Short connections to one destination: more of them than ports, whichever side closes first.
func TestManyShortConnections(t *testing.T) {
	for _, first := range []string{"client", "server"} {
		t.Run(first+" closes first", func(t *testing.T) {
			const ports, connections = 100, 1000
			at := netip.AddrPortFrom(server4.Addr(), 80)
			w := newWorld(t, 0, func(c, _ *stack.Config) {
				for i := range ports {
					c.Ports = append(c.Ports, uint16(61000+i))
				}
			})
			var hs serverHandshakes
			l := w.listen(t, at, hs.new)
			go serveShort(l, first == "server")
			start := time.Now()
			for i := range connections {
				c, err := w.client.Dial(testContext(t), stack.Flow{Remote: at}, clientHandshake())
				if err != nil {
					t.Fatalf("connection %d: %v", i, err)
				}
				c.SetDeadline(time.Now().Add(testTimeout))
				if err := short(c, first == "client"); err != nil {
					t.Fatalf("connection %d: %v", i, err)
				}
				c.Close()
			}
			t.Logf("%.0f connections/s", connections/time.Since(start).Seconds())
			if w.client.Stats().Retransmitted > connections/50 {
				t.Fatalf("%d segments sent again", w.client.Stats().Retransmitted)
			}
			if n := w.client.Stats().Endpoints; n > ports {
				t.Fatalf("%d connections with %d ports", n, ports)
			}
		})
	}
}

// serveShort answers one octet with one octet.
func serveShort(l *stack.Listener, closeFirst bool) {
	for {
		c, err := l.AcceptConn()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			b := make([]byte, 1)
			if _, err := c.Read(b); err != nil {
				return
			}
			c.Write(b)
			if !closeFirst {
				c.Read(b)
			}
		}()
	}
}

func short(c *stack.Conn, closeFirst bool) error {
	b := []byte{42}
	if _, err := c.Write(b); err != nil {
		return err
	}
	if _, err := c.Read(b); err != nil {
		return err
	}
	if closeFirst {
		return nil
	}
	if _, err := c.Read(b); err != io.EOF {
		return errors.New("no end")
	}
	return nil
}

func TestPortsExhausted(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		w := newWorld(t, 0, func(c, _ *stack.Config) { c.Ports = []uint16{61000, 61001, 61002} })
		l := w.listen(t, at, nil)
		used := make(map[string]bool)
		for range 3 {
			c, _ := w.connect(t, l, at, nil)
			used[c.LocalAddr().String()] = true
		}
		if len(used) != 3 {
			t.Fatalf("ports: %v", used)
		}
		if _, err := w.client.Dial(testContext(t), stack.Flow{Remote: at}, nil); !errors.Is(err, syscall.EADDRNOTAVAIL) {
			t.Fatalf("Dial: %v", err)
		}
		// The same ports serve another destination.
		other := netip.AddrPortFrom(at.Addr(), 81)
		w.connect(t, w.listen(t, other, nil), other, nil)
	})
}

// None of many connections at once, over a bad path, loses its handshake or its data.
func TestManyConnectionsOverLossyPath(t *testing.T) {
	const connections, atOnce = 200, 16
	at := netip.AddrPortFrom(server4.Addr(), 80)
	w := newWorld(t, time.Millisecond)
	var hs serverHandshakes
	l := w.listen(t, at, hs.new)
	w.path.SetTap(lossy(0.03, 0.02, 0.05))
	go func() {
		for {
			s, err := l.AcceptConn()
			if err != nil {
				return
			}
			go func() {
				defer s.Close()
				h := s.Handshake().(*stacktest.Handshake)
				if seen, n := h.Saw(stack.NonSYN); n != 1 || !hasENO(seen.Options) {
					t.Errorf("the server was shown %d times: %x", n, seen.Options)
				}
				io.Copy(struct{ io.Writer }{s}, struct{ io.Reader }{s})
			}()
		}
	}()
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for range connections {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			echo(t, w, at)
		})
	}
	wg.Wait()
	// The path may deliver a SYN behind the segment that follows it: what that begins ends by itself.
	end := time.Now().Add(halfOpenTime + testTimeout)
	for w.client.Stats().Flows+w.server.Stats().Flows > 0 && time.Now().Before(end) {
		time.Sleep(time.Millisecond)
	}
	if c, s := w.client.Stats().Flows, w.server.Stats().Flows; c+s != 0 {
		t.Errorf("handshakes are not over: %d at the client, %d at the server", c, s)
	}
}

// halfOpenTime is how long a half-open connection is kept, and until that is noticed.
const halfOpenTime = 140 * time.Second

func echo(t *testing.T, w *world, at netip.AddrPort) {
	h := clientHandshake()
	c, err := w.client.Dial(t.Context(), stack.Flow{Remote: at}, h)
	if err != nil {
		t.Errorf("Dial: %v", err)
		return
	}
	defer c.Close()
	if seen, n := h.Saw(stack.SYNACK); n != 1 || !hasENO(seen.Options) {
		t.Errorf("the client was shown %d times: %x", n, seen.Options)
	}
	c.SetDeadline(time.Now().Add(2 * testTimeout))
	data := randomBytes(20000)
	go func() {
		c.Write(data)
		c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || string(got) != string(data) {
		t.Errorf("%d octets came back, %v", len(got), err)
	}
}
