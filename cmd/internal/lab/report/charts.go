package report

import (
	"fmt"
	"html/template"
	"math"
	"slices"
	"time"

	"innertun/cmd/internal/lab/cell"
	"innertun/cmd/internal/lab/experiment"
)

// chart is one figure of the page.
type chart struct {
	Title   string
	Caption string
	SVG     template.HTML
}

const (
	maxTrips  = 8 // round trips shown; what takes longer was waiting for a time-out
	rowHeight = 30
)

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// tripsOf counts the round trips to the first octet of the reply: of first connections, and of those that know of an
// earlier one.
func tripsOf(records []experiment.Record, variant string) (first, later []float64) {
	for _, r := range records {
		if r.Variant != variant {
			continue
		}
		for i, c := range r.Result.Connections {
			switch {
			case c.FirstReply == 0:
			case i == 0:
				first = append(first, c.RoundTrips)
			default:
				later = append(later, c.RoundTrips)
			}
		}
	}
	slices.Sort(first)
	slices.Sort(later)
	return first, later
}

// roundTrips draws, for each variant, how many connections took how many round trips.
func (in *input) roundTrips() (c chart, ok bool) {
	highest := 0.0
	for _, v := range in.Header.Variants {
		first, later := tripsOf(in.Records, v)
		for _, t := range slices.Concat(first, later) {
			highest, ok = max(highest, min(t, maxTrips)), true
		}
	}
	if !ok {
		return c, false
	}
	n := len(in.Header.Variants)
	p := newPlot(n*rowHeight, linear(math.Ceil(highest)), scale{high: float64(n)}, "round trips until the first octet of the reply", "")
	p.left = in.labelWidth()
	p.grid(func(v float64) string {
		if v == maxTrips {
			return "≥ " + number(v)
		}
		return number(v)
	}, nil)
	for i, v := range in.Header.Variants {
		y := plotTop + (float64(i)+0.5)*rowHeight
		p.text(float64(p.left-10), y+4, "end", v)
		fmt.Fprintf(&p.b, `<path class="grid" d="M%d %.1fH%d"/>`, p.left, y, plotWidth-plotRight)
		first, later := tripsOf(in.Records, v)
		p.bubbles(0, y-5, first, v+", first connection")
		p.bubbles(1, y+5, later, v+", later connections")
	}
	p.legend([]string{"first connection", "later ones, which know the destination"}, []int{0, 1})
	return chart{"Round trips", "The connection's own handshake is in it. Larger marks stand for more connections.", p.svg("Round trips until the first reply, by variant")}, true
}

// bubbles draws one mark for each value, larger where there are more.
func (p *plot) bubbles(style int, y float64, values []float64, title string) {
	counts := map[float64]int{}
	var places []float64
	for _, v := range values {
		v = math.Round(min(v, maxTrips)*20) / 20
		if counts[v] == 0 {
			places = append(places, v)
		}
		counts[v]++
	}
	for _, v := range places {
		r := 2.2 + 4.3*math.Sqrt(float64(counts[v])/float64(len(values)))
		fmt.Fprintf(&p.b, `<g class="s%d"><title>%s: %d of %d in %s round trips</title>%s</g>`, style, template.HTMLEscapeString(title), counts[v], len(values), number(v), mark(style, p.px(v), y, r))
	}
}

// labelWidth is what the names of variants need at the left.
func (in *input) labelWidth() int {
	longest := 0
	for _, v := range in.Header.Variants {
		longest = max(longest, len([]rune(v)))
	}
	return 24 + int(charWidth*float64(longest))
}

// completion draws the distribution of completion times, one chart for each workload.
func (in *input) completion() (all []chart) {
	for _, w := range in.Header.Workloads {
		low, high := math.Inf(1), 0.0
		curves := make([][]point, len(in.Header.Variants))
		for i, v := range in.Header.Variants {
			var times []float64
			total := 0
			for _, r := range in.Records {
				if r.Variant != v || r.Workload != w {
					continue
				}
				for _, c := range r.Result.Connections {
					total++
					if c.Completion > 0 && c.Outcome != cell.Garbled {
						times = append(times, ms(c.Completion))
					}
				}
			}
			slices.Sort(times)
			for n, t := range times {
				low, high = min(low, t), max(high, t)
				curves[i] = append(curves[i], point{t, float64(n+1) / float64(total)})
			}
		}
		if high == 0 {
			continue
		}
		p := newPlot(260, logarithmic(low*0.95, high*1.05), linear(1), "time until the end of the stream, ms", "share of connections")
		p.grid(number, percent)
		styles := make([]int, len(curves))
		for i, curve := range curves {
			styles[i] = i
			p.steps(i, curve, in.Header.Variants[i])
		}
		p.legend(in.Header.Variants, styles)
		all = append(all, chart{"Completion times: " + w, "What breaks never completes: its curve ends below 100 %.", p.svg("Distribution of completion times, " + w)})
	}
	return all
}

