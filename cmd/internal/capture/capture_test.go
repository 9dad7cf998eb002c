package capture

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"innertun/internal/leak"

	"innertun/stack/link"
	"innertun/tcpinc"
	"innertun/tcpinc/tcpcrypt"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// source is an interface whose packets the test makes.
type source struct {
	mu  sync.Mutex
	see func(link.Tapped)
}

func (s *source) setTap(see func(link.Tapped)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.see = see
}

func (s *source) packet(t link.Tapped) bool {
	s.mu.Lock()
	see := s.see
	s.mu.Unlock()
	if see != nil {
		see(t)
	}
	return see != nil
}

func newHub() (*Hub, *source) {
	s := new(source)
	h := NewHub()
	h.SetInterface(Interface{Name: "test0", Version: "1", SetTap: s.setTap})
	return h, s
}

func frame(n int) link.Tapped {
	b := make([]byte, n)
	return link.Tapped{At: time.Unix(1_700_000_000, 5), Parts: [][]byte{b[:n/2], b[n/2:]}}
}

func entry() tcpinc.KeyLogEntry {
	return tcpinc.KeyLogEntry{
		KeyLogEntry: tcpcrypt.KeyLogEntry{SessionID: bytes.Repeat([]byte{1}, 33), KAB: bytes.Repeat([]byte{2}, 28),
			KBA: bytes.Repeat([]byte{3}, 28), Cipher: tcpcrypt.AES128GCM},
		HostA: &net.TCPAddr{IP: net.IPv4(198, 18, 0, 1), Port: 61000}, HostB: &net.TCPAddr{IP: net.IPv4(198, 18, 0, 2), Port: 80},
	}
}

// running is a capture under way into a stream.
type running struct {
	stream bytes.Buffer
	cancel context.CancelFunc
	done   chan error
}

func run(t *testing.T, h *Hub, keys bool, w func(io.Writer) io.Writer) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{cancel: cancel, done: make(chan error, 1)}
	started := make(chan struct{})
	go func() {
		r.done <- h.Run(ctx, w(&r.stream), keys, func() { close(started) }, func() error { return nil })
	}()
	select {
	case <-started:
	case err := <-r.done:
		t.Fatal(err)
	}
	return r
}

func plainly(w io.Writer) io.Writer { return w }

func (r *running) end(t *testing.T) []byte {
	t.Helper()
	r.cancel()
	if err := <-r.done; err != nil {
		t.Fatal(err)
	}
	return r.stream.Bytes()
}

