package experiment

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"innertun/cmd/internal/lab/cell"
	"innertun/integration/lab"
	"innertun/tcpinc"

	"innertun/internal/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

const full = `
name = "full"
title = "All keys"
summary = """two
lines"""
repetitions = 2
seed = 7
mtu = 1400
limit = "1m"
rtt = ["10ms", "20ms"]
loss = [0, 0.01]
ip = [4, 6]

[server]
max-flows = 20
max-half-open = 5

[[variant]]
name = "plain"

[[variant]]
name = "all"
policy = "require"
teps = ["p256"]
ciphers = ["chacha20-poly1305"]
inner-space = "on"
resume = true
early-data = true
rst = "accept"
[variant.server]
policy = "off"
inner-space = "auto"
early-data = false
[[variant.option]]
kind = 254
exid = 0x1234
data = "abcd"
segments = "syn"
from = "client"
[[variant.option]]
place = "prefix"
kind = 77
data = ""
[[variant.option]]
place = "stream"
exid = 0x5a5a

[[path]]
name = "two"
note = "why"
elements = [{ element = "strip-options", kinds = [69] }, "delay:time=5ms"]

[[workload]]
kind = "bulk"
name = "upload"
up = "64KiB"
connections = 3
pause = "3s"

[[must]]
path = ["two"]
variant = ["all"]
workload = ["upload"]
outcome = "broke"
why = "the server has no encryption"
`

func TestParse(t *testing.T) {
	e, err := Parse("f.toml", full)
	if err != nil {
		t.Fatal(err)
	}
	if e.Name != "full" || e.Title != "All keys" || e.Summary != "two lines" || e.Repetitions != 2 || e.Seed != 7 || e.MTU != 1400 || e.Limit != time.Minute ||
		e.Room != (cell.Room{Flows: 20, HalfOpen: 5}) || e.Workloads[0].Pause != 3*time.Second || e.Cell(e.Jobs()[0]).Room != e.Room {
		t.Errorf("%+v", e)
	}
	if n := len(e.Jobs()); n != 2*1*1*2*2*2*2 {
		t.Errorf("%d jobs", n)
	}
	p, v := e.Variants[0], e.Variants[1]
	if p.Client.Policy != tcpinc.Off || p.Server.Policy != tcpinc.Off {
		t.Errorf("plain: %+v", p)
	}
	c, s := v.Client, v.Server
	if c.Policy != tcpinc.Require || s.Policy != tcpinc.Off || c.Config.InnerSpace != tcpinc.InnerSpaceOn || s.Config.InnerSpace != tcpinc.InnerSpaceAuto ||
		!c.EarlyData || s.EarlyData || s.Config.EarlyData || !c.Resume || !s.Resume || len(c.Config.TEPs) != 1 || len(s.Config.Ciphers) != 1 ||
		c.Config.RST != tcpinc.AcceptResets {
		t.Errorf("%+v", v)
	}
	if len(c.Outer) != 1 || len(s.Outer) != 0 || c.Outer[0].Kind != 254 || hex.EncodeToString(c.Outer[0].Data) != "1234abcd" || c.Outer[0].Segments != lab.SYNs ||
		hex.EncodeToString(c.Config.Own.Prefix) != "4d02" || hex.EncodeToString(s.Stream[0]) != "fd045a5a" {
		t.Errorf("options: %+v, %+v", c, s)
	}
	if w := e.Workloads[0]; w.Name != "upload" || w.Up != 65536 || w.Connections != 3 || w.Down != 32 {
		t.Errorf("%+v", w)
	}
	j := e.Jobs()[len(e.Jobs())-1]
	if run := e.Cell(j); j.Loss != 0.01 || !j.IPv6 || j.Seed != 8 || len(run.Path) != 3 || run.Path[2].String() != "loss:probability=0.01" || run.MTU != 1400 {
		t.Errorf("%+v", j)
	}
	if m := e.Must[0]; m.Outcome != cell.Broke || !m.covers(Record{Path: "two", Variant: "all", Workload: "upload", Result: cell.Result{Outcome: cell.Broke}}) ||
		m.covers(Record{Path: "two", Variant: "plain", Workload: "upload", Result: cell.Result{Outcome: cell.Broke}}) {
		t.Errorf("%+v", m)
	}
}

