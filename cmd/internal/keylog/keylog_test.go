package keylog

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"innertun/tcpinc"
	"innertun/tcpinc/tcpcrypt"
)

func entry(generation uint32) tcpinc.KeyLogEntry {
	return tcpinc.KeyLogEntry{
		KeyLogEntry: tcpcrypt.KeyLogEntry{SessionID: []byte{0xab, 0xcd}, Generation: generation,
			KAB: []byte{1, 2, 3}, KBA: []byte{4, 5, 0xff}, Cipher: tcpcrypt.ChaCha20Poly1305},
		HostA: &net.TCPAddr{IP: net.ParseIP("198.18.0.1"), Port: 61000},
		HostB: &net.TCPAddr{IP: net.ParseIP("fd00::1"), Port: 80},
	}
}

const want = "TCPCRYPT abcd 0 010203 0405ff 0010 198.18.0.1:61000 [fd00::1]:80\n"

func TestAppendLine(t *testing.T) {
	if got := AppendLine([]byte("x"), entry(0)); string(got) != "x"+want {
		t.Errorf("%q", got)
	}
	if got := AppendLine(nil, tcpinc.KeyLogEntry{}); string(got) != "TCPCRYPT  0   0000 - -\n" {
		t.Errorf("%q", got)
	}
}

func TestFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "keys")
	var log bytes.Buffer
	for range 2 { // appended to, never cut
		k, err := Open(name, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		e := entry(0)
		k.Log(e)
		if !bytes.Equal(append(e.KAB, e.KBA...), make([]byte, 6)) {
			t.Error("keys are still in memory")
		}
		if err := k.Close(); err != nil {
			t.Error(err)
		}
		k.Log(entry(1)) // after Close: dropped
		k.Close()
	}
	got, _ := os.ReadFile(name)
	if string(got) != want+want {
		t.Errorf("%q", got)
	}
	if info, _ := os.Stat(name); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %o", info.Mode())
	}
	if !strings.Contains(log.String(), "level=WARN") || strings.Contains(log.String(), "0405ff") {
		t.Errorf("log: %s", log.String())
	}
}

func TestConcurrentLinesStayWhole(t *testing.T) {
	name := filepath.Join(t.TempDir(), "keys")
	k, err := Open(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				k.Log(entry(0))
			}
		})
	}
	wg.Wait()
	got, _ := os.ReadFile(name)
	if string(got) != strings.Repeat(want, 800) {
		t.Error("lines are torn")
	}
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	open := filepath.Join(dir, "open")
	if err := os.WriteFile(open, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, msg := range map[string]string{open: "chmod 600", dir: "is a directory", filepath.Join(dir, "no", "such"): "no such file", "/dev/null": "not a regular file"} {
		if _, err := Open(name, nil); err == nil || !strings.Contains(err.Error(), msg) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// disk is one with so much room.
type disk struct {
	bytes.Buffer
	room int
}

func (d *disk) Write(p []byte) (int, error) {
	n := min(len(p), d.room)
	d.room -= n
	d.Buffer.Write(p[:n])
	if n < len(p) {
		return n, syscall.ENOSPC
	}
	return n, nil
}

func (d *disk) Close() error { return nil }

// TestTornLine: once there is room again, no line is joined to the piece of one.
func TestTornLine(t *testing.T) {
	d := &disk{room: len(want) + 20}
	k := &File{f: d, log: slog.New(slog.DiscardHandler)}
	for range 3 {
		k.Log(entry(0))
	}
	d.room = 1000
	k.Log(entry(0))
	if got := d.String(); got != want+want[:20]+"\n"+want {
		t.Errorf("%q", got)
	}
}

func TestFullDiskIsLoggedOnce(t *testing.T) {
	var log bytes.Buffer
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	k := &File{f: f, log: slog.New(slog.NewTextHandler(&log, nil))}
	defer k.Close()
	k.Log(entry(0))
	k.Log(entry(1))
	if n := strings.Count(log.String(), "incomplete"); n != 1 {
		t.Errorf("%d lines: %s", n, log.String())
	}
}
