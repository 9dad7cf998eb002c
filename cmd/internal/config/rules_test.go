package config

import (
	"bytes"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"innertun/tcpinc"
	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
)

func policies(t *testing.T, text string, log *bytes.Buffer) *Policies {
	t.Helper()
	c, err := Parse("f", text)
	if err != nil {
		t.Fatal(err)
	}
	return NewPolicies(c, slog.New(slog.NewTextHandler(log, nil)))
}

func TestLookup(t *testing.T) {
	p := policies(t, `
[[rule]]
to = ["198.18.1.0/24", "fd00::1", "*.example.net", "exact.example"]
port = [80, "8000-8100", 443]
policy = "require"
[[rule]]
to = ["198.18.0.0/15"]
policy = "off"
[[rule]]
port = [25]
policy = "require"
`, new(bytes.Buffer))
	for _, c := range []struct {
		name, addr string
		port       uint16
		want       Decision
	}{
		{"", "198.18.1.7", 80, Decision{tcpinc.Require, eno.NoReason, 0}},
		{"", "::ffff:198.18.1.7", 80, Decision{tcpinc.Require, eno.NoReason, 0}},
		{"", "198.18.1.7", 8050, Decision{tcpinc.Require, eno.NoReason, 0}},
		{"", "198.18.1.7", 443, Decision{tcpinc.Require, eno.NoReason, 0}}, // a rule beats skip_ports
		{"", "198.18.1.7", 81, Decision{tcpinc.Off, eno.PolicyOff, 1}},
		{"", "198.19.0.1", 443, Decision{tcpinc.Off, eno.PolicyOff, 1}},
		{"", "fd00::1", 80, Decision{tcpinc.Require, eno.NoReason, 0}},
		{"", "fd00::2", 80, Decision{tcpinc.Opportunistic, eno.NoReason, -1}},
		{"", "fd00::2", 443, Decision{tcpinc.Off, eno.SkipPort, -1}},
		{"", "fd00::2", 25, Decision{tcpinc.Require, eno.NoReason, 2}},
		{"www.example.net", "", 80, Decision{tcpinc.Require, eno.NoReason, 0}},
		{"a.b.EXAMPLE.net.", "", 80, Decision{tcpinc.Require, eno.NoReason, 0}},
		{"example.net", "", 80, Decision{tcpinc.Opportunistic, eno.NoReason, -1}},
		{"badexample.net", "", 80, Decision{tcpinc.Opportunistic, eno.NoReason, -1}},
		{"www.example.net.evil.example", "", 80, Decision{tcpinc.Opportunistic, eno.NoReason, -1}},
		{"exact.example", "fd00::9", 80, Decision{tcpinc.Require, eno.NoReason, 0}},
		{"other.example", "198.18.1.7", 80, Decision{tcpinc.Require, eno.NoReason, 0}},
	} {
		addr, _ := netip.ParseAddr(c.addr)
		if got := p.Lookup(c.name, addr, c.port); got != c.want {
			t.Errorf("%q %q %d: %+v, want %+v", c.name, c.addr, c.port, got, c.want)
		}
	}
}

func TestSkipPortUnderRequireIsLoggedOnce(t *testing.T) {
	var log bytes.Buffer
	p := policies(t, "tcpinc.policy = \"require\"", &log)
	for range 3 {
		d := p.Lookup("", netip.MustParseAddr("198.18.0.1"), 443)
		if d != (Decision{tcpinc.Off, eno.SkipPort, -1}) {
			t.Errorf("%+v", d)
		}
	}
	if n := strings.Count(log.String(), "skip_ports"); n != 2 { // in one line's message and attribute
		t.Errorf("%d mentions:\n%s", n, log.String())
	}
	if got := p.Serving(); got != (Decision{tcpinc.Require, eno.NoReason, -1}) {
		t.Errorf("serving: %+v", got)
	}
}

func TestRatchet(t *testing.T) {
	p := policies(t, "tcpinc.policy = \"ratchet\"\n[[rule]]\nto=[\"198.18.0.0/24\"]\npolicy=\"off\"\n", new(bytes.Buffer))
	for addr, want := range map[string]Decision{
		"198.18.0.1": {tcpinc.Off, eno.PolicyOff, 0}, "198.18.1.1": {tcpinc.Ratchet, eno.NoReason, -1},
	} {
		if got := p.Lookup("", netip.MustParseAddr(addr), 80); got != want {
			t.Errorf("%s: %+v", addr, got)
		}
	}
	if got := p.Serving(); got != (Decision{tcpinc.Opportunistic, eno.NoReason, -1}) {
		t.Errorf("serving: %+v", got)
	}
	p = policies(t, "[[rule]]\nto=[\"198.18.0.0/24\"]\npolicy=\"ratchet\"\n", new(bytes.Buffer))
	if got := p.Lookup("", netip.MustParseAddr("198.18.0.1"), 443); got != (Decision{tcpinc.Ratchet, eno.NoReason, 0}) {
		t.Errorf("by rule: %+v", got)
	}
}

// A rule's own lists come with its decision, and with no other.
func TestDialling(t *testing.T) {
	p := policies(t, `
[tcpinc]
teps = ["curve448"]
resume = false
[[rule]]
to = ["198.18.1.0/24"]
policy = "require"
teps = ["p521", "p256"]
session_cache = false
inner_space = "on"
ciphers = ["chacha20-poly1305"]
[[rule]]
to = ["198.18.2.0/24"]
policy = "off"
resume = true
`, new(bytes.Buffer))
	on := tcpinc.InnerSpaceOn
	for addr, want := range map[string]tcpinc.DialOptions{
		"198.18.1.1": {InnerSpace: &on, Policy: tcpinc.Require, TEPs: []eno.TEP{tcpcrypt.P521, tcpcrypt.P256}, Ciphers: []tcpcrypt.Cipher{tcpcrypt.ChaCha20Poly1305}, NoResume: true, NoCache: true},
		"198.18.2.1": {Policy: tcpinc.Off, Reason: eno.PolicyOff},
		"198.18.3.1": {NoResume: true},
	} {
		if got := p.Dialling(p.Lookup("", netip.MustParseAddr(addr), 80)); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", addr, got, want)
		}
	}
}

func TestPolicyOff(t *testing.T) {
	p := policies(t, "tcpinc.policy = \"off\"", new(bytes.Buffer))
	for _, port := range []uint16{80, 443} {
		if d := p.Lookup("", netip.Addr{}, port); d != (Decision{tcpinc.Off, eno.PolicyOff, -1}) {
			t.Errorf("%d: %+v", port, d)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"*", "anything.at.all", true},
		{"a*z", "az", true}, {"a*z", "abcz", true}, {"a*z", "abc", false}, {"aba*ba", "aba", false},
		{"*.a.*", "x.a.y", true}, {"*.a.*", "a.y", false}, {"*a*b*", "xxbxxa", false},
	} {
		g, err := parseGlob(c.pattern)
		if err != nil || g.match(c.name) != c.want {
			t.Errorf("%q %q: not %v (%v)", c.pattern, c.name, c.want, err)
		}
	}
}
