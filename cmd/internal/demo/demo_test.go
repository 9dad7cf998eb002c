package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"innertun/integration/lab"
	"innertun/stack"
	"innertun/stack/stacktest"

	"innertun/internal/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

const testRTT = 80 * time.Millisecond

// labClock is a stack's manual clock as the path knows it.
type labClock struct{ *stacktest.Clock }

func (c labClock) AfterFunc(d time.Duration, f func()) lab.Timer { return c.Clock.AfterFunc(d, f) }

// On a clock that moves only while nothing has anything to do, all that takes time is the path.
func TestRoundTripsExactly(t *testing.T) {
	clock := stacktest.NewClock()
	w, err := newWorld(setup{rtt: testRTT, clock: labClock{clock}, tune: func(c *stack.Config) { c.Clock = clock }})
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()

	type result struct {
		report Report
		err    error
	}
	done := make(chan result, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		r, err := w.transfers(ctx, 100_000, func(Transfer) {})
		done <- result{r, err}
	}()
	const step, limit = time.Millisecond, time.Minute
	for passed := time.Duration(0); passed < limit; passed += step {
		if !stacktest.Quiet(30 * time.Second) {
			t.Fatal("the world does not come to rest")
		}
		select {
		case r := <-done:
			if r.err != nil {
				t.Fatal(r.err)
			}
			if !r.report.OK {
				t.Errorf("did not hold: %q", r.report.failures)
			}
			for i, want := range []float64{3, 2, 2, 2, 1} {
				if got := r.report.Transfers[i]; got.RoundTrips != want {
					t.Errorf("%s: the reply began after %v round trips, want %v", got.Name, got.RoundTrips, want)
				}
			}
			return
		default:
			clock.Advance(step)
		}
	}
	t.Fatalf("transfers not done after %v", limit)
}

// A round trip of 20 us is over before the hosts have done anything, as any other is on a machine that is busy enough.
func TestBusyMachine(t *testing.T) {
	var out bytes.Buffer
	if err := Run(t.Context(), Options{Once: true, JSON: true, RTT: 20 * time.Microsecond, Size: 100_000, Out: &out}); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	var got Report
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for i, want := range []float64{3, 2, 2, 2, 1} {
		if x := got.Transfers[i]; x.RoundTrips != want || !x.SHA256OK {
			t.Errorf("%s: %+v, want %v round trips", x.Name, x, want)
		}
	}
}

// Transfers that take longer than there is time for are given up, and nothing of them goes on.
func TestStuck(t *testing.T) {
	for _, rtt := range []time.Duration{3 * time.Second, 8 * time.Second, 25 * time.Second, 100 * time.Second} { // in the midst of different things
		var text bytes.Buffer
		if _, err := (Options{RTT: rtt, Size: 100_000}).withDefaults().still(t.Context(), &text); !errors.Is(err, errStuck) {
			t.Errorf("a round trip of %v: %v\n%s", rtt, err, text.String())
		}
	}
}

// The report's JSON is an interface: its keys and what they hold.
func TestOnceJSON(t *testing.T) {
	var out bytes.Buffer
	if err := Run(t.Context(), Options{Once: true, JSON: true, RTT: 200 * time.Millisecond, Out: &out}); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	d := json.NewDecoder(&out)
	var got map[string]any
	if err := d.Decode(&got); err != nil {
		t.Fatal(err)
	}
	if err := d.Decode(&struct{}{}); err != io.EOF {
		t.Errorf("more than one object: %v", err)
	}
	if got["ok"] != true || got["rtt_ms"] != 200.0 {
		t.Errorf("ok %v, rtt_ms %v", got["ok"], got["rtt_ms"])
	}
	transfers := got["transfers"].([]any)
	if len(transfers) != 5 {
		t.Fatalf("%d transfers", len(transfers))
	}
	for i, want := range []map[string]any{
		{"name": "fresh", "bytes": float64(DefaultSize), "sha256_ok": true, "encrypted": true, "tep": "curve25519",
			"cipher": "aes-128-gcm", "plaintext_on_wire": false},
		{"name": "legacy", "bytes": float64(DefaultSize), "sha256_ok": true, "encrypted": false, "tep": "",
			"cipher": "", "plaintext_on_wire": true, "session_id": ""},
		{"name": "resumed", "bytes": float64(DefaultSize), "sha256_ok": true, "encrypted": true, "tep": "curve25519",
			"cipher": "aes-128-gcm", "plaintext_on_wire": false},
		{"name": "inner-space", "bytes": float64(DefaultSize), "sha256_ok": true, "encrypted": true, "tep": "curve25519",
			"cipher": "aes-128-gcm", "plaintext_on_wire": false},
		{"name": "early-data", "bytes": float64(DefaultSize), "sha256_ok": true, "encrypted": true, "tep": "curve25519",
			"cipher": "aes-128-gcm", "plaintext_on_wire": false},
	} {
		x := transfers[i].(map[string]any)
		for key, value := range want {
			if x[key] != value {
				t.Errorf("%s: %s is %v, want %v", want["name"], key, x[key], value)
			}
		}
		if len(x) != 9 {
			t.Errorf("keys of a transfer: %v", x)
		}
		if n := []float64{3, 2, 2, 2, 1}[i]; x["round_trips"] != n { // on whatever machine
			t.Errorf("%s: round_trips %v, want %v", want["name"], x["round_trips"], n)
		}
	}
	for i, begin := range map[int]string{0: "23", 2: "a3", 3: "23", 4: "a3"} { // the TEP as host B sent it, then 32 octets
		if id := transfers[i].(map[string]any)["session_id"].(string); len(id) != 66 || !strings.HasPrefix(id, begin) {
			t.Errorf("session_id %q", id)
		}
	}
}

