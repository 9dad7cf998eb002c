package demo

import (
	"fmt"
	"math"
	"time"
)

// Transfer is the outcome of one file sent to one server; the JSON names are part of the command's interface.
type Transfer struct {
	Name            string  `json:"name"` // fresh: tcpcrypt with new keys; resumed: from the same session; legacy: a server that knows none of it; inner-space: the keys are exchanged by the SYNs; early-data: resumed, with the first data in the SYN
	Bytes           int     `json:"bytes"`
	SHA256OK        bool    `json:"sha256_ok"` // the server got what the client sent
	Encrypted       bool    `json:"encrypted"`
	TEP             string  `json:"tep"`
	Cipher          string  `json:"cipher"`
	SessionID       string  `json:"session_id"`
	RoundTrips      float64 `json:"round_trips"`       // from the client's SYN to the first octet of the reply
	PlaintextOnWire bool    `json:"plaintext_on_wire"` // found by searching what passed the tap

	host     string
	resumed  bool
	serverID string // the session ID as the server's end knows it
	reason   string // why it was not encrypted
	sent     []byte // what the application sent first
	seen     []byte // the same stretch of the connection as the eavesdropper saw it
	opening  []step

	innerSpace, earlyData bool
}

// Report is the outcome of a run.
type Report struct {
	OK        bool       `json:"ok"`
	RTT       float64    `json:"rtt_ms"`
	Transfers []Transfer `json:"transfers"`

	failures []string
	busy     bool // all that failed is that it took longer than it should
}

// expected is what must hold of one transfer.
type expected struct {
	encrypted, resumed    bool
	innerSpace, earlyData bool
	roundTrips            float64
}

// The clock on the wall also counts the time the machine spends on other things, so a measured number of round trips may
// lie above the expected one, by less than one more. It cannot lie below: fastest allows for the clock's grain only.
const (
	fastest = -0.05
	slowest = 0.99
)

// check lists what does not hold.
func (t Transfer) check(want expected) []string {
	var failures []string
	must := func(held bool, format string, args ...any) {
		if !held {
			failures = append(failures, t.Name+": "+fmt.Sprintf(format, args...))
		}
	}
	must(t.SHA256OK, "the server did not get the file as it was sent")
	must(t.Encrypted == want.encrypted, "encrypted is %t, should be %t %s", t.Encrypted, want.encrypted, t.reason)
	must(t.resumed == want.resumed, "resumed is %t, should be %t", t.resumed, want.resumed)
	must(t.innerSpace == want.innerSpace, "Inner Space is %t, should be %t", t.innerSpace, want.innerSpace)
	must(t.earlyData == want.earlyData, "early data is %t, should be %t", t.earlyData, want.earlyData)
	must(t.PlaintextOnWire == !want.encrypted, "what the application sent was found on the path: %t, should be %t",
		t.PlaintextOnWire, !want.encrypted)
	must(t.SessionID == t.serverID, "the ends disagree about the session ID: %q here, %q there", t.SessionID, t.serverID)
	for name, value := range map[string]string{"session ID": t.SessionID, "TEP": t.TEP, "cipher": t.Cipher} {
		must((value != "") == want.encrypted, "%s is %q", name, value)
	}
	over := t.RoundTrips - want.roundTrips
	must(over >= fastest && over <= slowest, "the reply began after %.2f round trips, should be %.0f",
		t.RoundTrips, want.roundTrips)
	return failures
}

// late reports whether the reply has taken longer than it should.
func (t Transfer) late(want expected) bool { return t.RoundTrips-want.roundTrips > slowest }

// roundTrips is a time in round trips, to two decimals.
func roundTrips(d, rtt time.Duration) float64 {
	return math.Round(100*float64(d)/float64(rtt)) / 100
}
