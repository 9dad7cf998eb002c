// Package report makes one self-contained HTML page of an experiment's results: no scripts, nothing from elsewhere, for
// screens of either brightness and for paper.
package report

import (
	_ "embed"
	"html/template"
	"io"
	"strings"

	"innertun/cmd/internal/lab/cell"
	"innertun/cmd/internal/lab/experiment"
)

//go:embed report.html
var page string

//go:embed report.css
var style string

// input is what a page is made of.
type input struct {
	Header  experiment.Header
	Records []experiment.Record
	Trailer experiment.Trailer
}

// total is a number at the top of the page.
type total struct {
	sign
	N int
}

// view is what the template shows.
type view struct {
	*input
	Style         template.CSS
	Totals        []total
	Signs         []sign
	Broken        int
	Excused       int
	Matrix        []matrixRow
	Charts        []chart
	Causes        []cause
	Trips         []tripRow
	OptionColumns [4]string
	Options       []optionRow
}

// tripRow is the medians of a variant.
type tripRow struct {
	Variant               string
	First, Later          string
	Completion, Completed string
}

// Write writes the page.
func Write(w io.Writer, h experiment.Header, records []experiment.Record, t experiment.Trailer) error {
	in := &input{h, records, t}
	v := view{input: in, Style: template.CSS(style), Broken: t.Verdicts[experiment.Broken], Excused: t.Verdicts[experiment.Excused],
		Matrix: in.matrix(), Causes: in.causes(), Trips: in.trips(), OptionColumns: optionColumns, Options: in.options()}
	for _, o := range cell.Outcomes() {
		v.Signs = append(v.Signs, signs[o])
		if n := t.Outcomes[o]; n > 0 {
			v.Totals = append(v.Totals, total{signs[o], n})
		}
	}
	if c, ok := in.roundTrips(); ok {
		v.Charts = append(v.Charts, c)
	}
	v.Charts = append(v.Charts, in.completion()...)
	v.Charts = append(v.Charts, in.throughput()...)
	parsed, err := template.New("report").Funcs(template.FuncMap{"join": strings.Join}).Parse(page)
	if err != nil {
		return err
	}
	return parsed.Execute(w, v)
}

// trips lists medians.
func (in *input) trips() (rows []tripRow) {
	show := func(values []float64) string {
		if len(values) == 0 {
			return "–"
		}
		return number(median(values))
	}
	for _, v := range in.Header.Variants {
		first, later := tripsOf(in.Records, v)
		var times []float64
		all := 0
		for _, r := range in.Records {
			if r.Variant != v {
				continue
			}
			for _, c := range r.Result.Connections {
				all++
				if c.Completion > 0 {
					times = append(times, ms(c.Completion))
				}
			}
		}
		completed := "–"
		if all > 0 {
			completed = percent(float64(len(times)) / float64(all))
		}
		rows = append(rows, tripRow{v, show(first), show(later), show(times), completed})
	}
	return rows
}
