package cli

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"innertun/cmd/internal/capture"
	"innertun/cmd/internal/control"
	"innertun/stack/link"
)

// TestCaptureDuration has a daemon that takes longer to answer than the capture is to last: the time counts from when packets
// are seen.
func TestCaptureDuration(t *testing.T) {
	const duration = 20 * time.Millisecond
	hub := capture.NewHub()
	hub.SetInterface(capture.Interface{Name: "test0", SetTap: func(func(link.Tapped)) {}})
	dir := t.TempDir()
	socket := filepath.Join(dir, "c.sock")
	server, err := control.Listen(socket, control.Source{Capture: hub.Run, Status: func() control.Status {
		time.Sleep(3 * duration)
		return control.Status{}
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	for _, file := range []string{"-", filepath.Join(dir, "x.pcapng")} {
		var stdout, stderr bytes.Buffer
		p := &Program{Stdout: &stdout, Stderr: &stderr}
		begin := time.Now()
		code := p.Main(t.Context(), []string{"capture", "-w", file, "--duration", duration.String(), "--control", socket})
		if took := time.Since(begin); code != 0 || !strings.HasSuffix(stderr.String(), "0 packets; 0 dropped\n") || took < duration {
			t.Errorf("to %s: status %d after %v: %s", file, code, took, &stderr)
		}
	}
}
