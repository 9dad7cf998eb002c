package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"innertun/integration/netlab"
)

// daemon is a running innertun.
type daemon struct {
	*netlab.Process
	host    *netlab.Host
	control string
	keylog  string
	seen    map[uint64]record // what it has said of its connections so far: it forgets those that ended a minute ago
}

const clientConfig = `
[egress]
interface = "eth0"
[tun]
name = "inner0"
[socks]
listen = "127.0.0.1:1080"
`

// shortDir makes a directory whose name is short enough for a Unix socket in it.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "it")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// startRun starts `innertun run` with a configuration and waits until it is ready.
func startRun(t testing.TB, h *netlab.Host, config string) *daemon {
	t.Helper()
	return startRunIn(t, h, shortDir(t), config)
}

// startRunIn is startRun with a directory for its control socket that an earlier run may have used.
func startRunIn(t testing.TB, h *netlab.Host, dir, config string) *daemon {
	t.Helper()
	file := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return start(t, h, dir, "run", "-c", file)
}

// startServe starts `innertun serve` for one port and waits until it is ready.
func startServe(t testing.TB, h *netlab.Host, listen, forward string, flags ...string) *daemon {
	t.Helper()
	return start(t, h, shortDir(t), append([]string{"serve", "-i", "eth0", "-listen", listen, "-forward", forward}, flags...)...)
}

func start(t testing.TB, h *netlab.Host, dir string, args ...string) *daemon {
	t.Helper()
	d := &daemon{host: h, control: filepath.Join(dir, "control.sock"), keylog: filepath.Join(dir, "keys"),
		seen: make(map[uint64]record)}
	args = append(append([]string{innertunBinary(t)}, args...), "--control", d.control, "--keylog", d.keylog, "--log-level", "debug")
	logName := fmt.Sprintf("innertun-%s-%d", h.Role, time.Now().UnixNano())
	d.Process = h.Start(t, dir, logName, args...)
	t.Cleanup(func() {
		if t.Failed() {
			d.tell(t)
		}
		if !d.Exited() {
			if code, err := d.Stop(); err != nil || code != 0 {
				t.Errorf("%s: innertun on SIGINT: status %d, %v\n%s", h.Role, code, err, tail(d.Log()))
			}
		}
		for _, mark := range []string{"WARNING: DATA RACE", "panic:", "fatal error:"} {
			if _, after, found := strings.Cut(d.Log(), mark); found {
				netlab.Keep(t, d.LogFile)
				t.Errorf("%s: %s%.6000s", h.Role, mark, after)
				break
			}
		}
	})
	netlab.WaitFor(t, netlab.Patience, h.Role+"'s innertun to be ready", func() error {
		if d.Exited() {
			t.Fatalf("%s: innertun %s ended:\n%s", h.Role, strings.Join(args, " "), tail(d.Log()))
		}
		_, err := d.status()
		return err
	})
	return d
}

// tell logs what is known of a daemon whose test has failed: the end of what it says of its connections, and of its log.
func (d *daemon) tell(t testing.TB) {
	t.Helper()
	netlab.Keep(t, d.LogFile)
	var said string
	if out, err := d.command("conns", "--json"); err == nil {
		said = string(out)
	} else {
		for _, id := range slices.Sorted(maps.Keys(d.seen)) {
			line, _ := json.Marshal(d.seen[id]) // cannot fail
			said += string(line) + "\n"
		}
		said += fmt.Sprintln("no more:", err)
	}
	t.Logf("%s: conns --json:\n%s\n%s: log:\n%s", d.host.Role, tail(said), d.host.Role, tail(d.Log()))
}

func tail(log string) string {
	const most = 3000
	if len(log) > most {
		return "..." + log[len(log)-most:]
	}
	return log
}