func TestCapture(t *testing.T) {
	h, s := newHub()
	if s.packet(frame(60)) {
		t.Error("the interface is listened to without a capture")
	}
	withKeys, without := run(t, h, true, plainly), run(t, h, false, plainly)
	sizes := []int{60, 61, 62, 63, 1514, 65549}
	for i, n := range sizes {
		f := frame(n)
		f.Outgoing = i%2 == 1
		if n > 1514 {
			f.SegmentSize, f.PartialChecksum = 1448, true
		}
		s.packet(f)
	}
	e := entry()
	h.Log(e)
	if e.KAB[0] != 2 {
		t.Error("the caller's keys were erased: the key log comes after")
	}
	a, b := withKeys.end(t), without.end(t)
	if s.packet(frame(60)) {
		t.Error("the interface is listened to after the last capture")
	}

	var file, keys bytes.Buffer
	res, err := Save(bytes.NewReader(a), &file, &keys, 0, nil)
	if want := (Result{Packets: uint64(len(sizes)), Keys: 1, Complete: true}); res != want || err != nil {
		t.Errorf("%+v, %v; want %+v", res, err, want)
	}
	if want := "TCPCRYPT " + strings.Repeat("01", 33) + " 0 " + strings.Repeat("02", 28) + " " + strings.Repeat("03", 28) +
		" 0001 198.18.0.1:61000 198.18.0.2:80\n"; keys.String() != want {
		t.Errorf("keys: %q", keys.String())
	}
	if bytes.Contains(file.Bytes(), []byte("TCPCRYPT")) || bytes.Contains(b, []byte("TCPCRYPT")) {
		t.Error("keys in a capture that is to have none")
	}
	name := filepath.Join(t.TempDir(), "c.pcapng")
	if err := os.WriteFile(name, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("capinfos", "-M", name).CombinedOutput()
	for _, want := range []string{"Number of packets:   6", "Data size:           67309 bytes", "Capture application: innertun 1", "Name = test0"} {
		if !strings.Contains(string(out), want) || err != nil {
			t.Errorf("capinfos has no %q (%v):\n%s", want, err, out)
		}
	}
	out, err = exec.Command("tshark", "-r", name, "-T", "fields", "-e", "frame.len", "-e", "frame.packet_flags_direction",
		"-e", "frame.time_epoch", "-e", "frame.comment").Output()
	if want := "65549\t0x00000002\t1700000000.000000005\tTCP super-packet, segments of 1448 octets; checksum left to the interface"; !strings.Contains(string(out), want) ||
		!strings.Contains(string(out), "60\t0x00000001\t1700000000.000000005\t\n") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestSaveCut has the stream end anywhere: the file holds whole blocks, whatever happens.
func TestSaveCut(t *testing.T) {
	h, s := newHub()
	r := run(t, h, true, plainly)
	for range 3 {
		s.packet(frame(100))
		h.Log(entry())
	}
	whole := r.end(t)
	var all bytes.Buffer
	if _, err := Save(bytes.NewReader(whole), &all, io.Discard, 0, nil); err != nil {
		t.Fatal(err)
	}
	last := -1
	for n := range whole {
		var file, keys bytes.Buffer
		res, err := Save(bytes.NewReader(whole[:n]), &file, &keys, 0, nil)
		if err != nil || res.Complete || !bytes.HasPrefix(all.Bytes(), file.Bytes()) || file.Len() < last {
			t.Fatalf("cut at %d: %+v, %v, %d octets", n, res, err, file.Len())
		}
		if k := keys.String(); k != "" && !strings.HasSuffix(k, "\n") {
			t.Fatalf("cut at %d: keys %q", n, k)
		}
		last = file.Len()
	}
}

// TestSaveRefuses has streams that are no capture.
func TestSaveRefuses(t *testing.T) {
	h, _ := newHub()
	whole := run(t, h, false, plainly).end(t)
	for name, bad := range map[string][]byte{
		"not a block":       []byte("HTTP/1.1 404 Not Found\r\n\r\n"),
		"too long a block":  append(whole[:4:4], 0, 0, 0, 0xff),
		"too short a block": append(whole[:4:4], 8, 0, 0, 0, 0, 0, 0, 0),
		"keys unasked for":  append(bytes.Clone(whole), appendKeysBlock(nil, []byte("TCPCRYPT\n"))...),
	} {
		if _, err := Save(bytes.NewReader(bad), io.Discard, nil, 0, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := Save(bytes.NewReader(appendKeysBlock(nil, []byte("no line end"))), io.Discard, io.Discard, 0, nil); err == nil {
		t.Error("half a line of keys: no error")
	}
}

func TestSaveLimit(t *testing.T) {
	h, s := newHub()
	r := run(t, h, false, plainly)
	for range 10 {
		s.packet(frame(100))
	}
	calls := 0
	res, err := Save(bytes.NewReader(r.end(t)), io.Discard, nil, 3, func() { calls++ })
	if res.Packets != 3 || !res.Complete || calls != 1 || err != nil {
		t.Errorf("%+v, %v, full called %d times", res, err, calls)
	}
}

// gate lets nothing through until it is opened.
type gate struct {
	io.Writer
	open chan struct{}
}

func (g gate) Write(b []byte) (int, error) {
	<-g.open
	return g.Writer.Write(b)
}

// TestDrops has a reader that stands still: what passes meanwhile is bounded, and what is lost is counted.
func TestDrops(t *testing.T) {
	h, s := newHub()
	open := make(chan struct{})
	r := run(t, h, true, func(w io.Writer) io.Writer { return gate{w, open} })
	const n, size = 1000, 65000
	for range n {
		s.packet(frame(size))
	}
	for range maxQueuedItems {
		s.packet(frame(60))
	}
	for range 3 {
		h.Log(entry())
	}
	close(open)
	var keys bytes.Buffer
	res, err := Save(bytes.NewReader(r.end(t)), io.Discard, &keys, 0, nil)
	if err != nil || !res.Complete || res.Packets+res.Dropped != n+maxQueuedItems || res.Dropped < n-maxQueued/size || res.Packets < maxQueued/size {
		t.Errorf("%+v, %v", res, err)
	}
	if res.Keys != 0 || !strings.Contains(keys.String(), "# 3 lines of keys were lost") {
		t.Errorf("%d lines of keys, %q", res.Keys, keys.String())
	}
}

func TestClose(t *testing.T) {
	h, s := newHub()
	var all []*running
	for range maxSessions {
		all = append(all, run(t, h, false, plainly))
	}
	if err := h.Run(t.Context(), io.Discard, false, nil, nil); !errors.Is(err, ErrTooMany) {
		t.Errorf("one capture too many: %v", err)
	}
	s.packet(frame(100))
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	for _, r := range all {
		if err := <-r.done; err != nil {
			t.Error(err)
		}
		r.cancel()
		if res, err := Save(&r.stream, io.Discard, nil, 0, nil); res.Packets != 1 || !res.Complete || err != nil {
			t.Errorf("%+v, %v", res, err)
		}
	}
	if err := h.Run(t.Context(), io.Discard, false, nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("a capture after the end: %v", err)
	}
	if s.packet(frame(100)) {
		t.Error("the interface is listened to after Close")
	}
}
