package lab

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"innertun/cmd/internal/lab/experiment"
)

// runOf runs an experiment and returns what it has printed and its file of results.
func runOf(t *testing.T, args ...string) (stdout string, header experiment.Header, records []experiment.Record, end experiment.Trailer) {
	t.Helper()
	prefix := filepath.Join(t.TempDir(), "results", "out") // a folder that is not there yet
	stdout, stderr, exit := command(t, append([]string{"run", "-o", prefix}, args...)...)
	if exit != exitGood {
		t.Fatalf("exit %d: %s", exit, stderr)
	}
	b, err := os.ReadFile(prefix + ".jsonl")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	unmarshal := func(line string, to any) {
		if err := json.Unmarshal([]byte(line), to); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
	}
	unmarshal(lines[0], &header)
	unmarshal(lines[len(lines)-1], &end)
	for _, line := range lines[1 : len(lines)-1] {
		var r experiment.Record
		unmarshal(line, &r)
		records = append(records, r)
	}
	if header.Record != "experiment" || end.Record != "end" || !end.Complete || end.Cells != len(records) || header.Cells != len(records) {
		t.Errorf("%+v, %d records, %+v", header, len(records), end)
	}
	return stdout, header, records, end
}

// The round trips that the design promises, counted over three connections to one server.
func TestRunLatency(t *testing.T) {
	_, _, records, _ := runOf(t, "latency")
	want := map[string][]float64{
		"plain":                   {2, 2, 2},
		"tcpcrypt":                {3, 3, 3},
		"tcpcrypt, resumed":       {3, 2, 2},
		"Inner Space, auto":       {3, 2, 2},
		"Inner Space, on":         {2, 2, 2},
		"Inner Space, resumed":    {2, 2, 2},
		"Inner Space, early data": {2, 1, 1},
	}
	for _, r := range records {
		var got []float64
		for _, c := range r.Result.Connections {
			got = append(got, c.RoundTrips)
		}
		if !slices.Equal(got, want[r.Variant]) || r.Verdict != experiment.Kept {
			t.Errorf("%s: %v, want %v", r.Name(), got, want[r.Variant])
		}
	}
	if len(records) != 3*len(want) {
		t.Errorf("%d records", len(records))
	}
}

// A user's own option is seen where it was put, and only where the path lets it through.
func TestRunOwnOption(t *testing.T) {
	stdout, _, records, _ := runOf(t, "own-option")
	seen := func(r experiment.Record) (places []string) {
		p := r.Result.Sides[1].Received
		for name, options := range map[string]any{"syn": p.SYN, "later": p.Later, "prefix": p.Prefix, "suffix": p.Suffix, "stream": p.Stream} {
			if b, _ := json.Marshal(options); strings.Contains(string(b), `"5a5acafebabe"`) {
				places = append(places, name)
			}
		}
		slices.Sort(places)
		return places
	}
	for _, r := range records {
		want := map[string][]string{"header": {"later", "syn"}, "header, SYN only": {"syn"}, "prefix": {"prefix"}, "suffix": {"suffix"}, "stream": {"stream"}}[r.Variant]
		header := strings.HasPrefix(r.Variant, "header")
		switch {
		case r.Path == "strip unknown options" && header, r.Path == "drop SYNs with unknown options" && header, r.Path == "proxy":
			want = nil
		case r.Path == "strip unknown options from SYNs" && header:
			want = slices.DeleteFunc(want, func(s string) bool { return s == "syn" })
		case r.Path == "strip SYN data" && (r.Variant == "prefix" || r.Variant == "suffix"):
			want = nil
		}
		if got := seen(r); !slices.Equal(got, want) {
			t.Errorf("%s: seen in %v, want %v", r.Name(), got, want)
		}
	}
	for _, want := range []string{"40 cells in ", "proxy", "fell-back"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in:\n%s", want, stdout)
		}
	}
}

func TestRunSelected(t *testing.T) {
	_, h, records, _ := runOf(t, "own-option", "--variant", "prefix", "--variant", "stream", "--path", "clean", "--repetitions", "2", "--seed", "9", "--quiet")
	if len(records) != 4 || h.Seed != 9 || records[3].Seed != 10 || records[3].Repetition != 2 || len(h.Variants) != 2 || len(h.Paths) != 1 {
		t.Errorf("%+v, %d records", h, len(records))
	}
}

func TestRunErrors(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.toml")
	broken := filepath.Join(dir, "broken.toml")
	for name, text := range map[string]string{bad: "name = 'bad'\nx = 1\n", broken: "name = 'broken'\nlimit = '1s'\n[[path]]\nelements = ['dead:after-packets=8']\n[[workload]]\nkind='bulk'\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for says, args := range map[string][]string{
		"one FILE or NAME is needed":                   {},
		`there is no experiment "x" (ready`:            {"x"},
		"no such file":                                 {"./x.toml"},
		bad + ":2: x: unknown key":                     {bad},
		`has no "y" (there are: "plain", "tcpcrypt", `: {"latency", "--variant", "y"},
		"-1 repetitions: expected 1 to 1000":           {"latency", "--repetitions", "-1"},
		"0 repetitions: expected":                      {"latency", "--repetitions", "0"},
		"1000000000 repetitions":                       {"latency", "--repetitions", "1000000000"},
		"has 1530000 cells, at most 100000":            {"everything", "--repetitions", "1000"},
		`"tcpcrypt, resumed", "Inner`:                  {"latency", "--variant", "z"},
		"bad.toml: not a directory":                    {"latency", "-o", filepath.Join(bad, "out")},
		"a promise is broken in 3 cells":               {broken, "-o", filepath.Join(dir, "broken"), "--check", "--quiet"},
	} {
		if _, stderr, exit := command(t, append([]string{"run"}, args...)...); exit == exitGood || !strings.Contains(stderr, says) {
			t.Errorf("%v: exit %d, %q, should say %q", args, exit, stderr, says)
		}
	}
}

// Lines are in the file while the run goes on; what is interrupted leaves whole ones, an end and a report.
func TestRunInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	prefix := filepath.Join(t.TempDir(), "out")
	lines := func() []string {
		b, err := os.ReadFile(prefix + ".jsonl")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		return strings.SplitAfter(string(b), "\n")
	}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for len(lines()) < 5 && t.Context().Err() == nil {
			time.Sleep(time.Millisecond) // counts as rest for the run's clock
		}
		cancel()
	}()
	exit := Command(ctx, []string{"run", "everything", "-o", prefix, "--quiet"}, io.Discard, io.Discard)
	<-watched
	var end experiment.Trailer
	all := lines()
	if err := json.Unmarshal([]byte(all[len(all)-2]), &end); err != nil || exit != exitGood {
		t.Fatalf("exit %d, %v", exit, err)
	}
	if end.Record != "end" || end.Complete || end.Cells != len(all)-3 || end.Cells < 3 {
		t.Errorf("%+v, %d lines", end, len(all)-1)
	}
	if b, err := os.ReadFile(prefix + ".html"); err != nil || !strings.Contains(string(b), "ended early") {
		t.Errorf("the report: %v", err)
	}
}