// command runs another innertun command against the daemon's control socket. It needs no namespace: the socket is
// in the file system.
func (d *daemon) command(args ...string) ([]byte, error) {
	bin, err := build()
	if err != nil {
		return nil, err
	}
	var stderr bytes.Buffer
	cmd := exec.Command(bin, append(args, "--control", d.control)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("innertun %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// status is what `status --json` prints.
type status struct {
	Version   string  `json:"version"`
	PID       int     `json:"pid"`
	UptimeMS  float64 `json:"uptime_ms"`
	Interface string  `json:"interface"`
	Link      string  `json:"interface_state"`
	Egress    string  `json:"egress"`
	Active    int     `json:"active"`
	Totals    struct {
		Encrypted int            `json:"encrypted"`
		Plain     map[string]int `json:"plain"`  // by fallback_reason
		Failed    map[string]int `json:"failed"` // by kind of error
	} `json:"totals"`
	Downgrades int `json:"downgrades"`
}

func (d *daemon) status() (s status, err error) {
	out, err := d.command("status", "--json")
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(out, &s); err != nil {
		return s, fmt.Errorf("status --json: %w: %s", err, out)
	}
	return s, nil
}

// record is one line of `conns --json`.
type record struct {
	ID             uint64  `json:"id"`
	Role           string  `json:"role"`
	Local          string  `json:"local"`
	Remote         string  `json:"remote"`
	State          string  `json:"state"`
	Encrypted      bool    `json:"encrypted"`
	TEP            string  `json:"tep"`
	Cipher         string  `json:"cipher"`
	SessionID      string  `json:"session_id"`
	Resumed        bool    `json:"resumed"`
	InnerSpace     bool    `json:"inner_space"`
	EarlyData      bool    `json:"early_data"`
	AppAware       bool    `json:"app_aware"`
	Peer           string  `json:"peer"`
	FallbackReason string  `json:"fallback_reason"`
	Downgraded     bool    `json:"downgraded"`
	Error          string  `json:"error"`
	RTTMS          float64 `json:"rtt_ms"`
	BytesIn        int64   `json:"bytes_in"`
	BytesOut       int64   `json:"bytes_out"`
	Rekeys         int     `json:"rekeys"`
	ResetsRefused  int     `json:"resets_refused"`
	OptionsSent    int     `json:"options_sent"`
	OptionsRecv    int     `json:"options_received"`
	OptionsUnknown int     `json:"options_unknown"`
	OptionsMissed  int     `json:"options_missed"`
	PeerMTU        int     `json:"peer_mtu"`
	HandshakeMS    float64 `json:"handshake_ms"`
	AgeMS          float64 `json:"age_ms"`
}

// conns returns what the daemon says about its connections, or last said of those it has forgotten, in their order. It
// checks that every key is there.
func (d *daemon) conns(t testing.TB) []record {
	t.Helper()
	out, err := d.command("conns", "--json")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(out) {
		var r record
		dec := json.NewDecoder(bytes.NewReader(line))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&r); err != nil {
			t.Fatalf("conns --json: %v: %s", err, line)
		}
		var keys map[string]any
		if err := json.Unmarshal(line, &keys); err != nil || len(keys) != 29 {
			t.Fatalf("conns --json: %d keys, want 29: %s", len(keys), line)
		}
		d.seen[r.ID] = r
		d.host.NoteConnection(r.Local, r.Remote)
	}
	var all []record
	for _, id := range slices.Sorted(maps.Keys(d.seen)) {
		all = append(all, d.seen[id])
	}
	return all
}

// ended returns the newest record that the filter accepts once its connection has ended: the application may know that
// before it is noted.
func (d *daemon) ended(t testing.TB, accept func(record) bool) (r record) {
	t.Helper()
	netlab.WaitFor(t, netlab.Patience, "the end of a connection", func() error {
		if r = d.newest(t, accept); r.State != "closed" && r.State != "failed" {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	return r
}

// newest returns the daemon's newest record that the filter accepts.
func (d *daemon) newest(t testing.TB, accept func(record) bool) record {
	t.Helper()
	var best record
	found := false
	for _, r := range d.conns(t) {
		if accept(r) && (!found || r.ID > best.ID) {
			best, found = r, true
		}
	}
	if !found {
		t.Fatalf("%s: no such connection among %+v", d.host.Role, d.conns(t))
	}
	return best
}

// to accepts records by their remote address and port.
func to(remote string) func(record) bool { return func(r record) bool { return r.Remote == remote } }

// waitIdle waits until the daemon has no open connection left, and asks for what it says of those that have ended.
func (d *daemon) waitIdle(t testing.TB) {
	t.Helper()
	netlab.WaitFor(t, netlab.Patience, d.host.Role+" to have no connection left", func() error {
		s, err := d.status()
		if err != nil {
			return err
		}
		if s.Active != 0 {
			return fmt.Errorf("%d active; %+v", s.Active, openOnes(d.conns(t)))
		}
		return nil
	})
	d.conns(t)
}

func openOnes(all []record) (open []record) {
	for _, r := range all {
		if r.State != "closed" && r.State != "failed" {
			open = append(open, r)
		}
	}
	return open
}

// mustAlive fails the test if the daemon has ended or does not answer.
func (d *daemon) mustAlive(t testing.TB) {
	t.Helper()
	if d.Exited() {
		t.Fatalf("%s: innertun has ended:\n%s", d.host.Role, tail(d.Log()))
	}
	if _, err := d.status(); err != nil {
		t.Fatal(err)
	}
}

// down runs `innertun down` for a control socket.
func down(t testing.TB, h *netlab.Host, control string) {
	t.Helper()
	h.MustRun(t, innertunBinary(t), "down", "--control", control)
}

var errUnexpected = errors.New("unexpected")
