package experiment

import (
	"os"
	"slices"
	"strings"
	"testing"

	"innertun/cmd/internal/lab/cell"
)

// chance are the paths on which it is chance whether the box acts: a key may look like noise to it or not.
func chance(path string) bool { return strings.HasPrefix(path, "block-ciphertext") }

// The promises hold: no cell hangs, garbles or leaks, and opportunistic encryption works wherever plain TCP does, but for what
// the experiments excuse. innertun lab run --check does the same for all cells of an experiment.
func TestPromises(t *testing.T) {
	for _, c := range []struct {
		name      string
		variants  []string // nil: all
		workloads int      // the first so many; 0: all
	}{
		{name: "everything", variants: []string{"plain", "opportunistic", "Inner Space auto", "early data", "Inner Space, require"}, workloads: 1},
		{name: "extend-tcp", workloads: 1},
		{name: "downgrade"},
		{name: "rst"},
		{name: "own-option"},
		{name: "path-mtu", variants: []string{"plain", "tcpcrypt", "early data"}},
		{name: "re-segmentation", variants: []string{"plain", "tcpcrypt", "early data"}, workloads: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, err := Load(c.name)
			if err == nil {
				err = e.Select(c.variants, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.workloads > 0 {
				e.Workloads = e.Workloads[:c.workloads]
			}
			excused := make([]bool, len(e.Must))
			n := 0
			err = e.Run(t.Context(), nil, func(r Record) error {
				n++
				if r.Verdict == Broken {
					t.Errorf("%s: %s: %s", r.Name(), r.Finding, r.Result.Error)
				}
				for i, m := range e.Must {
					excused[i] = excused[i] || r.Verdict == Excused && m.covers(r)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			for i, m := range e.Must {
				if !excused[i] && !slices.ContainsFunc(m.Paths, chance) {
					t.Errorf("nothing has to be excused as in %q: %s", m.Paths, m.Why)
				}
			}
			t.Logf("%d cells", n)
		})
	}
}

// A RST that is not exactly the next segment leaves a half-open connection alone, one with an upgraded SYN too.
func TestGuessedResets(t *testing.T) {
	e, err := Parse("f.toml", `
name = "guessed"
[[variant]]
policy = "require"
inner-space = "on"
[[path]]
elements = ["inject-reset:attack=off-path,after=0,victim=b,count=3"]
`)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Run(t.Context(), nil, func(r Record) error {
		if r.Result.Outcome != cell.Encrypted || !r.Result.Connections[0].Inner || r.Result.Connections[0].RoundTrips != 2 {
			t.Errorf("%+v", r.Result)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// What the ready experiments excuse stands in the manual, with the reason.
func TestExcusesAreDocumented(t *testing.T) {
	b, err := os.ReadFile("../../../../docs/lab.md")
	if err != nil {
		t.Fatal(err)
	}
	manual := string(b)
	for _, name := range Names() {
		e, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range e.Must {
			for _, p := range m.Paths {
				if !strings.Contains(manual, "`"+p+"`") {
					t.Errorf("docs/lab.md has no line for %q of %s", p, name)
				}
			}
		}
		if !strings.Contains(manual, "`"+name+"`") {
			t.Errorf("docs/lab.md does not name %s", name)
		}
	}
}
