package probe

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"innertun/cmd/internal/probe/packet"
)

func TestUsage(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("# nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for says, args := range map[string]string{
		"no target":                     "",
		`"host" is no target`:           "host",
		`"host:http" is no target`:      "host:http",
		`":80" is no target`:            ":80",
		`"host:0" is no target`:         "host:0",
		`"fd00::1:80" is no target`:     "fd00::1:80",
		"not defined: -x":               "-x",
		"--rate 0: expected":            "--rate 0 host:80",
		"--rate NaN: expected":          "--rate NaN host:80",
		"--timeout 1ms: expected":       "host:80 --timeout 1ms",
		"--tries 1: expected 2 to 100":  "--tries 1 host:80",
		"--hops 256: expected 0 to 255": "--hops 256 host:80",
		"has no target":                 "-f " + empty,
	} {
		var stdout, stderr bytes.Buffer
		if code := Command(t.Context(), strings.Fields(args), &stdout, &stderr); code != exitUsage || stdout.Len() > 0 ||
			!strings.Contains(stderr.String(), says) || !strings.Contains(stderr.String(), "usage: innertun probe") {
			t.Errorf("%q: status %d, %q, %q", args, code, stdout.String(), stderr.String())
		}
	}
	var stdout, stderr bytes.Buffer
	if code := Command(t.Context(), []string{"-h"}, &stdout, &stderr); code != exitGood || !strings.Contains(stdout.String(), "--rate N") {
		t.Errorf("-h: status %d", code)
	}
	if code := Command(t.Context(), []string{"-f", filepath.Join(empty, "x")}, &stdout, &stderr); code != exitFail {
		t.Errorf("a file that cannot be read: status %d", code)
	}
}

func TestTargets(t *testing.T) {
	o, err := parse(strings.Fields("a:1 --json [::1]:2 -f - -4 --rate 3.5 b:3"))
	if err != nil {
		t.Fatal(err)
	}
	if err := o.readFile(strings.NewReader("c:4 # and\n#\n\n  d:5 e:6\n")); err != nil {
		t.Fatal(err)
	}
	if want := strings.Fields("a:1 [::1]:2 b:3 c:4 d:5 e:6"); !slices.Equal(o.targets, want) || !o.json || !o.four || o.rate != 3.5 {
		t.Errorf("%+v", o)
	}
	for target, want := range map[string]string{"198.18.0.1:80": "198.18.0.1:80", "[::ffff:198.18.0.1]:80": "198.18.0.1:80"} {
		if got, err := o.resolve(t.Context(), target); err != nil || len(got) != 1 || got[0].String() != want {
			t.Errorf("%s: %v, %v", target, got, err)
		}
	}
	if _, err := o.resolve(t.Context(), "[fd00::1]:80"); err == nil {
		t.Error("-4, and an IPv6 address")
	}
}

// Every key is there in every result, and no list is null.
func TestJSONKeys(t *testing.T) {
	keysOf := func(r *Result) []string {
		r.tidy()
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte("null")) {
			t.Errorf("%s", b)
		}
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		out := slices.Collect(maps.Keys(m))
		for k, v := range m {
			if inner, ok := v.(map[string]any); ok {
				for name := range inner {
					out = append(out, k+"."+name)
				}
			}
		}
		slices.Sort(out)
		return out
	}
	empty := keysOf(newResult("x", netip.AddrPort{}))
	full := keysOf(newWorld(t, setup{server: ours}).probe(t.Context()))
	if !slices.Equal(empty, full) || len(full) < 60 {
		t.Errorf("%v\n%v", empty, full)
	}
}