func percent(v float64) string { return number(math.Round(v*100)) + " %" }

// throughput draws megabits per second against loss for each RTT, or against RTT if only that varies.
func (in *input) throughput() (all []chart) {
	rtts, losses := in.distinct(func(r experiment.Record) float64 { return r.RTTms }), in.distinct(func(r experiment.Record) float64 { return r.Loss })
	for _, w := range in.Header.Workloads {
		if !in.isBulk(w) {
			continue
		}
		if len(losses) > 1 {
			for _, rtt := range rtts {
				of := func(r experiment.Record) bool { return r.Workload == w && r.RTTms == rtt }
				if c, ok := in.rates(of, func(r experiment.Record) float64 { return r.Loss * 100 }, "loss each way, %"); ok {
					c.Title = fmt.Sprintf("Throughput against loss: %s, RTT %s ms", w, number(rtt))
					all = append(all, c)
				}
			}
		}
		if len(rtts) > 1 {
			for _, loss := range losses {
				of := func(r experiment.Record) bool { return r.Workload == w && r.Loss == loss }
				if c, ok := in.rates(of, func(r experiment.Record) float64 { return r.RTTms }, "round-trip time, ms"); ok {
					c.Title = fmt.Sprintf("Throughput against RTT: %s, loss %s %%", w, number(loss*100))
					all = append(all, c)
				}
			}
		}
	}
	return all
}

func (in *input) distinct(of func(experiment.Record) float64) (all []float64) {
	for _, r := range in.Records {
		if v := of(r); !slices.Contains(all, v) {
			all = append(all, v)
		}
	}
	slices.Sort(all)
	return all
}

const bulkOctets = 100_000 // below, a connection's time is its handshake's

func (in *input) isBulk(workload string) bool {
	return slices.ContainsFunc(in.Records, func(r experiment.Record) bool {
		return r.Workload == workload && slices.ContainsFunc(r.Result.Connections, func(c cell.Connection) bool { return max(c.Sent, c.Received) >= bulkOctets })
	})
}

func (in *input) rates(of func(experiment.Record) bool, x func(experiment.Record) float64, xTitle string) (c chart, ok bool) {
	curves := make([][]point, len(in.Header.Variants))
	low, high, right := math.Inf(1), 0.0, 0.0
	for i, v := range in.Header.Variants {
		values := map[float64][]float64{}
		for _, r := range in.Records {
			if r.Variant != v || !of(r) {
				continue
			}
			for _, c := range r.Result.Connections {
				if c.Completion > 0 {
					values[x(r)] = append(values[x(r)], 8*float64(max(c.Sent, c.Received))/1e6/c.Completion.Seconds())
				}
			}
		}
		for at, v := range values {
			m := median(v)
			low, high, right = min(low, m), max(high, m), max(right, at)
			curves[i] = append(curves[i], point{at, m})
		}
		slices.SortFunc(curves[i], func(a, b point) int { return int(math.Copysign(1, a.x-b.x)) })
	}
	if high == 0 {
		return c, false
	}
	p := newPlot(240, linear(right), logarithmic(low*0.95, high*1.05), xTitle, "Mbit/s")
	p.grid(number, number)
	styles := make([]int, len(curves))
	for i, curve := range curves {
		styles[i] = i
		p.line(i, curve, in.Header.Variants[i])
	}
	p.legend(in.Header.Variants, styles)
	return chart{Caption: "Medians of connections that completed, from the first SYN to the end of the stream.", SVG: p.svg("Throughput against " + xTitle)}, true
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	values = slices.Sorted(slices.Values(values))
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}
