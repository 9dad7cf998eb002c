package report

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"innertun/cmd/internal/lab/cell"
	"innertun/cmd/internal/lab/experiment"
)

// sign is how an outcome is shown: never by colour alone.
type sign struct {
	Class, Mark, Word, Text string
}

var signs = map[cell.Outcome]sign{
	cell.Encrypted: {"encrypted", "●", "encrypted", "works, encrypted"},
	cell.PlainTCP:  {"plain", "○", "plain", "works, plain as the variant is"},
	cell.FellBack:  {"fellback", "◐", "fell back", "works, plain though encryption was offered"},
	cell.Broke:     {"broke", "✕", "broke", "ended in an error"},
	cell.Hung:      {"hung", "∞", "hung", "neither octets nor an error"},
	cell.Garbled:   {"garbled", "≠", "garbled", "octets arrived that were not sent"},
}

// matrixRow is a path.
type matrixRow struct {
	Path  experiment.PathRow
	Cells []matrixCell
}

// matrixCell is a variant over a path.
type matrixCell struct {
	sign
	None    bool   // nothing was run
	Some    string // "2 of 3" if the outcome is not all cells'; how many connections came up by an echo cookie
	Broken  bool   // a promise
	Excused bool
	Hover   string
}

func (in *input) matrix() (rows []matrixRow) {
	for _, p := range in.Header.Paths {
		row := matrixRow{Path: p}
		for _, v := range in.Header.Variants {
			row.Cells = append(row.Cells, sumUp(in.at(v, p.Name)))
		}
		rows = append(rows, row)
	}
	return rows
}

func (in *input) at(variant, path string) (all []experiment.Record) {
	for _, r := range in.Records {
		if r.Variant == variant && r.Path == path {
			all = append(all, r)
		}
	}
	return all
}

func sumUp(records []experiment.Record) matrixCell {
	if len(records) == 0 {
		return matrixCell{None: true}
	}
	order := cell.Outcomes()
	worst := slices.MaxFunc(records, func(a, b experiment.Record) int {
		return slices.Index(order, a.Result.Outcome) - slices.Index(order, b.Result.Outcome)
	}).Result.Outcome
	c := matrixCell{sign: signs[worst]}
	same := 0
	var lines []string
	for _, r := range records {
		if r.Result.Outcome == worst {
			same++
		}
		c.Broken = c.Broken || r.Verdict == experiment.Broken
		c.Excused = c.Excused || r.Verdict == experiment.Excused
		line := r.Workload + ": " + signs[r.Result.Outcome].Word
		if why := reason(r); why != "" {
			line += " (" + why + ")"
		}
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	if same < len(records) {
		c.Some = fmt.Sprintf("%d of %d", same, len(records))
	}
	if n, all := byCookie(records); n > 0 {
		c.Some = strings.TrimPrefix(fmt.Sprintf("%s, %d of %d by cookie", c.Some, n, all), ", ")
	}
	c.Hover = strings.Join(lines, "\n")
	return c
}

// byCookie counts the encrypted connections whose opening the server did not keep.
func byCookie(records []experiment.Record) (n, all int) {
	for _, r := range records {
		for _, c := range r.Result.Connections {
			all++
			if c.Encrypted && c.Cookie {
				n++
			}
		}
	}
	return n, all
}

// addresses are what differs from one run to the next in an error's text.
var addresses = regexp.MustCompile(`(dial|read|write)? ?tcp [^ ]*->[^ ]*: (dial|read|write): `)

// reason says in a few words why a cell came out as it did.
func reason(r experiment.Record) string {
	why := r.Result.Reason
	if r.Result.Error != "" {
		text := addresses.ReplaceAllString(r.Result.Error, "")
		if why != "" {
			text = why + "; " + text
		}
		why = text
	}
	if r.Result.Class != "" && r.Result.Error == "" {
		why = strings.TrimPrefix(why+", "+r.Result.Class, ", ")
	}
	return why
}

// cause is a row of the table that says why.
type cause struct {
	Path     string
	Variants string
	sign
	Reason  string
	Finding string // of a promise that is broken
	Why     string // that it has to be so
	Broken  bool
}

// causes lists what fell back, broke or worse, those alike in one row.
func (in *input) causes() (all []cause) {
	type key struct {
		path, reason, finding, why string
		outcome                    cell.Outcome
	}
	var order []key
	variants := map[key][]string{}
	broken := map[key]bool{}
	for _, r := range in.Records {
		if r.Result.Outcome == cell.Encrypted && r.Finding == "" || r.Result.Outcome == cell.PlainTCP && r.Finding == "" {
			continue
		}
		k := key{r.Path, reason(r), r.Finding, r.Why, r.Result.Outcome}
		if variants[k] == nil {
			order = append(order, k)
		}
		if !slices.Contains(variants[k], r.Variant) {
			variants[k] = append(variants[k], r.Variant)
		}
		broken[k] = broken[k] || r.Verdict == experiment.Broken
	}
	for _, k := range order {
		all = append(all, cause{k.path, strings.Join(variants[k], "; "), signs[k.outcome], k.reason, k.finding, k.why, broken[k]})
	}
	return all
}
