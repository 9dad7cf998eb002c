package crypttest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestPipeCarriesAndCuts(t *testing.T) {
	a, b := Pipe(Options{Capacity: 7, Segment: func(n int) int { return (n + 1) / 2 }})
	sent := bytes.Repeat([]byte("abcdefghijk"), 100)
	go func() {
		a.Write(sent)
		a.CloseWrite()
	}()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("got %d octets, %v; want %d", len(got), err, len(sent))
	}
	if _, err := a.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("Write after CloseWrite: %v", err)
	}
	if _, err := b.Write([]byte("back")); err != nil {
		t.Errorf("the other direction: %v", err)
	}
}

func TestPipeAbort(t *testing.T) {
	a, b := Pipe(Options{})
	a.Write([]byte("lost"))
	a.Abort()
	if _, err := b.Read(make([]byte, 9)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("peer's Read: %v", err)
	}
	if _, err := b.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("peer's Write: %v", err)
	}
	if _, err := a.Read(make([]byte, 9)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("own Read: %v", err)
	}
}

// By a clock that stands still meanwhile: what has room by the deadline is written.
func TestPipeDeadlines(t *testing.T) { synctest.Test(t, testPipeDeadlines) }

func testPipeDeadlines(t *testing.T) {
	a, _ := Pipe(Options{Capacity: 4})
	a.SetDeadline(time.Now().Add(10 * time.Millisecond))
	if err := a.WaitRead(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("WaitRead: %v", err)
	}
	a.SetDeadline(time.Now().Add(10 * time.Millisecond))
	if n, err := a.Write([]byte("12345")); n != 4 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write: %d, %v", n, err)
	}
	a.SetDeadline(time.Time{})
	if _, err := a.Read(nil); err != nil {
		t.Errorf("Read of nothing: %v", err)
	}
}

func TestPipeTap(t *testing.T) {
	a, b := Pipe(Options{})
	a.Tap = func(offset uint64, p []byte) { p[0] ^= byte(1 + offset) }
	in := []byte{0, 0}
	a.Write(in)
	a.Write(in)
	got := make([]byte, 4)
	io.ReadFull(b, got)
	if want := []byte{1, 0, 3, 0}; !bytes.Equal(got, want) || in[0] != 0 {
		t.Errorf("got %v, want %v; sender's slice %v", got, want, in)
	}
}

func TestPipeWaitFull(t *testing.T) {
	a, b := Pipe(Options{Capacity: 4})
	go a.Write([]byte("123456"))
	if err := a.WaitFull(); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(b, make([]byte, 6)); err != nil {
		t.Error(err)
	}
	ended := make(chan error)
	go func() { ended <- a.WaitFull() }()
	a.Abort()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Abort: %v", err)
	}
}
