package config

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"innertun/socks"
	"innertun/tcpinc"
	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
)

// defaults says every key with a default at its default.
const defaults = `
[egress]
mode = "auto"
ports = "61000-65535"
[tcpinc]
policy = "opportunistic"
teps = ["curve25519", "curve448", "p256", "p521"]
ciphers = ["aes-128-gcm", "aes-256-gcm", "chacha20-poly1305"]
inner_space = "auto"
skip_ports = [22, 443, 465, 853, 989, 990, 993, 995]
resume = true
early_data = false
rekey = { bytes = "16GiB", frames = 16777216, time = "1h" }
rst = "verify"
app_aware = "auto"
[control]
socket = "/run/innertun/control.sock"
`

var compare = cmp.Options{
	cmp.AllowUnexported(Rule{}, glob{}),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmpopts.EquateEmpty(),
}

func TestDefaults(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "spelled out": defaults} {
		c, err := Parse("f.toml", text)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d := cmp.Diff(Default(), c, compare); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		if c.Enabled() {
			t.Errorf("%s: enables something", name)
		}
	}
	c, err := Parse("f.toml", "[tun]\n[socks]\n")
	if err != nil {
		t.Fatal(err)
	}
	want := &TUN{Name: "inner0", MTU: 1500,
		Routes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}
	if d := cmp.Diff(want, c.TUN, compare); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(&SOCKS{Listen: netip.MustParseAddrPort("127.0.0.1:1080")}, c.SOCKS, compare); d != "" {
		t.Error(d)
	}
	if def := Default().TCPInc; def.Rekey != (Rekey{16 << 30, 16777216, time.Hour}) {
		t.Errorf("%+v", def.Rekey)
	}
}

const full = `
# everything that is built, other than the default
[egress]
mode = "packet"
interface = "eth1"
ports = "50000-50999"

[tcpinc]
policy = "require"
teps = ["p256", "curve25519"]
ciphers = ["chacha20-poly1305"]
inner_space = "off"
skip_ports = []
resume = false
session_cache = false
rst = "accept"
app_aware = "mandatory"

[tun]
name = "tun7"
routes = ["198.18.0.0/15", "fd00::/8"]
exclude = ["198.18.0.1"]
mtu = 9000
forward = false

[socks]
listen = "[::1]:1081"
users = [
  { name = "ann", password = "x#y" }, # a comment
  { name = "bob", password = '''z''' },
]

[[serve]]
listen = ":80"
forward = "127.0.0.1:8080"
source = "none"
[[serve]]
listen = "198.18.0.1:81"
forward = "[::1]:81"
teps = ["curve448"]
ciphers = ["aes-256-gcm", "aes-128-gcm"]
resume = true

[[rule]]
to = ["198.18.0.0/15", "*.example.net"]
port = [80, "8000-8100"]
policy = "off"
teps = ["p521", "curve25519"]
session_cache = true
ciphers = ["chacha20-poly1305"]

[control]
socket = "/tmp/x.sock"
`

