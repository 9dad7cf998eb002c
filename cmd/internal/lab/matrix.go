package lab

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"innertun/cmd/internal/lab/cell"
	"innertun/cmd/internal/lab/experiment"
)

const widestPath = 48 // columns for a path's name

// printMatrix shows what came of each variant over each path: the worst of its cells, with a mark if a promise is broken.
func printMatrix(w io.Writer, h experiment.Header, records []experiment.Record) {
	type at struct{ variant, path string }
	cells := map[at][]experiment.Record{}
	for _, r := range records {
		cells[at{r.Variant, r.Path}] = append(cells[at{r.Variant, r.Path}], r)
	}
	width := 4
	for _, p := range h.Paths {
		width = max(width, min(len(p.Name), widestPath))
	}
	fmt.Fprintf(w, "%-*s", width, "path")
	for _, v := range h.Variants {
		fmt.Fprintf(w, "  %-*s", column(v), v)
	}
	fmt.Fprintln(w)
	for _, p := range h.Paths {
		name := p.Name
		if len(name) > widestPath {
			name = name[:widestPath-3] + "..."
		}
		fmt.Fprintf(w, "%-*s", width, name)
		for _, v := range h.Variants {
			fmt.Fprintf(w, "  %-*s", column(v), worst(cells[at{v, p.Name}]))
		}
		fmt.Fprintln(w)
	}
}

func column(variant string) int { return max(len(variant), len("encrypted")+1) }

// worst sums up cells: the worst outcome, "!" if a promise is broken, "*" if that must be so.
func worst(records []experiment.Record) string {
	if len(records) == 0 {
		return "-"
	}
	all := cell.Outcomes()
	w := slices.MaxFunc(records, func(a, b experiment.Record) int {
		return slices.Index(all, a.Result.Outcome) - slices.Index(all, b.Result.Outcome)
	})
	text := string(w.Result.Outcome)
	switch {
	case slices.ContainsFunc(records, func(r experiment.Record) bool { return r.Verdict == experiment.Broken }):
		text += "!"
	case slices.ContainsFunc(records, func(r experiment.Record) bool { return r.Verdict == experiment.Excused }):
		text += "*"
	}
	return text
}

// printEnd sums the run up, and names the cells in which a promise is broken.
func printEnd(w io.Writer, t experiment.Trailer, records []experiment.Record) {
	var outcomes []string
	for _, o := range cell.Outcomes() {
		if n := t.Outcomes[o]; n > 0 {
			outcomes = append(outcomes, fmt.Sprintf("%d %s", n, o))
		}
	}
	fmt.Fprintf(w, "\n%d cells in %.1f s: %s\n", t.Cells, float64(t.WallMS)/1000, strings.Join(outcomes, ", "))
	for _, r := range records {
		if r.Verdict == experiment.Broken {
			fmt.Fprintf(w, "! %s: %s", r.Name(), r.Finding)
			if r.Result.Error != "" {
				fmt.Fprintf(w, " (%s)", r.Result.Error)
			}
			fmt.Fprintln(w)
		}
	}
	if n := t.Verdicts[experiment.Excused]; n > 0 {
		fmt.Fprintf(w, "* in %d cells it has to be so: see the report\n", n)
	}
	if !t.Complete {
		fmt.Fprintln(w, "ended before all cells were run")
	}
}