// syncBuffer may be read while it is written.
type syncBuffer struct {
	lines chan string
	buf   []byte
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.buf = append(b.buf, p...)
	for {
		line, rest, ok := bytes.Cut(b.buf, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		b.lines <- string(line)
		b.buf = bytes.Clone(rest)
	}
}

// stay runs the demo until the test ends and returns the address of its SOCKS5 port and what it has printed so far.
func stay(t *testing.T) (socks string, text []string, later <-chan string) {
	t.Helper()
	out := &syncBuffer{lines: make(chan string, 1000)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Options{Listen: "127.0.0.1:0", RTT: 200 * time.Millisecond, Size: 200_000, Out: out})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run returned %v at the end of its context", err)
		}
	})
	timeout := time.After(5 * time.Minute)
	for {
		select {
		case line := <-out.lines:
			text = append(text, line)
			if _, after, ok := strings.Cut(line, "curl --socks5-hostname "); ok && socks == "" {
				socks, _, _ = strings.Cut(after, " ")
			}
			if line == "Ctrl-C ends it." {
				return socks, text, out.lines
			}
		case err := <-ended:
			ended <- err
			t.Fatalf("Run returned %v", err)
		case <-timeout:
			t.Fatalf("no invitation in\n%s", strings.Join(text, "\n"))
		}
	}
}

func TestTextIsReadable(t *testing.T) {
	_, text, _ := stay(t)
	for _, line := range text {
		if len(line) > 100 {
			t.Errorf("%d columns: %s", len(line), line)
		}
		for _, r := range line {
			if r < ' ' || r > '~' {
				t.Errorf("%q in %q", r, line)
			}
		}
	}
	all := strings.Join(text, "\n")
	for _, want := range []string{"All checks held.", "Init1", "Init2", "SYN-ACK + ENO option 45", "|GET / HTTP|    47 45 54 20", "upgraded.demo, resumed      yes", "91 octets of early data", "verdict on early data"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
}

// An unmodified client reaches both servers by name through the SOCKS5 port.
func TestSOCKS(t *testing.T) {
	at, _, later := stay(t)
	for host, want := range map[string]string{upgradedName: "encrypted by tcpcrypt", legacyName: "plain TCP"} {
		page, err := curl(t, at, "http://"+host+"/")
		if err != nil || !strings.Contains(page, want) || !strings.Contains(page, "Hello from "+host) {
			t.Errorf("%s: %v\n%s", host, err, page)
		}
		if line := <-later; !strings.Contains(line, host+":80") {
			t.Errorf("connection noted as %q", line)
		}
		file, err := curl(t, at, "http://"+host+"/file")
		if err != nil || file != string(makeFile(host, 200_000)) {
			t.Errorf("%s: the file that was sent is not what comes back: %v, %d octets", host, err, len(file))
		}
		<-later
	}
	for dest, status := range map[string]int{
		"http://elsewhere.demo/": 4, "http://198.18.0.9/": 4, "http://upgraded.demo:81/": 5,
	} {
		if _, err := curl(t, at, dest); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("(%d)", status)) {
			t.Errorf("%s: %v, want reply code %d", dest, err, status)
		}
		<-later
	}
}

func curl(t *testing.T, socks, url string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "curl", "-sS", "--noproxy", "", "--max-time", "300", "--socks5-hostname", socks, url)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%w: %s", err, stderr.String())
	}
	return stdout.String(), nil
}

func TestPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var stdout, stderr bytes.Buffer
	if code := Command(t.Context(), []string{"-listen", l.Addr().String()}, &stdout, &stderr); code != 1 {
		t.Errorf("exit status %d", code)
	}
	if !strings.Contains(stderr.String(), "is taken by another program: choose another port with -listen") || stdout.Len() > 0 {
		t.Errorf("stderr %q, stdout %q", stderr.String(), stdout.String())
	}
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{"-h"}, 0, "usage: innertun demo"},
		{[]string{"--twice"}, 2, "flag provided but not defined"},
		{[]string{"more"}, 2, `unexpected argument "more"`},
	} {
		var stderr bytes.Buffer
		if code := Command(t.Context(), c.args, io.Discard, &stderr); code != c.code || !strings.Contains(stderr.String(), c.text) {
			t.Errorf("%v: exit status %d, %q", c.args, code, stderr.String())
		}
	}
}