func TestFull(t *testing.T) {
	c, err := Parse("f.toml", full)
	if err != nil {
		t.Fatal(err)
	}
	p, yes := netip.MustParsePrefix, true
	want := &Config{
		Egress: Egress{"packet", "eth1", Ports{50000, 50999}},
		TCPInc: TCPInc{Policy: tcpinc.Require, TEPs: []eno.TEP{tcpcrypt.P256, tcpcrypt.Curve25519},
			Ciphers: []tcpcrypt.Cipher{tcpcrypt.ChaCha20Poly1305}, InnerSpace: tcpinc.InnerSpaceOff, Rekey: Default().TCPInc.Rekey, RST: tcpinc.AcceptResets,
			AppAware: "mandatory"},
		TUN: &TUN{"tun7", []netip.Prefix{p("198.18.0.0/15"), p("fd00::/8")}, []netip.Prefix{p("198.18.0.1/32")}, 9000},
		SOCKS: &SOCKS{netip.MustParseAddrPort("[::1]:1081"), []socks.User{
			{Name: "ann", Password: "x#y"}, {Name: "bob", Password: "z"}}},
		Serve: []Serve{
			{netip.AddrPortFrom(netip.Addr{}, 80), netip.MustParseAddrPort("127.0.0.1:8080"), "none", Overrides{}, AuthNone, nil},
			{netip.MustParseAddrPort("198.18.0.1:81"), netip.MustParseAddrPort("[::1]:81"), "none",
				Overrides{TEPs: []eno.TEP{tcpcrypt.Curve448}, Ciphers: []tcpcrypt.Cipher{tcpcrypt.AES256GCM, tcpcrypt.AES128GCM}, Resume: &yes}, AuthNone, nil}},
		Rules: []Rule{{To: []string{"198.18.0.0/15", "*.example.net"}, Ports: []Ports{{80, 80}, {8000, 8100}},
			Policy:    tcpinc.Off,
			Overrides: Overrides{TEPs: []eno.TEP{tcpcrypt.P521, tcpcrypt.Curve25519}, Ciphers: []tcpcrypt.Cipher{tcpcrypt.ChaCha20Poly1305}, SessionCache: &yes},
			prefixes:  []netip.Prefix{p("198.18.0.0/15")}, names: []glob{{[]string{"", ".example.net"}}}}},
		Control:  Control{"/tmp/x.sock"},
		Identity: Identity{KnownPeers: DefaultKnownPeers},
	}
	if d := cmp.Diff(want, c, compare); d != "" {
		t.Error(d)
	}
}

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		text string
		line int
		want string // key and what is expected
	}{
		{"[tcpinc]\npolcy = 1\n", 2, "tcpinc.polcy: unknown key; known here: app_aware, ciphers"},
		{"\n[tunn]\n", 2, "tunn: unknown key"},
		{"x = 1", 1, "x: unknown key"},
		{"[[rule]]\npolicy = \"off\"\n\n[[rule]]\npolicy=\"off\"\nprot = [80]\n", 6, "rule[1].prot: unknown key"},
		{"[tcpinc]\nrekey = { bytes = \"16GiB\", tome = 1 }\n", 2, "tcpinc.rekey.tome: unknown key"},
		{"[socks]\nusers = [\n {name = \"a\", password = \"b\"},\n {name = \"c\", passwd = \"d\"},\n]", 4, "socks.users[1].passwd: unknown key"},
		{"[tun]\nmtu = \"big\"\n", 2, `tun.mtu: is the string "big", expected a number from 1280 to 65535`},
		{"[tun]\nmtu = 100\n", 2, "tun.mtu: 100 is out of range"},
		{"[tun]\nroutes = \"198.18.0.0/15\"\n", 2, "expected a list of prefixes"},
		{"[tun]\nroutes = [\n\"198.18.0.0/15\",\n\"fd00::/129\"]\n", 4, `tun.routes[1]: "fd00::/129" is no prefix`},
		{"[tun]\nroutes = [\"198.18.0.1/15\"]\n", 2, `"198.18.0.0/15" is meant?`},
		{"[tun]\nname = \"a/b\"\n", 2, "tun.name"},
		{"[tun]\nforward = true\n", 2, "not built yet"},
		{"tun = true\n", 1, "tun: is true, expected a table: [tun]"},
		{"[egress]\nports = \"9-8\"\n", 2, "9 is above 8"},
		{"[egress]\nports = \"1-70000\"\n", 2, `egress.ports: "1-70000" is no port range`},
		{"[egress]\nports = 61000\n", 2, "egress.ports: is the number 61000, expected a string"},
		{"[egress]\nmode = \"nat\"\n", 2, `"nat" is not built yet, expected "auto" or "packet"`},
		{"[egress]\nmode = \"tap\"\n", 2, `"tap" is unknown, expected "auto" or "packet"`},
		{"[tcpinc]\npolicy = \"maybe\"\n", 2, `unknown policy "maybe" (known: opportunistic`},
		{"[tcpinc]\nteps = [\"curve25519\", \"p255\"]\n", 2, `tcpinc.teps[1]: unknown tep "p255"`},
		{"[tcpinc]\nteps = []\n", 2, "expected at least one of"},
		{"[tcpinc]\nciphers = [\"rot13\"]\n", 2, `unknown cipher "rot13"`},
		{"[tcpinc]\nciphers = [\"aes-128-gcm\", \"aes-128-gcm\"]\n", 2, "twice"},
		{"[tcpinc]\nciphers = []\n", 2, "the list is empty"},
		{"[tcpinc]\nciphers = [1]\n", 2, "tcpinc.ciphers[0]: is the number 1, expected strings"},
		{"[tcpinc]\ninner_space = \"maybe\"\n", 2, "known: off, auto, on"},
		{"[[rule]]\npolicy = \"off\"\ninner_space = true\n", 3, "expected a string"},
		{"[tcpinc]\nskip_ports = [22, 70000]\n", 2, "tcpinc.skip_ports[1]: is the number 70000, expected a port number"},
		{"[tcpinc]\nearly_data = true\nresume = false\n", 2, "set resume and session_cache to true, or remove early_data"},
		{"[tcpinc]\ninner_space = \"off\"\n[[serve]]\nlisten = \":80\"\nforward = \"127.0.0.1:80\"\nearly_data = true\n", 6, `set inner_space to "auto" or "on"`},
		{"[[rule]]\npolicy = \"off\"\nearly_data = true\n", 3, "the policy is off"},
		{"[[rule]]\npolicy = \"require\"\nearly_data = true\nsession_cache = false\n", 3, "sessions that are resumed"},
		{"[tcpinc]\nresume = \"no\"\n", 2, `expected true or false`},
		{"[tcpinc]\napp_aware = \"maybe\"\n", 2, "expected \"auto\", \"on\" or \"mandatory\""},
		{"[tcpinc]\nrst = \"ignore\"\n", 2, `unknown reset mode "ignore" (known: accept, verify, authenticate)`},
		{"[tcpinc]\n[tcpinc.rekey]\nbytes = \"16GB\"\n", 3, `tcpinc.rekey.bytes: "16GB" is no size, expected like "16GiB"`},
		{"[tcpinc]\nrekey = { bytes = 0 }\n", 2, "tcpinc.rekey.bytes: 0 is out of range"},
		{"[tcpinc]\nrekey = { bytes = true }\n", 2, "tcpinc.rekey.bytes: is true, expected a string"},
		{"[tcpinc]\nrekey = { time = \"soon\" }\n", 2, `"soon" is no duration, expected like "1h"`},
		{"[tcpinc]\nrekey = { frames = 0 }\n", 2, "tcpinc.rekey.frames"},
		{"[socks]\nlisten = \"localhost:1080\"\n", 2, "expected PORT, :PORT or IP:PORT"},
		{"[socks]\nusers = [{name = \"a\"}]\n", 2, "socks.users[0].password: is missing"},
		{"[[serve]]\nlisten = \":80\"\n", 1, "serve[0].forward: is missing"},
		{"[[serve]]\nlisten = \":80\"\nforward = \"80\"\n", 3, "expected IP:PORT"},
		{"[[serve]]\nlisten = 80\nforward = \"127.0.0.1:80\"\n", 2, "serve[0].listen: is the number 80, expected a string"},
		{"[[serve]]\nlisten = \":80\"\nforward = \"127.0.0.1:80\"\nsource = \"proxy-v2\"\n", 4, "not built yet"},
		{"[[serve]]\nlisten = \":80\"\nforward = \"127.0.0.1:80\"\n[[serve]]\nlisten = \":80\"\nforward = \"127.0.0.1:81\"", 5, "served already"},
		{"[[rule]]\nto = [\"198.18.0.0/33\"]\npolicy = \"off\"\n", 2, `rule[0].to[0]: "198.18.0.0/33" is no prefix`},
		{"[[rule]]\nto = [\"198.18.0\"]\npolicy = \"off\"\n", 2, `is no IP address`},
		{"[[rule]]\nto = [\"exa mple\"]\npolicy = \"off\"\n", 2, `is no prefix, address or name`},
		{"[[rule]]\nport = [0]\npolicy = \"off\"\n", 2, "rule[0].port[0]: is the number 0, expected a port number"},
		{"[[rule]]\nport = [\"9-\"]\npolicy = \"off\"\n", 2, "is no port range"},
		{"[[rule]]\nport = [80]\n", 1, "rule[0].policy: is missing"},
		{"[[rule]]\npolicy = \"off\"\nteps = []\n", 3, "rule[0].teps: is empty, expected at least one of"},
		{"[[rule]]\npolicy = \"off\"\nteps = [\"p256\", \"p256\"]\n", 3, `rule[0].teps: "p256" is there twice`},
		{"[[serve]]\nlisten = \":80\"\nforward = \"127.0.0.1:80\"\nciphers = [\"rot13\"]\n", 4, `serve[0].ciphers[0]: `},
		{"[[rule]]\npolicy = \"off\"\nresume = \"no\"\n", 3, `rule[0].resume: is the string "no", expected true or false`},
		{"[control]\nmetrics = \"127.0.0.1:9464\"\n", 2, "control.metrics: is not built yet"},
		{"[[serve]]\nlisten = \":80\"\nforward = \"127.0.0.1:80\"\n[[serve]]\nlisten = \"198.18.0.1:80\"\nforward = \"127.0.0.1:81\"\n", 5, "served already"},
		{"[[serve]]\nlisten = \"[::]:80\"\nforward = \"127.0.0.1:80\"\n[[serve]]\nlisten = \"[fd00::1]:80\"\nforward = \"127.0.0.1:81\"\n", 5, "served already"},
		{"[tun\n", 1, "expected"},
		{"[tun]\nmtu = 1500\nmtu = 1501\n", 3, "mtu"},
		{"a = \"\"\"\n[x]\ny = 1\n\"\"\"\n[tun]\nz = 1\n", 6, "tun.z: unknown key"},
	} {
		got, err := Parse("f.toml", c.text)
		var first *Error
		if err == nil || got != nil || !errors.As(err, &first) {
			t.Errorf("%q: %v, %v", c.text, got, err)
			continue
		}
		found := false
		for _, e := range all(err) {
			found = found || e.Line == c.line && strings.Contains(e.Error(), c.want) && strings.HasPrefix(e.Error(), "f.toml:")
		}
		if !found {
			t.Errorf("%q:\n got %v\nwant line %d, %s", c.text, err, c.line, c.want)
		}
	}
}

