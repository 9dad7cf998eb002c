package integration

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"innertun/integration/netlab"
)

// recorder is an origin that keeps all it is sent.
type recorder struct {
	mu  sync.Mutex
	got []byte
}

func (r *recorder) handle(c *net.TCPConn) {
	b := make([]byte, 4096)
	for {
		n, err := c.Read(b)
		r.mu.Lock()
		r.got = append(r.got, b[:n]...)
		r.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (r *recorder) take() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.got
	r.got = nil
	return got
}

// hostile is a server under attack by a raw peer.
type hostile struct {
	lab    *netlab.Lab
	server *daemon
	peer   *rawPeer
	origin recorder
	rand   *rand.Rand
	port   uint16
}

func (h *hostile) conn() *rawConn {
	h.port++
	return &rawConn{peer: h.peer, port: 20000 + h.port, to: 2001, seq: h.rand.Uint32()}
}

func (h *hostile) octets(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(h.rand.Uint32())
	}
	return b
}

var (
	enoCurve25519 = []byte{69, 3, 0x23}
	enoACK        = []byte{69, 2}
)

// goodInit1 is a well-formed Init1 for Curve25519 (RFC 8548, Section 4.1).
func (h *hostile) goodInit1() []byte {
	b := []byte{0x15, 0x10, 0x1a, 0x0e, 0, 0, 0, 0, 1, 0, 1}
	b = append(b, h.octets(64)...)
	binary.BigEndian.PutUint32(b[4:], uint32(len(b)))
	return b
}

// TestHostilePeer sends what no honest peer sends to `serve`: it survives, resets what must be reset, and nothing
// of it reaches the service behind.
func TestHostilePeer(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	h := &hostile{lab: lab, rand: rand.New(rand.NewPCG(8547, 8548))}
	lab.Server.Serve(t, "127.0.0.1:9001", h.origin.handle)
	h.server = startRun(t, lab.Server, "[egress]\ninterface = \"eth0\"\n[[serve]]\nlisten = \":2001\"\nforward = \"127.0.0.1:9001\"\n")
	h.peer = newRawPeer(t, lab.Client)
	for _, test := range []struct {
		name string
		run  func(*hostile, *testing.T)
	}{
		{"random ENO in SYN", (*hostile).randomSYN},
		{"malformed options field", (*hostile).malformedOptions},
		{"ill-formed ENO falls back to plain", (*hostile).illFormed},
		{"random stream for Init1", (*hostile).randomInit1},
		{"bad Init1", (*hostile).badInit1},
		{"trickled Init1", (*hostile).trickledInit1},
		{"garbage frames", (*hostile).garbageFrames},
		{"Init1 without ENO in the third segment", (*hostile).strippedThird},
		{"third segment out of nowhere", (*hostile).unknownThird},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(h, t) })
		h.server.mustAlive(t)
		if got := h.origin.take(); len(got) > 0 {
			t.Errorf("%s: the service was given %d octets: % x", test.name, len(got), got[:min(len(got), 32)])
		}
	}
	client := startRun(t, lab.Client, clientConfig)
	c := connect(t, ways(lab.Client)[0], families()[0].at(2001))
	if _, err := c.Write([]byte("an honest client")); err != nil {
		t.Fatal(err)
	}
	netlab.WaitFor(t, netlab.Patience, "the honest client's data", func() error {
		h.origin.mu.Lock()
		defer h.origin.mu.Unlock()
		if string(h.origin.got) != "an honest client" {
			return fmt.Errorf("%q", h.origin.got)
		}
		return nil
	})
	if r := client.newest(t, to(families()[0].at(2001))); !r.Encrypted {
		t.Errorf("%+v", r)
	}
}

