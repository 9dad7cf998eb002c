package experiment

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"innertun/cmd/internal/config"
	"innertun/cmd/internal/lab/cell"
	"innertun/integration/lab/elements"
)

const (
	maxRepetitions = 1000
	maxCells       = 100_000
	maxRoom        = 1 << 20
	maxPauses      = 10_000 * time.Hour
)

// Parse reads an experiment. The file's name is for errors, which name key and line: each is a *config.Error.
func Parse(file, text string) (Experiment, error) {
	t, err := config.ParseTable(file, text)
	if err != nil {
		return Experiment{}, err
	}
	r := &reader{}
	e := r.experiment(t)
	t.Done()
	return e, t.Err()
}

// reader has a method for each kind of table.
type reader struct{}

var word = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]*$`)

func (r *reader) experiment(t config.Table) Experiment {
	e := Experiment{MTU: 1500, Repetitions: 1, Seed: 1}
	t.String("name", &e.Name)
	if !word.MatchString(e.Name) {
		t.Fail("name", `expected a word of a-z, 0-9, "-" and "." that names the files of results`)
	}
	e.Title = e.Name
	t.String("title", &e.Title)
	t.String("summary", &e.Summary)
	e.Summary = strings.Join(strings.Fields(e.Summary), " ")
	number(t, "repetitions", 1, maxRepetitions, &e.Repetitions)
	number(t, "mtu", 1280, 65535, &e.MTU)
	seed := 1
	number(t, "seed", 0, math.MaxInt64, &seed)
	e.Seed = uint64(seed)
	duration(t, "limit", &e.Limit)
	e.RTTs = durations(t, "rtt")
	e.Loss = probabilities(t, "loss")
	e.IPv6 = versions(t, "ip")

	if s, ok := t.Table("server"); ok {
		number(s, "max-flows", 1, maxRoom, &e.Room.Flows)
		number(s, "max-half-open", 1, maxRoom, &e.Room.HalfOpen)
		s.Done()
	}
	for _, s := range t.Tables("variant") {
		e.Variants = append(e.Variants, r.variant(s))
	}
	if len(e.Variants) == 0 {
		e.Variants = []cell.Variant{cell.Plain(), cell.Opportunistic(), cell.Require()}
	}
	for _, s := range t.Tables("path") {
		e.Paths = append(e.Paths, r.path(s))
	}
	each := false
	if t.Bool("every-element", &each); each {
		e.Paths = append(e.Paths, examples()...)
	}
	if len(e.Paths) == 0 {
		e.Paths = []Path{{Name: "clean"}}
	}
	for _, s := range t.Tables("workload") {
		e.Workloads = append(e.Workloads, r.workload(s))
	}
	if len(e.Workloads) == 0 {
		e.Workloads = []cell.Workload{cell.RequestReply()}
	}
	for _, s := range t.Tables("must") {
		e.Must = append(e.Must, r.must(s, e))
	}
	unique(t, "variant", e.variantNames())
	unique(t, "path", e.pathNames())
	unique(t, "workload", e.workloadNames())
	for i, w := range e.Workloads {
		if e.Limit > 0 && e.Limit <= w.Pauses() {
			t.Fail("limit", "%s is over before workload[%d], whose pauses take %s", e.Limit, i, w.Pauses())
		}
	}
	if n := e.cells(); n > maxCells {
		t.Fail("repetitions", "the experiment has %d cells, at most %d", n, maxCells)
	}
	return e
}

func unique(t config.Table, what string, names []string) {
	for i, n := range names {
		if slices.Contains(names[:i], n) {
			t.Fail(fmt.Sprintf("%s[%d].name", what, i), "%q is there twice", n)
		}
	}
}

// examples is one path for each kind of element.
func examples() (all []Path) {
	for _, k := range elements.Kinds() {
		s, err := elements.ParseSpec(k.Example)
		if err != nil {
			panic(fmt.Sprintf("the example of %s: %v", k.Name, err)) // a test looks at them all
		}
		all = append(all, Path{Name: s.String(), Note: k.Summary, Elements: []elements.Spec{s}})
	}
	return all
}

func (r *reader) path(t config.Table) Path {
	defer t.Done()
	var p Path
	t.String("name", &p.Name)
	t.String("note", &p.Note)
	for i, v := range t.Values("elements") {
		key := fmt.Sprintf("elements[%d]", i)
		var s elements.Spec
		var err error
		switch v := v.(type) {
		case string:
			s, err = elements.ParseSpec(v)
		case map[string]any:
			s, err = elements.SpecOf(v)
		default:
			err = fmt.Errorf(`%v is neither { element = "NAME", ... } nor "NAME:KEY=VALUE,..."`, v)
		}
		if err == nil {
			err = elements.Check(s)
		}
		if err != nil {
			t.Fail(key, "%v", err)
			continue
		}
		p.Elements = append(p.Elements, s)
	}
	if p.Name == "" {
		p.Name = strings.Join(p.texts(), " ")
	}
	if p.Name == "" {
		p.Name = "clean"
	}
	return p
}

// workloads are the defaults of each kind.
var workloads = map[string]cell.Workload{
	"request-reply": cell.RequestReply(),
	"bulk":          cell.Bulk(1 << 20),
	"download":      cell.Download(1 << 20),
	"idle":          cell.IdleThenRequest(20 * time.Minute),
}

func (r *reader) workload(t config.Table) cell.Workload {
	defer t.Done()
	kind := "request-reply"
	t.String("kind", &kind)
	w, ok := workloads[kind]
	if !ok {
		t.Fail("kind", "there is no workload %q (known: bulk, download, idle, request-reply)", kind)
	}
	t.String("name", &w.Name)
	octets(t, "up", &w.Up)
	octets(t, "down", &w.Down)
	number(t, "rounds", 1, 1_000_000, &w.Rounds)
	number(t, "connections", 1, 1000, &w.Connections)
	duration(t, "idle", &w.Idle)
	duration(t, "pause", &w.Pause)
	if float64(max(w.Rounds, 1)*max(w.Connections, 1))*float64(w.Idle+w.Pause) > float64(maxPauses) {
		t.Fail("idle", "the pauses take more than %s in all", maxPauses)
	}
	return w
}

func (r *reader) must(t config.Table, e Experiment) Must {
	defer t.Done()
	var m Must
	names := func(key string, known []string, to *[]string) {
		for i, v := range t.Values(key) {
			s, ok := v.(string)
			if !ok || !slices.Contains(known, s) {
				t.Fail(fmt.Sprintf("%s[%d]", key, i), "%v is not among %s", v, strings.Join(known, ", "))
				continue
			}
			*to = append(*to, s)
		}
	}
	names("path", e.pathNames(), &m.Paths)
	names("variant", e.variantNames(), &m.Variants)
	names("workload", e.workloadNames(), &m.Workloads)
	outcome := ""
	t.String("outcome", &outcome)
	m.Outcome = cell.Outcome(outcome)
	if !slices.Contains(cell.Outcomes(), m.Outcome) {
		t.Fail("outcome", "%q is none (known: %s)", outcome, strings.Join(outcomeNames(), ", "))
	}
	t.String("why", &m.Why)
	if m.Why == "" {
		t.Fail("why", "say why this has to be so")
	}
	return m
}

func outcomeNames() (names []string) {
	for _, o := range cell.Outcomes() {
		names = append(names, string(o))
	}
	return names
}

func number(t config.Table, name string, low, high int64, to *int) {
	n := int64(*to)
	t.Int(name, low, high, &n)
	*to = int(n)
}

// octets is a number, or one with KiB, MiB or GiB.
func octets(t config.Table, name string, to *int) {
	v, ok := t.Value(name)
	if !ok {
		return
	}
	factor := int64(1)
	n, isNumber := v.(int64)
	if s, isText := v.(string); isText {
		for unit, f := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
			if rest, ok := strings.CutSuffix(s, unit); ok {
				s, factor = strings.TrimSpace(rest), f
				break
			}
		}
		var err error
		n, err = strconv.ParseInt(s, 10, 64)
		isNumber = err == nil
	}
	if !isNumber || n < 1 || n > (1<<30)/factor {
		t.Fail(name, `%v: expected octets from 1 to 1GiB, as 200 or "64KiB"`, v)
		return
	}
	*to = int(n * factor)
}

func parseDuration(v any) (time.Duration, error) {
	s, _ := v.(string)
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf(`%v: expected a time, as "20ms" or "1.5s"`, v)
	}
	return d, nil
}

func duration(t config.Table, name string, to *time.Duration) {
	if v, ok := t.Value(name); ok {
		d, err := parseDuration(v)
		if err != nil {
			t.Fail(name, "%v", err)
		}
		*to = d
	}
}

func durations(t config.Table, name string) (all []time.Duration) {
	for i, v := range t.Values(name) {
		d, err := parseDuration(v)
		if err == nil && d == 0 {
			err = fmt.Errorf("0 is no round-trip time")
		}
		if err != nil {
			t.Fail(fmt.Sprintf("%s[%d]", name, i), "%v", err)
			continue
		}
		all = append(all, d)
	}
	if len(all) == 0 {
		all = []time.Duration{cell.DefaultRTT}
	}
	return all
}

func probabilities(t config.Table, name string) (all []float64) {
	for i, v := range t.Values(name) {
		f, ok := v.(float64)
		if n, whole := v.(int64); whole {
			f, ok = float64(n), true
		}
		if !ok || f < 0 || f >= 1 {
			t.Fail(fmt.Sprintf("%s[%d]", name, i), "%v: expected a probability from 0 to below 1", v)
			continue
		}
		all = append(all, f)
	}
	if len(all) == 0 {
		all = []float64{0}
	}
	return all
}

func versions(t config.Table, name string) (all []bool) {
	for i, v := range t.Values(name) {
		n, ok := v.(int64)
		if !ok || n != 4 && n != 6 {
			t.Fail(fmt.Sprintf("%s[%d]", name, i), "%v: expected 4 or 6", v)
			continue
		}
		all = append(all, n == 6)
	}
	if len(all) == 0 {
		all = []bool{false}
	}
	return all
}
