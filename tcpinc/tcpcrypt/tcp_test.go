package tcpcrypt

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
)

// tcpTransport is a kernel connection as a Transport.
type tcpTransport struct{ *net.TCPConn }

func (c tcpTransport) Abort() error {
	c.SetLinger(0)
	return c.Close()
}

func connectTCP(t testing.TB) (a, b *Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	a, b = newConns(t, tcpTransport{dialled.(*net.TCPConn)}, tcpTransport{accepted.(*net.TCPConn)},
		testConfig(1, Curve25519), testConfig(2, Curve25519))
	if errA, errB := handshakeBoth(t, a, b); errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	return a, b
}

func TestOverKernelTCP(t *testing.T) {
	a, b := connectTCP(t)
	want := randomBytes(5_000_000, 7)
	var wg sync.WaitGroup
	for _, c := range []*Conn{a, b} {
		wg.Go(func() {
			if _, err := io.Copy(c, struct{ io.Reader }{bytes.NewReader(want)}); err != nil {
				t.Errorf("sending: %v", err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Errorf("CloseWrite: %v", err)
			}
		})
		wg.Go(func() {
			var got bytes.Buffer
			if _, err := io.Copy(struct{ io.Writer }{&got}, c); err != nil || !bytes.Equal(got.Bytes(), want) {
				t.Errorf("received %d octets, %v", got.Len(), err)
			}
		})
	}
	wg.Wait()
	if errA, errB := a.Close(), b.Close(); errA != nil || errB != nil {
		t.Errorf("Close: %v, %v", errA, errB)
	}
}

func TestAbortOverKernelTCP(t *testing.T) {
	a, b := connectTCP(t)
	a.Abort()
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("peer: %v", err)
	}
}

// A host whose process dies sends FIN, but not FINp.
func TestKilledOverKernelTCP(t *testing.T) {
	a, b := connectTCP(t)
	a.Write([]byte("half a sen"))
	a.lower.Close()
	got, err := io.ReadAll(b)
	if string(got) != "half a sen" || !errors.Is(err, ErrTruncated) {
		t.Errorf("%q, %v", got, err)
	}
}

// BenchmarkKernelTCP is one stream over loopback, encrypted and not.
func BenchmarkKernelTCP(b *testing.B) {
	b.Run("plain", func(b *testing.B) {
		x, y := connectTCP(b)
		benchStream(b, 256<<10, x.lower.Write, x.lower.CloseWrite, struct{ io.Reader }{y.lower})
	})
	b.Run("aes-128-gcm", func(b *testing.B) {
		x, y := connectTCP(b)
		benchStream(b, 256<<10, x.Write, x.CloseWrite, y)
	})
}