// Each mistake is named, with its line.
func TestParseErrors(t *testing.T) {
	for text, says := range map[string]string{
		"":                            `name: expected a word`,
		"name = 'a'\nnmae = 1":        `f.toml:2: nmae: unknown key`,
		"name = 'a'\nrtt = ['x']":     `f.toml:2: rtt[0]: x: expected a time`,
		"name = 'a'\nrtt = '0s'":      `no round-trip time`,
		"name = 'a'\nloss = 1":        `expected a probability`,
		"name = 'a'\nip = 5":          `expected 4 or 6`,
		"name = 'a'\nrepetitions = 0": `out of range`,
		"name = 'a'\nlimit = 'x'":     `limit: x: expected a time`,
		"name = 'a'\nrepetitions = 999\nloss = [0,0.1,0.2,0.3,0.4]\nip=[4,6]\nrtt=['1s','2s','3s','4s']":          `cells, at most`,
		"name = 'a'\n[[path]]\nelements = ['x']":                                                                  `f.toml:3: path[0].elements[0]: there is no such element`,
		"name = 'a'\n[[path]]\nelements = [1]":                                                                    `is neither`,
		"name = 'a'\n[[path]]\nelements = [{element='loss'}]":                                                     `probability is missing`,
		"name = 'a'\n[[path]]\n[[path]]":                                                                          `"clean" is there twice`,
		"name = 'a'\n[[workload]]\nkind = 'x'":                                                                    `there is no workload`,
		"name = 'a'\n[[workload]]\nup = '9999MiB'":                                                                `expected octets`,
		"name = 'a'\n[[workload]]\nupp = 1":                                                                       `f.toml:3: workload[0].upp: unknown key`,
		"name = 'a'\n[[must]]\npath = ['x']\noutcome = 'broke'\nwhy='y'":                                          `x is not among clean`,
		"name = 'a'\n[[must]]\noutcome = 'x'\nwhy='y'":                                                            `"x" is none`,
		"name = 'a'\n[[must]]\noutcome = 'broke'":                                                                 `say why`,
		"name = 'a'\n[[variant]]\npolicy = 'x'":                                                                   `unknown policy`,
		"name = 'a'\n[[variant]]\nteps = ['x']":                                                                   `variant[0].teps[0]: unknown tep`,
		"name = 'a'\n[[variant]]\nciphers = ['x']":                                                                `ciphers[0]`,
		"name = 'a'\n[[variant]]\ninner-space = 'x'":                                                              `unknown inner_space`,
		"name = 'a'\n[[variant]]\nearly-data = true":                                                              `needs resume`,
		"name = 'a'\n[[variant]]\n[[variant.option]]\nexid = 1\ndata = 'x'":                                       `hexadecimal`,
		"name = 'a'\n[[variant]]\n[[variant.option]]\ndata = ''":                                                  `begins with a 16-bit ExID`,
		"name = 'a'\n[[variant]]\n[[variant.option]]\nkind=70\ndata='" + strings.Repeat("00", 39) + "'":           `39 octets`,
		"name = 'a'\n[[variant]]\n[[variant.option]]\nexid = 1\nplace='prefix'":                                   `needs inner-space`,
		"name = 'a'\n[[variant]]\n[[variant.option]]\nexid = 1\nplace='x'":                                        `expected one of outer`,
		"name = 'a'\n[[variant]]\ninner-space='on'\n[[variant.option]]\nexid = 0x4960\nplace='suffix'":            `the project's own`,
		"name = 'a'\n[[variant]]\ninner-space='on'\n[[variant.option]]\nexid = 1\nplace='suffix'\nsegments='syn'": `is for place`,
		"name = 'a'\nlimit='1h'\n[[workload]]\nkind='idle'\nidle='2h'":                                            `f.toml:2: limit: 1h0m0s is over before workload[0]`,
		"name = 'a'\n[[workload]]\nconnections=1000\npause='1000h'":                                               `the pauses take more than`,
		"name = ": "f.toml:1:",
	} {
		if _, err := Parse("f.toml", text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, should say %q", text, err, says)
		}
	}
}

// The ready experiments parse, have names of their own, and say what they are for.
func TestLibrary(t *testing.T) {
	if len(Names()) == 0 {
		t.Fatal("there are none")
	}
	for _, name := range Names() {
		e, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		if e.Name != name || e.Title == name || e.Summary == "" {
			t.Errorf("%s: %+v", name, e)
		}
	}
	if _, err := Load("x"); err == nil || !strings.Contains(err.Error(), "latency") {
		t.Error(err)
	}
}

func record(variant, policy string, o cell.Outcome) Record {
	return Record{Variant: variant, Policy: policy, Path: "p", Result: cell.Result{Outcome: o}}
}

func TestJudge(t *testing.T) {
	e := Experiment{Must: []Must{{Variants: []string{"excused"}, Outcome: cell.Broke, Why: "so"}}}
	leak := record("excused", "require", cell.Broke)
	leak.Result.Leaked = true
	hang := record("o", "off", cell.PlainTCP)
	hang.Result.ServerHung = true
	for _, c := range []struct {
		plain cell.Outcome
		r     Record
		want  Verdict
	}{
		{cell.PlainTCP, record("o", "opportunistic", cell.FellBack), Kept},
		{cell.PlainTCP, record("o", "opportunistic", cell.Broke), Broken},
		{cell.Broke, record("o", "opportunistic", cell.Broke), Kept},
		{cell.PlainTCP, record("excused", "opportunistic", cell.Broke), Excused},
		{cell.PlainTCP, record("excused", "opportunistic", cell.Hung), Broken},
		{cell.Broke, record("o", "opportunistic", cell.Hung), Broken},
		{cell.Broke, record("o", "opportunistic", cell.Garbled), Broken},
		{cell.PlainTCP, record("o", "require", cell.Broke), Kept},
		{cell.PlainTCP, record("o", "require", cell.FellBack), Broken},
		{cell.PlainTCP, leak, Broken},
		{cell.PlainTCP, hang, Broken},
	} {
		twins := []Record{record("plain", "off", c.plain), c.r}
		e.judge(twins)
		if got := twins[1]; got.Verdict != c.want || (got.Finding == "") != (c.want == Kept) || (got.Why != "") != (c.want == Excused) {
			t.Errorf("%s under %s beside %s: %+v", c.r.Result.Outcome, c.r.Policy, c.plain, got)
		}
	}
}