func (h *hostile) randomSYN(t *testing.T) {
	for range 300 {
		n := h.rand.IntN(37)
		option := append([]byte{69, byte(2 + n)}, h.octets(n)...)
		c := h.conn()
		if err := c.send(syn, option, nil); err != nil {
			t.Fatal(err)
		}
		if s, err := c.wait(netlab.Patience, func(rawSegment) bool { return true }); err != nil || s.flags != syn|ack {
			t.Errorf("option % x: flags %#02x, %v", option, s.flags, err)
		}
		if err := c.send(rst, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
}

func (h *hostile) malformedOptions(t *testing.T) {
	for _, options := range [][]byte{
		{69}, {69, 0, 0, 0}, {69, 1, 0, 0}, {69, 40, 0x23, 0}, {1, 1, 1, 69}, {2, 4, 5, 180, 69, 200, 0x23, 0x21},
		{69, 3, 0x23, 69, 3, 0x23, 1, 1}, {69, 4, 0x80, 0x23}, bytes.Repeat([]byte{69}, 40),
	} {
		c := h.conn()
		if err := c.send(syn, options, nil); err != nil {
			t.Fatal(err)
		}
		// Dropping such a SYN is fine, as is answering it, but not with ENO.
		if s, err := c.wait(300*time.Millisecond, func(rawSegment) bool { return true }); err == nil && bytes.IndexByte(s.options, 69) >= 0 {
			t.Errorf("options % x were answered with % x", options, s.options)
		}
	}
}

func (h *hostile) illFormed(t *testing.T) {
	c := h.conn()
	s, err := c.open([]byte{69, 4, 0x80, 0x23}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.IndexByte(s.options, 69) >= 0 {
		t.Errorf("answered with % x", s.options)
	}
	if err := c.send(ack|psh, nil, []byte("plain words")); err != nil {
		t.Fatal(err)
	}
	netlab.WaitFor(t, netlab.Patience, "plain data", func() error {
		h.origin.mu.Lock()
		defer h.origin.mu.Unlock()
		if string(h.origin.got) != "plain words" {
			return fmt.Errorf("%q", h.origin.got)
		}
		return nil
	})
	h.origin.take()
	if err := c.send(rst, nil, nil); err != nil {
		t.Fatal(err)
	}
}

// openENO negotiates encryption as an honest client would.
func (h *hostile) openENO(t *testing.T) *rawConn {
	t.Helper()
	c := h.conn()
	s, err := c.open(enoCurve25519, enoACK)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(s.options, []byte{69, 4, 1, 0x23}) {
		t.Fatalf("SYN-ACK's options: % x", s.options)
	}
	return c
}

func (h *hostile) wantReset(t *testing.T, c *rawConn, what string) {
	t.Helper()
	if _, err := c.wait(netlab.Patience, isReset); err != nil {
		t.Errorf("%s: no reset: %v", what, err)
	}
}

func (h *hostile) randomInit1(t *testing.T) {
	for i := range 30 {
		c := h.openENO(t)
		b := h.octets(200)
		if i%2 == 0 { // the right magic, and then anything
			copy(b, []byte{0x15, 0x10, 0x1a, 0x0e, 0, 0, 0, byte(9 + h.rand.IntN(150))})
			b[8] = byte(h.rand.IntN(80)) | 1 // some ciphers, seldom ones that exist
		}
		if err := c.send(ack|psh, enoACK, b); err != nil {
			t.Fatal(err)
		}
		h.wantReset(t, c, fmt.Sprintf("Init1 % x...", b[:16]))
	}
}

func (h *hostile) badInit1(t *testing.T) {
	for name, change := range map[string]func([]byte) []byte{
		"huge length":      func(b []byte) []byte { binary.BigEndian.PutUint32(b[4:], 0xffffffff); return b },
		"length zero":      func(b []byte) []byte { binary.BigEndian.PutUint32(b[4:], 0); return b },
		"no ciphers":       func(b []byte) []byte { b[8] = 0; return b },
		"unknown cipher":   func(b []byte) []byte { b[9], b[10] = 0x7f, 0x7f; return b },
		"zero public key":  func(b []byte) []byte { clear(b[43:]); return b },
		"INIT2's magic":    func(b []byte) []byte { copy(b, []byte{0x09, 0x71, 0x05, 0xe0}); return b },
		"more ciphers":     func(b []byte) []byte { b[8] = 255; return b },
		"plain HTTP":       func([]byte) []byte { return []byte("GET / HTTP/1.0\r\n\r\n") },
		"length too short": func(b []byte) []byte { b[7] -= 5; return b },
	} {
		c := h.openENO(t)
		if err := c.send(ack|psh, enoACK, change(h.goodInit1())); err != nil {
			t.Fatal(err)
		}
		h.wantReset(t, c, name)
	}
	// Every strict prefix, then FIN.
	for n := 0; n < len(h.goodInit1()); n += 7 {
		c := h.openENO(t)
		if err := c.send(ack|psh|fin, enoACK, h.goodInit1()[:n]); err != nil {
			t.Fatal(err)
		}
		h.wantReset(t, c, fmt.Sprintf("%d octets of Init1 and FIN", n))
	}
}

func (h *hostile) trickledInit1(t *testing.T) {
	c := h.openENO(t)
	for _, b := range h.goodInit1() { // one octet a segment is slow, but not wrong
		if err := c.send(ack|psh, enoACK, []byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	s, err := c.wait(netlab.Patience, func(s rawSegment) bool { return len(s.payload) > 0 || isReset(s) })
	if err != nil || !bytes.HasPrefix(s.payload, []byte{0x09, 0x71, 0x05, 0xe0}) {
		t.Errorf("flags %#02x, payload % x, %v; want Init2", s.flags, s.payload, err)
	}
	if err := c.send(rst, nil, nil); err != nil {
		t.Fatal(err)
	}
}

func (h *hostile) garbageFrames(t *testing.T) {
	for i := range 40 {
		c := h.openENO(t)
		if err := c.send(ack|psh, enoACK, h.goodInit1()); err != nil {
			t.Fatal(err)
		}
		s, err := c.wait(netlab.Patience, func(s rawSegment) bool { return len(s.payload) > 0 || isReset(s) })
		if err != nil || isReset(s) {
			t.Fatalf("no Init2: flags %#02x, %v", s.flags, err)
		}
		c.ack = s.seq + uint32(len(s.payload))
		frame := h.octets(3 + 17 + h.rand.IntN(400))
		frame[0] &= 1
		binary.BigEndian.PutUint16(frame[1:], uint16(len(frame)-3))
		flags := byte(ack | psh)
		switch i % 4 {
		case 1: // too short to hold a tag
			frame = []byte{0, 0, 3, 1, 2, 3}
		case 2: // the stream ends within a frame
			frame, flags = frame[:10], ack|psh|fin
		case 3: // the stream ends without FINp
			frame, flags = nil, ack|fin
		}
		if err := c.send(flags, nil, frame); err != nil {
			t.Fatal(err)
		}
		h.wantReset(t, c, fmt.Sprintf("frame % x (flags %#02x)", frame[:min(len(frame), 12)], flags))
	}
}

// strippedThird is the path that strips ENO from non-SYN segments: A encrypts, B may not deliver it as plain text.
func (h *hostile) strippedThird(t *testing.T) {
	c := h.conn()
	if _, err := c.open(enoCurve25519, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.send(ack|psh, nil, h.goodInit1()); err != nil {
		t.Fatal(err)
	}
	h.wantReset(t, c, "Init1 on a connection that fell back")
}

func (h *hostile) unknownThird(t *testing.T) {
	c := h.conn()
	c.ack = h.rand.Uint32()
	if err := c.send(ack, enoACK, nil); err != nil {
		t.Fatal(err)
	}
	h.wantReset(t, c, "a third segment with ENO and no flow")
}

// TestHostileLocal sends garbage to the ports that applications and commands use.
func TestHostileLocal(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	lab.Server.Serve(t, "198.18.2.2:7000", answerSum)
	client := startRun(t, lab.Client, clientConfig)
	random := rand.New(rand.NewPCG(1928, 1929))
	garbage := func() []byte {
		b := make([]byte, random.IntN(600))
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		return b
	}
	t.Run("SOCKS", func(t *testing.T) {
		prefixes := [][]byte{nil, {5}, {5, 0}, {5, 255}, {4, 1}, {5, 1, 0, 5, 1, 0}, {5, 1, 0, 5, 1, 0, 3, 255}, {5, 1, 0, 5, 2, 0, 1},
			{5, 1, 0, 5, 1, 0, 9}, []byte("GET / HTTP/1.1\r\n\r\n")}
		var wg sync.WaitGroup
		for i := range 200 {
			c, err := lab.Client.Dial(t.Context(), "tcp", "127.0.0.1:1080")
			if err != nil {
				t.Fatal(err)
			}
			b := append(bytes.Clone(prefixes[i%len(prefixes)]), garbage()...)
			wg.Go(func() { say(c, b) })
		}
		wg.Wait()
	})
	t.Run("control socket", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range 100 {
			c, err := net.Dial("unix", client.control)
			if err != nil {
				t.Fatal(err)
			}
			b := garbage()
			switch i % 4 {
			case 1:
				b = []byte("GET /" + strings.Repeat("x", 100_000) + " HTTP/1.1\r\n\r\n")
			case 2:
				b = []byte("POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n{")
			case 3:
				b = []byte("GET /../../etc/passwd HTTP/1.0\r\n\r\n")
			}
			wg.Go(func() {
				if bytes.Contains(say(c, b), []byte("root:")) {
					t.Error("the control socket serves files")
				}
			})
		}
		wg.Wait()
		info, err := os.Stat(client.control)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("control socket: %v, %v", info, err)
		}
	})
	client.mustAlive(t)
	for _, w := range ways(lab.Client) {
		if err := exchange(t, w, "198.18.2.2:7000"); err != nil {
			t.Errorf("%s afterwards: %v", w.name, err)
		}
	}
	client.waitIdle(t)
}

// say sends what may be garbage, ends its direction, and returns the answer. The other side may close at any time.
func say(c net.Conn, b []byte) []byte {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	_, _ = c.Write(b)
	_ = c.(interface{ CloseWrite() error }).CloseWrite()
	answer, _ := io.ReadAll(c)
	return answer
}

// TestBadConfig starts with configurations that are wrong: the message names the key and the line.
func TestBadConfig(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	before := snapshot(t, lab.Client)
	for _, test := range []struct{ name, text, key, line string }{
		{"unknown key", "[egress]\ninterface = \"eth0\"\nspeed = 9\n", "speed", "3"},
		{"unknown table", "\n[turbo]\non = true\n", "turbo", "2"},
		{"wrong type", "[egress]\ninterface = \"eth0\"\n\n[tun]\nmtu = \"big\"\n", "mtu", "5"},
		{"bad prefix", "[egress]\ninterface = \"eth0\"\n[tun]\nroutes = [\"198.18.0.0/99\"]\n", "routes", "4"},
		{"bad policy", "[tcpinc]\npolicy = \"perhaps\"\n", "policy", "2"},
		{"bad cipher", "[tcpinc]\nciphers = [\"rot13\"]\n", "ciphers", "2"},
		{"bad rule", "[[rule]]\nto = [\"nowhere/8\"]\npolicy = \"off\"\n", "to", "2"},
		{"bad port", "[[serve]]\nlisten = \":99999\"\nforward = \"127.0.0.1:80\"\n", "listen", "2"},
		{"not TOML", "[egress\n", "", "1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := shortDir(t)
			file := filepath.Join(dir, "config.toml")
			if err := os.WriteFile(file, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			o := lab.Client.Run(t.Context(), innertunBinary(t), "run", "-c", file, "--control", filepath.Join(dir, "c.sock"))
			if o.Code != 1 && o.Code != 2 {
				t.Errorf("status %d", o.Code)
			}
			if !strings.Contains(o.Stderr, test.key) || !strings.Contains(o.Stderr, test.line) {
				t.Errorf("want key %q and line %s named: %s", test.key, test.line, o.Stderr)
			}
		})
	}
	compare(t, "after bad configurations", before, snapshot(t, lab.Client))
}
