package demo

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func good() (Transfer, Transfer) {
	fresh := Transfer{Name: "fresh", SHA256OK: true, Encrypted: true, TEP: "curve25519", Cipher: "aes-128-gcm", SessionID: "23aa",
		RoundTrips: 3.02, serverID: "23aa", host: upgradedName}
	legacy := Transfer{Name: "legacy", SHA256OK: true, RoundTrips: 2.01, PlaintextOnWire: true, host: legacyName, reason: "peer-no-eno"}
	return fresh, legacy
}

// Each thing that does not hold is found, and named.
func TestChecks(t *testing.T) {
	fresh, legacy := good()
	if f := append(fresh.check(want["fresh"]), legacy.check(want["legacy"])...); len(f) > 0 {
		t.Fatalf("a good report fails: %q", f)
	}
	for text, spoil := range map[string]func(fresh, legacy *Transfer){
		"did not get the file":       func(f, _ *Transfer) { f.SHA256OK = false },
		"fresh: resumed is true":     func(f, _ *Transfer) { f.resumed = true },
		"fresh: encrypted is false":  func(f, _ *Transfer) { f.Encrypted = false },
		"legacy: encrypted is true":  func(_, l *Transfer) { l.Encrypted = true },
		"on the path: true":          func(f, _ *Transfer) { f.PlaintextOnWire = true },
		"on the path: false":         func(_, l *Transfer) { l.PlaintextOnWire = false }, // a search that finds nothing proves nothing
		"disagree about the session": func(f, _ *Transfer) { f.serverID = "23ab" },
		`session ID is ""`:           func(f, _ *Transfer) { f.SessionID, f.serverID = "", "" },
		`legacy: cipher is "x"`:      func(_, l *Transfer) { l.Cipher = "x" },
		"after 4.10 round trips":     func(f, _ *Transfer) { f.RoundTrips = 4.1 },
		"legacy: the reply began":    func(_, l *Transfer) { l.RoundTrips = 1 },
	} {
		fresh, legacy := good()
		spoil(&fresh, &legacy)
		failures := strings.Join(append(fresh.check(want["fresh"]), legacy.check(want["legacy"])...), "\n")
		if !strings.Contains(failures, text) {
			t.Errorf("no %q in %q", text, failures)
		}
	}
}

func TestRoundTripsRounding(t *testing.T) {
	if got := roundTrips(241*time.Millisecond, 80*time.Millisecond); got != 3.01 {
		t.Errorf("got %v", got)
	}
}

func TestTable(t *testing.T) {
	fresh, legacy := good()
	var out bytes.Buffer
	printTable(&out, Report{Transfers: []Transfer{fresh, legacy}, failures: []string{"fresh: something"}})
	for _, want := range []string{
		"upgraded.demo  yes        curve25519  aes-128-gcm  3.02 RTT  yes          no\n",
		"legacy.demo    no         -           -            2.01 RTT  yes          yes\n",
		"    23aa\n", "What did not hold:\n  fresh: something\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestMakeFile(t *testing.T) {
	for _, size := range []int{0, 1, 100, 4096} {
		if got := len(makeFile("x", size)); got != size {
			t.Errorf("%d octets, want %d", got, size)
		}
	}
}