func all(err error) []*Error {
	if e, ok := err.(*Error); ok {
		return []*Error{e}
	}
	var out []*Error
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range j.Unwrap() {
			out = append(out, all(e)...)
		}
	}
	return out
}

func TestAllErrorsAtOnceInOrder(t *testing.T) {
	_, err := Parse("f.toml", "[socks]\nlisten = 1\n[tun]\nmtu = 1\nnmae = \"x\"\n")
	got := all(err)
	if len(got) != 3 || got[0].Line != 2 || got[1].Line != 4 || got[2].Line != 5 {
		t.Errorf("%v", err)
	}
}

// Without a list, and with all names in one, the order is that of the manual.
func TestTEPs(t *testing.T) {
	all := []eno.TEP{tcpcrypt.Curve25519, tcpcrypt.Curve448, tcpcrypt.P256, tcpcrypt.P521}
	if got := Default().TCPInc.TEPs; !slices.Equal(got, all) {
		t.Errorf("default %v", got)
	}
	c, err := Parse("f", `tcpinc.teps = ["p521", "p256", "curve448", "curve25519"]`)
	slices.Reverse(all)
	if err != nil || !slices.Equal(c.TCPInc.TEPs, all) {
		t.Errorf("%+v %v", c, err)
	}
}

func TestRekey(t *testing.T) {
	c, err := Parse("f", "[tcpinc]\nrekey = { bytes = \"1MiB\", frames = 1000, time = \"10m\" }\n")
	if want := (Rekey{1 << 20, 1000, 10 * time.Minute}); err != nil || c.TCPInc.Rekey != want {
		t.Errorf("%+v %v", c, err)
	}
	if c, err := Parse("f", "tcpinc.rekey.bytes = 65536\n"); err != nil || c.TCPInc.Rekey.Bytes != 65536 {
		t.Errorf("a number: %+v %v", c, err)
	}
}

