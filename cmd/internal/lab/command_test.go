package lab

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"innertun/cmd/internal/lab/experiment"
	"innertun/integration/lab/elements"
)

func command(t *testing.T, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	var out, err bytes.Buffer
	exit = Command(t.Context(), args, &out, &err)
	for line := range strings.Lines(out.String()) {
		if len(line) > 150 && !strings.Contains(line, "{") {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
	return out.String(), err.String(), exit
}

func TestList(t *testing.T) {
	out, _, exit := command(t, "list")
	for _, k := range elements.Kinds() {
		if !strings.Contains(out, "\n  "+k.Name+" ") || !strings.Contains(out, k.Summary+"\n") {
			t.Errorf("%s is not listed", k.Name)
		}
	}
	if exit != exitGood {
		t.Errorf("exit %d", exit)
	}
	out, _, exit = command(t, "list", "strip-options")
	for _, want := range []string{"(syn | non-syn | all; default all)", "(option kinds; default unknown)", "example: strip-options:kinds=69,from=syn"} {
		if !strings.Contains(out, want) || exit != exitGood {
			t.Errorf("no %q in %s", want, out)
		}
	}
	if out, _, _ := command(t, "list", "loss"); !strings.Contains(out, "(probability; required)") {
		t.Error(out)
	}
}

func TestListJSON(t *testing.T) {
	out, _, _ := command(t, "list", "--json")
	n := 0
	for line := range strings.Lines(out) {
		var d description
		err := json.Unmarshal([]byte(line), &d)
		if err != nil || d.Name == "" || d.Is != "experiment" && (d.Is != "element" || len(d.Params) < 2) {
			t.Errorf("%v: %s", err, line)
		}
		n++
	}
	if n != len(experiment.Names())+len(elements.Kinds()) {
		t.Errorf("%d lines", n)
	}
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args string
		exit int
		out  string // in standard output if the exit status is 0, else in standard error
	}{
		{"", exitUsage, "usage: innertun lab COMMAND"},
		{"-h", exitGood, "  path "},
		{"lsit", exitUsage, `there is no "lsit"`},
		{"list -h", exitGood, "usage: innertun lab list [--json] [NAME]"},
		{"path -h", exitGood, "example: innertun lab path -a tunA -b tunB"},
		{"list a b", exitUsage, `unexpected argument "b"`},
		{"list nothing", exitFail, "there is no such element"},
		{"list -x", exitUsage, "not defined: -x"},
		{"path delay:time=1s", exitUsage, "-a and -b name"},
		{"path -a x -b x", exitFail, "expected two interfaces"},
		{"path -a x -b y delay", exitUsage, "time is missing"},
		{"path -a x -b y :", exitUsage, "no such element"},
		{"path -a lo -b y", exitFail, "expected two TUN devices, or two other interfaces"},
	} {
		out, errs, exit := command(t, strings.Fields(c.args)...)
		text := errs
		if c.exit == exitGood {
			text = out
		}
		if exit != c.exit || !strings.Contains(text, c.out) {
			t.Errorf("%q: exit %d, %q, want %d, %q", c.args, exit, text, c.exit, c.out)
		}
	}
}
