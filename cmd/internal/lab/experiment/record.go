package experiment

import (
	"fmt"
	"slices"
	"time"

	"innertun/cmd/internal/lab/cell"
	"innertun/tcpinc"
)

// Verdict says how a cell stands to what the project promises: that no cell hangs, garbles, or delivers plaintext where
// encryption is required, and that opportunistic encryption works wherever plain TCP does.
type Verdict string

const (
	Kept    Verdict = "kept"
	Excused Verdict = "excused" // it has to be as it is: Record.Why
	Broken  Verdict = "broken"
)

// Record is what came of one cell. Its JSON names are those of the lines in a file of results.
type Record struct {
	Record     string   `json:"record"` // "cell"
	Index      int      `json:"index"`
	Variant    string   `json:"variant"`
	Policy     string   `json:"policy"` // the client's
	Path       string   `json:"path"`
	Elements   []string `json:"elements"`
	Workload   string   `json:"workload"`
	RTTms      float64  `json:"rtt_ms"`
	Loss       float64  `json:"loss"`
	IP         int      `json:"ip"`
	Repetition int      `json:"repetition"`
	Seed       uint64   `json:"seed"`
	Verdict    Verdict  `json:"verdict"`
	Finding    string   `json:"finding,omitempty"` // which promise is broken
	Why        string   `json:"why,omitempty"`     // why that must be so

	Result cell.Result `json:"result"`
}

// Header is the first line of a file of results.
type Header struct {
	Record      string    `json:"record"` // "experiment"
	Name        string    `json:"name"`
	Title       string    `json:"title"`
	Summary     string    `json:"summary"`
	Version     string    `json:"version"`
	Began       time.Time `json:"began"`
	Variants    []string  `json:"variants"`
	Paths       []PathRow `json:"paths"`
	Workloads   []string  `json:"workloads"`
	Repetitions int       `json:"repetitions"`
	Seed        uint64    `json:"seed"`
	Cells       int       `json:"cells"`
}

// PathRow is a path in the header.
type PathRow struct {
	Name     string   `json:"name"`
	Note     string   `json:"note,omitempty"`
	Elements []string `json:"elements"`
}

// Trailer is the last line of a file of results.
type Trailer struct {
	Record   string               `json:"record"` // "end"
	Cells    int                  `json:"cells"`
	Complete bool                 `json:"complete"`
	Outcomes map[cell.Outcome]int `json:"outcomes"`
	Verdicts map[Verdict]int      `json:"verdicts"`
	WallMS   int64                `json:"wall_ms"`
}

// Header describes the experiment as it is run.
func (e Experiment) Header(version string, began time.Time) Header {
	h := Header{Record: "experiment", Name: e.Name, Title: e.Title, Summary: e.Summary, Version: version, Began: began.UTC(),
		Variants: e.variantNames(), Workloads: e.workloadNames(), Repetitions: e.Repetitions, Seed: e.Seed, Cells: len(e.Jobs())}
	for _, p := range e.Paths {
		h.Paths = append(h.Paths, PathRow{p.Name, p.Note, p.texts()})
	}
	return h
}

func (p Path) texts() []string {
	all := []string{}
	for _, s := range p.Elements {
		all = append(all, s.String())
	}
	return all
}

func (j Job) record(r cell.Result) Record {
	ip := 4
	if j.IPv6 {
		ip = 6
	}
	return Record{Record: "cell", Index: j.Index, Variant: j.Variant.Name, Policy: j.Variant.Client.Policy.String(),
		Path: j.Path.Name, Elements: j.Path.texts(), Workload: j.Workload.Name,
		RTTms: float64(j.RTT) / float64(time.Millisecond), Loss: j.Loss, IP: ip, Repetition: j.Repetition, Seed: j.Seed, Result: r}
}

// twin tells the cells that differ in the variant only.
type twin struct {
	path, workload string
	rtt, loss      float64
	ip, repetition int
}

func (r Record) twin() twin {
	return twin{r.Path, r.Workload, r.RTTms, r.Loss, r.IP, r.Repetition}
}

func works(o cell.Outcome) bool {
	return o == cell.Encrypted || o == cell.PlainTCP || o == cell.FellBack
}

// judge looks at the cells that differ in the variant only, and gives each its verdict.
func (e Experiment) judge(twins []Record) {
	plainWorks := slices.ContainsFunc(twins, func(r Record) bool {
		return r.Policy == tcpinc.Off.String() && works(r.Result.Outcome)
	})
	for i := range twins {
		r := &twins[i]
		r.Verdict, r.Finding = Kept, finding(*r, plainWorks)
		if r.Finding == "" {
			continue
		}
		r.Verdict = Broken
		for _, m := range e.Must { // a leak is never excused
			if m.covers(*r) && !r.Result.Leaked {
				r.Verdict, r.Why = Excused, m.Why
				break
			}
		}
	}
}

// finding returns which promise a cell breaks, "" if none.
func finding(r Record, plainWorks bool) string {
	out := r.Result.Outcome
	switch {
	case r.Result.Leaked:
		return "plaintext on the path although encryption is required"
	case r.Policy == tcpinc.Require.String() && works(out) && out != cell.Encrypted:
		return "not encrypted although that is required"
	case out == cell.Garbled:
		return "octets arrived that were not sent"
	case out == cell.Hung:
		return "hangs: neither octets nor an error"
	case r.Result.ServerHung:
		return "the server's end hangs"
	case out == cell.Broke && r.Policy == tcpinc.Opportunistic.String() && plainWorks:
		return "breaks where plain TCP works"
	}
	return ""
}

func (m Must) covers(r Record) bool {
	in := func(names []string, name string) bool { return len(names) == 0 || slices.Contains(names, name) }
	return in(m.Paths, r.Path) && in(m.Variants, r.Variant) && in(m.Workloads, r.Workload) && m.Outcome == r.Result.Outcome
}

// Summary sums up records.
func Summary(records []Record, complete bool, took time.Duration) Trailer {
	t := Trailer{Record: "end", Cells: len(records), Complete: complete, Outcomes: map[cell.Outcome]int{}, Verdicts: map[Verdict]int{}, WallMS: took.Milliseconds()}
	for _, r := range records {
		t.Outcomes[r.Result.Outcome]++
		t.Verdicts[r.Verdict]++
	}
	return t
}

// Name tells a record's cell among the others.
func (r Record) Name() string {
	s := fmt.Sprintf("%s over %q, %s", r.Variant, r.Path, r.Workload)
	if r.Loss > 0 {
		s += fmt.Sprintf(", loss %g", r.Loss)
	}
	return fmt.Sprintf("%s, RTT %g ms, IPv%d, repetition %d", s, r.RTTms, r.IP, r.Repetition)
}
