package elements

import (
	"errors"
	"io"
	"strings"
	"testing"

	"innertun/integration/lab"
)

// Every kind has what a list of them needs, and its example builds.
func TestKinds(t *testing.T) {
	seen := make(map[string]bool)
	for _, k := range Kinds() {
		if seen[k.Name] || k.Name != strings.ToLower(k.Name) || k.Summary == "" || len(k.Summary) > 80 || k.Group == "" {
			t.Errorf("%q: twice, or its texts are wrong", k.Name)
		}
		seen[k.Name] = true
		for _, p := range k.AllParams() {
			if p.Help == "" {
				t.Errorf("%s: %s has no help", k.Name, p.Name)
			}
			if p.Default == nil {
				continue
			}
			if _, err := p.parse(p.Default); err != nil {
				t.Errorf("%s: default of %s: %v", k.Name, p.Name, err)
			}
		}
		s, err := ParseSpec(k.Example)
		if err != nil || s.Element != k.Name || s.String() != k.Example && len(s.Params) < 2 {
			t.Errorf("%s: example %q: %v, %v", k.Name, k.Example, s, err)
		}
		for _, towards := range []string{"both", "a"} {
			if s.Params["towards"] = towards; k.bothWays() {
				delete(s.Params, "towards")
			}
			e, err := Build(s, Env{Seed: 1})
			if err != nil {
				t.Errorf("%s: %v", k.Name, err)
				continue
			}
			if _, ok := e.(lab.Actor); !ok {
				t.Errorf("%s: %T does not count", k.Name, e)
			}
			if c, ok := e.(io.Closer); ok {
				c.Close()
			}
		}
	}
}

// What TOML makes of a table and what a command line makes of a word build the same.
func TestSpecs(t *testing.T) {
	fromFile, err := SpecOf(map[string]any{"element": "strip-options", "kinds": []any{int64(69), int64(253)}, "from": "syn"})
	if err != nil {
		t.Fatal(err)
	}
	fromWord, err := ParseSpec("strip-options:from=syn,kinds=69+253")
	if err != nil {
		t.Fatal(err)
	}
	if fromFile.String() != fromWord.String() || fromWord.String() != "strip-options:from=syn,kinds=69+253" {
		t.Errorf("%v and %v", fromFile, fromWord)
	}
	k, _ := Lookup("strip-options")
	a, err1 := k.read(fromFile.Params)
	b, err2 := k.read(fromWord.Params)
	if err1 != nil || err2 != nil || a.kinds("kinds") != b.kinds("kinds") || a.kinds("kinds") != lab.KindsOf(69, 253) {
		t.Errorf("%v %v, %v %v", a, err1, b, err2)
	}
	r, _ := Lookup("rate")
	if a, err := r.read(map[string]any{"bits": "20Mbit", "queue": int64(9)}); err != nil || a.int("bits") != 20_000_000 || a.int("queue") != 9 {
		t.Errorf("%v, %v", a, err)
	}
}

func TestErrors(t *testing.T) {
	for word, says := range map[string]string{
		"strop-options":                    `no such element: "strop-options" (known: delay,`,
		":x=1":                             "begins with no name",
		"loss":                             "loss: wrong parameter: probability is missing (probability: for each packet)",
		"loss:probability=2":               "probability = 2: expected a probability from 0 to 1",
		"loss:probability=0.1,x=1":         "it has no x (it has: probability, towards, seed)",
		"loss:probability":                 `"probability" is not KEY=VALUE`,
		"loss:probability=0,probability=1": "probability is given twice",
		"loss:probability=0,seed=0":        "expected a number from 1",
		"delay:tme=1s":                     "delay: wrong parameter: it has no tme (it has: time, jitter, overtake, towards, seed)",
		"nat:towards=b":                    "nat: wrong parameter: it has no towards",
		"splice:towards=a":                 "splice: wrong parameter: it has no towards",
		"rewrite-sequence:towards=both":    "it has no towards (it has: sack, seed)",
		"coalesce:size=0":                  "size = 0: expected at least 1",
		"black-hole:mtu=67":                "mtu = 67: expected at least 68",
		"inject-reset:count=0":             "count = 0: expected at least 1",
		"rate:bits=1Mbps":                  "bits = 1Mbps: expected a whole number, not negative, with kbit or Mbit or Gbit or without",
		"delay:time=20":                    `expected a time, as "20ms"`,
		"delay:time=-1s":                   "expected a time",
		"rate:bits=0":                      "lets nothing through",
		"rate:bits=1,queue=-4":             "expected a whole number, not negative",
		"rate:bits=99999999999Gbit":        "expected a whole number",
		"strip-options:kinds=1":            `expected option kinds from 2 to 255, or "unknown"`,
		"strip-options:from=fin":           "expected one of: syn, non-syn, all",
		"block-unknown:allow=quic":         "expected some of: http, tls",
		"firewall:strict=yes":              "expected true or false",
		"clamp-mss:to=70000":               "expected 1 to 65535",
		"nat:external4=fd00::1":            "must be an IPv4 and an IPv6 address",
		"split:size=0":                     "expected at least 1",
		"splice:mtu=100":                   "expected 1280 to 65535",
		"flood:kind=fin":                   "expected one of: syn, syn-eno, syn-u, mixed",
		"flood:rate=0":                     "rate = 0 needs a burst",
		"flood:target=198.18.0.2":          "expected an address and a port",
		"router:address4=fd00::1":          "expected an address of that family, or none",
		"loss:probability=0,towards=c":     "expected one of: a, b, both",
	} {
		s, err := ParseSpec(word)
		if err == nil {
			_, err = BuildAll([]Spec{s}, Env{})
		}
		if err == nil || !strings.Contains(err.Error(), says) || !errors.Is(err, ErrParam) && !errors.Is(err, ErrUnknownElement) {
			t.Errorf("%s: %v, should say %q", word, err, says)
		}
	}
	for _, table := range []map[string]any{{}, {"element": 4}} {
		if _, err := SpecOf(table); !errors.Is(err, ErrUnknownElement) {
			t.Errorf("%v: %v", table, err)
		}
	}
	for _, v := range []any{true, 1.5, []any{true}, nil} {
		if _, err := Build(Spec{"strip-options", map[string]any{"kinds": v}}, Env{}); !errors.Is(err, ErrParam) {
			t.Errorf("kinds = %v: %v", v, err)
		}
	}
}

// Elements of one kind in one row do not share their chances, unless told so.
func TestSeeds(t *testing.T) {
	if mix(1, 0) == mix(1, 1) || mix(1, 0) == mix(2, 0) {
		t.Error("seeds are the same")
	}
}
