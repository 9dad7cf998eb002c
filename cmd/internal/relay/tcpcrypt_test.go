package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
)

// tunnel is two relays with an encrypted connection between them: client > relay > tcpcrypt > relay > server.
type tunnel struct {
	client, server *net.TCPConn
	wireA, wireB   *own // below the encryption
	results        chan error
}

func encrypted(t *testing.T) *tunnel {
	t.Helper()
	client, a := pair(t)
	wireA, wireB := pair(t)
	b, server := pair(t)
	for _, c := range []net.Conn{a, b, wireA, wireB} {
		c.SetDeadline(time.Time{})
	}
	end := func(c *own, role eno.Role) *tcpcrypt.Conn {
		conn, err := tcpcrypt.New(c, tcpcrypt.Config{Role: role, TEP: tcpcrypt.Curve25519, Transcript: []byte("transcript")})
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	lowerA, lowerB := &own{TCPConn: wireA}, &own{TCPConn: wireB}
	cryptA, cryptB := end(lowerA, eno.RoleA), end(lowerB, eno.RoleB)
	var wg sync.WaitGroup
	for _, c := range []*tcpcrypt.Conn{cryptA, cryptB} {
		wg.Go(func() {
			if err := c.Handshake(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	w := &tunnel{client: client, server: server, wireA: lowerA, wireB: lowerB, results: make(chan error, 2)}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	r := New(Config{})
	go func() { w.results <- r.Run(ctx, a, cryptA, Observer{}) }()
	go func() { w.results <- r.Run(ctx, cryptB, b, Observer{}) }()
	return w
}

func (w *tunnel) both(t *testing.T, check func(error) bool) {
	t.Helper()
	for range 2 {
		select {
		case err := <-w.results:
			if !check(err) {
				t.Errorf("result: %v", err)
			}
		case <-time.After(time.Minute):
			t.Fatal("a relay did not end")
		}
	}
}

func TestEncryptedHalfClose(t *testing.T) {
	w := encrypted(t)
	up, down := random(3<<20+1), random(2<<20+9)
	go func() { w.client.Write(up); w.client.CloseWrite() }()
	if got, err := io.ReadAll(w.server); err != nil || !bytes.Equal(got, up) {
		t.Fatalf("upload: %d of %d octets, %v", len(got), len(up), err)
	}
	until(t, "idle, half closed", func() bool { return w.wireA.waiting.Load() == 1 })
	go func() { w.server.Write(down); w.server.CloseWrite() }()
	if got, err := io.ReadAll(w.client); err != nil || !bytes.Equal(got, down) {
		t.Fatalf("download: %d of %d octets, %v", len(got), len(down), err)
	}
	w.both(t, func(err error) bool { return err == nil })
}

// An end after a pause, with nothing behind it, is seen by waiting alone.
func TestEncryptedEndAfterPause(t *testing.T) {
	w := encrypted(t)
	w.client.Write([]byte("ping"))
	io.ReadFull(w.server, make([]byte, 4))
	until(t, "idle", func() bool { return w.wireA.waiting.Load() == 1 && w.wireB.waiting.Load() == 1 })
	w.client.CloseWrite()
	if n, err := w.server.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("%d, %v", n, err)
	}
	w.server.Close()
	if n, err := w.client.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("%d, %v", n, err)
	}
	w.both(t, func(err error) bool { return err == nil })
}

func TestEncryptedAbort(t *testing.T) {
	w := encrypted(t)
	w.client.Write([]byte("ping"))
	io.ReadFull(w.server, make([]byte, 4))
	w.client.SetLinger(0)
	w.client.Close()
	if _, err := w.server.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the server saw %v, want a reset", err)
	}
	w.both(t, func(err error) bool { return errors.Is(err, syscall.ECONNRESET) })
}

// A FIN that the peer did not authenticate is no end of its stream.
func TestEncryptedTruncation(t *testing.T) {
	w := encrypted(t)
	w.client.Write([]byte("ping"))
	io.ReadFull(w.server, make([]byte, 4))
	w.wireA.CloseWrite() // forged below the encryption
	if _, err := w.server.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the server saw %v, want a reset", err)
	}
	w.both(t, func(err error) bool { return err != nil })
}