func TestTable(t *testing.T) {
	w := newWorld(t, setup{server: ours, path: []string{"strip-options:kinds=69,from=non-syn"}})
	got := w.probe(t.Context()).Table()
	const want = `server (198.18.9.2:80), 40 ms, hop 4
  plain SYN           open         2/2   the port is open
  SYN with ENO        answered     2/2   the server speaks ENO: picks curve25519, takes curve25519 curve448 p256 p521
  ENO behind the SYN  not-kept     2/2   taken away, or not understood: reset after the third segment
  tcpcrypt            failed       2/2   no encryption: tcpcrypt handshake as host A: reset by the other end
  unknown option      ignored      2/2   does no harm
  data in the SYN     ignored      2/2   not taken
  TCP Fast Open       none         2/2   no cookie
  Inner Space         upgraded     2/2   the server speaks it: the server's ENO option has the mark
  hop 1   198.18.1.1                    40 ms  quotes 60 octets
  hop 2   198.18.2.1                    40 ms  quotes 60 octets
  hop 3   198.18.3.1                    40 ms  quotes 60 octets
  hop 4   SYN-ACK
  CHANGED ack: option 69 removed, between hop 1 (198.18.1.1) and hop 2 (198.18.2.1)

`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, part := range []string{"plain SYN           closed       2/2   the port is closed\n  hop 1", "hop 4   RST"} {
		if got := newWorld(t, setup{closed: true}).probe(t.Context()).Table(); !strings.Contains(got, part) {
			t.Errorf("a closed port:\n%s", got)
		}
	}
}

func TestTally(t *testing.T) {
	var s tally
	if f := s.finding(control{}, wordDropped); f.Finding != "" {
		t.Errorf("never asked: %+v", f)
	}
	c := control{sent: 2}
	for s.sent = 0; !s.settled(c); c.sent++ {
		s.add("", "")
	}
	if f := s.finding(c, wordDropped); f.Finding != wordDropped || f.Confidence < sure || s.sent != 5 {
		t.Errorf("silence where nothing is lost: %+v", f)
	}
	c.lost = c.sent / 2
	if f := s.finding(c, wordDropped); f.Finding != wordUnsure {
		t.Errorf("silence where half is lost: %+v", f)
	}
	s.add("b", "why")
	if f := s.finding(c, wordDropped); f.Finding != "b" || f.Confidence != 1 || f.Answered != 1 || f.Detail != "why" {
		t.Errorf("an answer at last: %+v", f)
	}
	s.add("a", "")
	s.add("a", "")
	if f := s.finding(c, wordDropped); f.Finding != "a" || f.Confidence != 2./3 {
		t.Errorf("answers that disagree: %+v", f)
	}
}

// What is for other ports, or from hosts that were not asked, is nobody's to answer here.
func TestStrangers(t *testing.T) {
	w := newWorld(t, setup{server: ours})
	w.probe(t.Context())
	before := len(w.taps[0].Packets())
	stranger := packet.Segment{From: netip.MustParseAddrPort("198.18.9.3:80"), To: netip.MustParseAddrPort("198.18.0.1:20000"), Flags: packet.SYN | packet.ACK, Ack: 7}
	other := stranger
	other.From, other.To = w.to, netip.MustParseAddrPort("198.18.0.1:999")
	for _, s := range []packet.Segment{stranger, other} {
		pkt, _ := s.Append(nil)
		w.p.Receive(pkt)
	}
	w.pass(0, func() bool { return false })
	if n := len(w.taps[0].Packets()); n != before {
		t.Errorf("%d answers", n-before)
	}
	stranger.From = w.to
	pkt, _ := stranger.Append(nil)
	w.p.Receive(pkt)
	w.pass(0, func() bool { return false })
	if n := len(w.taps[0].Packets()); n != before+1 {
		t.Errorf("%d answers to a late SYN-ACK", n-before)
	}
}

// timeUp is a clock by which the time is up at once, but not before something has happened.
type timeUp struct{ before func() }

func (timeUp) Now() time.Time { return time.Unix(0, 0) }

func (c timeUp) AfterFunc(_ time.Duration, f func()) (stop func() bool) {
	c.before()
	f()
	return func() bool { return false }
}

// An answer that is there when the time is up is no silence.
func TestLastMoment(t *testing.T) {
	a := &port{in: make(chan event, 1)}
	a.p = New(Config{Clock: timeUp{func() { a.hear(event{}) }}})
	for range 64 { // a choice by chance would be wrong in half of them
		if _, ok := a.wait(t.Context(), time.Unix(1, 0)); !ok {
			t.Fatal("not heard")
		}
	}
}