func TestLoad(t *testing.T) {
	name := filepath.Join(t.TempDir(), "innertun.toml")
	if _, err := Load(name); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), name) {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(name, []byte(full), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := Load(name); err != nil || !c.Enabled() {
		t.Errorf("%v %v", c, err)
	}
}

func TestFlags(t *testing.T) {
	for _, dash := range []string{"-", "--"} {
		var f Flags
		fs := flag.NewFlagSet("x", flag.ContinueOnError)
		f.Common(fs)
		if err := fs.Parse([]string{dash + "i", "eth9", dash + "policy=require", dash + "teps", "p256, curve25519",
			dash + "ciphers", "aes-256-gcm", dash + "inner-space", "off", dash + "control", "/x", dash + "keylog", "/k"}); err != nil {
			t.Fatal(err)
		}
		c := Default()
		if err := f.Apply(c); err != nil {
			t.Fatal(err)
		}
		want := Default()
		want.Egress.Interface, want.Control.Socket, want.KeyLog = "eth9", "/x", "/k"
		want.TCPInc.Policy, want.TCPInc.InnerSpace = tcpinc.Require, tcpinc.InnerSpaceOff
		want.TCPInc.TEPs = []eno.TEP{tcpcrypt.P256, tcpcrypt.Curve25519}
		want.TCPInc.Ciphers = []tcpcrypt.Cipher{tcpcrypt.AES256GCM}
		if d := cmp.Diff(want, c, compare); d != "" {
			t.Error(d)
		}
	}
	unchanged := Default()
	if err := new(Flags).Apply(unchanged); err != nil || !cmp.Equal(unchanged, Default(), compare) {
		t.Error("flags that are not given change something")
	}
	for want, f := range map[string]Flags{
		"-policy: ": {Policy: "x"}, "-teps: ": {TEPs: "p2"}, "-ciphers: ": {Ciphers: "des"},
		"-inner-space: ": {InnerSpace: "maybe"}, "-interface: ": {Interface: "a b"},
	} {
		if err := f.Apply(Default()); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	for _, f := range []Flags{{}, {Listen: "80"}, {Listen: "x", Forward: "127.0.0.1:80"}, {Listen: "80", Forward: "80"}} {
		if err := f.ApplyServe(Default()); err == nil {
			t.Errorf("%+v is accepted", f)
		}
	}
}

func TestParseListen(t *testing.T) {
	both := func(p uint16) netip.AddrPort { return netip.AddrPortFrom(netip.Addr{}, p) }
	for s, want := range map[string]netip.AddrPort{
		"80": both(80), ":80": both(80), "127.0.0.1:80": netip.MustParseAddrPort("127.0.0.1:80"),
		"[::1]:80": netip.MustParseAddrPort("[::1]:80"), "0.0.0.0:80": netip.MustParseAddrPort("0.0.0.0:80"),
	} {
		if got, err := ParseListen(s); err != nil || got != want {
			t.Errorf("%q: %v %v", s, got, err)
		}
	}
	for _, s := range []string{"", ":", "0", ":0", "70000", "-1", "host:80", "::1:80", "127.0.0.1", "127.0.0.1:0", "80:"} {
		if got, err := ParseListen(s); err == nil {
			t.Errorf("%q: %v", s, got)
		}
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]uint64{"16GiB": 16 << 30, "1 MiB": 1 << 20, "64KiB": 64 << 10, "7": 7, "7B": 7, "2TiB": 2 << 40} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("%q: %d %v", s, got, err)
		}
	}
	for _, s := range []string{"", "0", "GiB", "16GB", "-1", "1.5GiB", "99999999999TiB"} {
		if got, err := ParseSize(s); err == nil {
			t.Errorf("%q: %d", s, got)
		}
	}
}

