package control

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var paths = []Path{
	{Kind: "network", Network: "eth0 198.18.1.0/24 via 198.18.1.1 at 02:00:00:00:00:01", Fault: "syn-eno-dropped", Failures: 3, FailedAgo: 1000, RetryIn: 2399_000},
	{Kind: "destination", Network: "eth0 198.18.1.0/24 via 198.18.1.1 at 02:00:00:00:00:01", Destination: "198.18.0.1:80", Fault: "eno-stripped", Failures: 1},
	{Kind: "destination", Destination: "[fd00::1]:80", Encrypted: true, EncryptedAgo: 90_000},
	{Kind: "destination", Destination: "198.18.0.2:80", Encrypted: true, EncryptedAgo: 5, Ratcheted: true},
	{Kind: "destination", Destination: "198.18.0.2:80", Inner: "upgraded", InnerAgo: 3000, InnerFor: 86_397_000},
	{Kind: "destination", Destination: "198.18.0.3:80", Network: "eth0", Inner: "legacy", InnerAgo: 3000, InnerFor: 597_000},
	{Kind: "destination", Destination: "198.18.0.4:80", Network: "eth0", Inner: "eats-syn-data", InnerAgo: 1000, InnerFor: 599_000},
}

func TestPathsRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	var asked []netip.AddrPort
	forget := func(to netip.AddrPort) int {
		asked = append(asked, to)
		return len(asked)
	}
	sessions := []Session{{Peer: "198.18.0.1:80", TEP: "p256", Cipher: "aes-128-gcm", Role: "A", Next: 7, Misses: 1, Age: 2, ExpiresIn: 3}, {Peer: "fd00::1"}}
	s, err := Listen(path, Source{
		Paths: func() []Path { return paths }, FlushPaths: forget,
		Sessions: func() []Session { return sessions }, FlushSessions: forget,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := NewClient(path)
	got, err := c.Paths(t.Context())
	if d := cmp.Diff(paths, got); d != "" || err != nil {
		t.Error(d, err)
	}
	list, err := c.Sessions(t.Context())
	if d := cmp.Diff(sessions, list); d != "" || err != nil {
		t.Error(d, err)
	}
	want := []netip.AddrPort{{}, netip.MustParseAddrPort("198.18.0.1:80"), netip.AddrPortFrom(netip.MustParseAddr("fd00::1"), 0)}
	for i, to := range want {
		f, err := c.FlushPaths(t.Context(), to)
		if err != nil || f.Forgotten != i+1 {
			t.Errorf("%v: %+v, %v", to, f, err)
		}
	}
	for _, to := range want {
		f, err := c.FlushSessions(t.Context(), to)
		if err != nil || f.Forgotten != len(asked) {
			t.Errorf("sessions of %v: %+v, %v", to, f, err)
		}
	}
	want = append(want, want...)
	if d := cmp.Diff(want, asked, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Error(d)
	}
	for sent, answer := range map[string]string{
		"POST /paths/flush?destination=nonsense HTTP/1.0": "HTTP/1.0 400",
		"POST /paths/flush?destination= HTTP/1.0":         "HTTP/1.0 400",
		"POST /paths/flush?dest=198.18.0.1 HTTP/1.0":      "HTTP/1.0 400", // and not all of it
		"POST /sessions/flush?destination=x HTTP/1.0":     "HTTP/1.0 400",
		"POST /sessions HTTP/1.0":                         "HTTP/1.0 405",
		"GET /paths/flush HTTP/1.0":                       "HTTP/1.0 405",
		"POST /paths HTTP/1.0":                            "HTTP/1.0 405",
	} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(time.Minute))
		io.WriteString(conn, sent+"\r\n\r\n")
		if got, _ := io.ReadAll(conn); !strings.HasPrefix(string(got), answer) {
			t.Errorf("%s: %.60q", sent, got)
		}
		conn.Close()
	}
	if len(asked) != len(want) {
		t.Errorf("flushed by a bad request: %v", asked)
	}
}

func TestPathKeys(t *testing.T) {
	if b, _ := json.Marshal(Session{}); string(b) != `{"peer":"","tep":"","cipher":"","role":"","i":0,"misses":0,"age_ms":0,"expires_in_ms":0}` {
		t.Errorf("%s", b)
	}
	b, _ := json.Marshal(Path{})
	const want = `{"kind":"","network":"","destination":"","fault":"","failures":0,"failed_ago_ms":0,"retry_in_ms":0,` +
		`"encrypted":false,"encrypted_ago_ms":0,"ratcheted":false,"inner":"","inner_ago_ms":0,"inner_for_ms":0}`
	if string(b) != want {
		t.Errorf("%s", b)
	}
}

func TestParseDestination(t *testing.T) {
	for text, want := range map[string]string{
		"198.18.0.1": "198.18.0.1:0", "198.18.0.1:80": "198.18.0.1:80", "fd00::1": "[fd00::1]:0", "[fd00::1]:80": "[fd00::1]:80",
	} {
		if got, err := ParseDestination(text); err != nil || got.String() != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "x", "198.18.0.1:0", "198.18.0.1:70000", "198.18.0.0/24", "host:80", "[fd00::1]"} {
		if got, err := ParseDestination(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestPrintPaths(t *testing.T) {
	var out bytes.Buffer
	PrintPaths(&out, paths)
	const want = `DESTINATION          WHAT                    FAILURES  RETRY IN         NETWORK
all on this network  plain: syn-eno-dropped  3         39m59s           eth0 198.18.1.0/24 via 198.18.1.1 at 02:00:00:00:00:01
198.18.0.1:80        plain: eno-stripped     1         next connection  eth0 198.18.1.0/24 via 198.18.1.1 at 02:00:00:00:00:01
[fd00::1]:80         encrypted 1m30s ago     -         -                -
198.18.0.2:80        must encrypt            -         -                -
198.18.0.2:80        upgraded 3s ago         -         -                -
198.18.0.3:80        legacy 3s ago           -         9m57s            eth0
198.18.0.4:80        eats-syn-data 1s ago    -         9m59s            eth0
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Error(d)
	}
	out.Reset()
	if PrintPaths(&out, nil); out.String() != "nothing is remembered\n" {
		t.Errorf("%q", out.String())
	}
}