func TestWarn(t *testing.T) {
	var log bytes.Buffer
	c, err := Parse("f", "[tun]\n[socks]\nlisten = \":1080\"\n[[rule]]\nto = [\"a.example\"]\npolicy = \"off\"")
	if err != nil {
		t.Fatal(err)
	}
	c.Warn(slog.New(slog.NewTextHandler(&log, nil)))
	for _, want := range []string{"applies to SOCKS requests only", "open to other hosts"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in %s", want, log.String())
		}
	}
}

// FuzzParse: whatever a file says, there is a configuration or an error, and every error has its line.
func FuzzParse(f *testing.F) {
	f.Add(full)
	f.Add(defaults)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse("f", text)
		if (c == nil) == (err == nil) {
			t.Fatal(c, err)
		}
	})
}

// Addresses that no connection can have both of may share a port.
func TestServeSamePort(t *testing.T) {
	text := ""
	for _, at := range []string{"198.18.0.1:80", "198.18.0.2:80", "[fd00::1]:80", ":81"} {
		text += fmt.Sprintf("[[serve]]\nlisten = %q\nforward = \"127.0.0.1:80\"\n", at)
	}
	if c, err := Parse("f.toml", text); err != nil || len(c.Serve) != 4 {
		t.Error(c, err)
	}
}

// A syntax error is told with the line it is on, also where the line ends too early.
func TestSyntaxErrorLine(t *testing.T) {
	for text, line := range map[string]string{"[egress\n": ":1:", "a = 1\nb = \nc = 2\n": ":2:", "a = 1\n\n[x\n\n": ":3:", "a = 1\nb 3\n": ":2:"} {
		if _, err := Parse("f.toml", text); err == nil || !strings.Contains(err.Error(), "f.toml"+line) {
			t.Errorf("%q: %v, want line %s", text, err, line)
		}
	}
}
