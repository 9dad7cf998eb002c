package report

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strings"
)

// Sizes of a plot in its own units; the page scales it.
const (
	plotWidth   = 760
	plotLeft    = 64
	plotRight   = 16
	plotTop     = 14
	plotBottom  = 46
	legendLine  = 20
	legendLimit = plotWidth - plotLeft - plotRight
	charWidth   = 7.2 // of the labels' font, on the wide side
	series      = 9   // distinct styles: colour, dashes and mark
)

// plot is a chart as SVG.
type plot struct {
	b             strings.Builder
	height, inner int // inner: of the area between the axes
	x, y          scale
	xTitle        string
	yTitle        string
	left          int
}

func newPlot(inner int, x, y scale, xTitle, yTitle string) *plot {
	return &plot{height: inner + plotTop + plotBottom, inner: inner, x: x, y: y, xTitle: xTitle, yTitle: yTitle, left: plotLeft}
}

func (p *plot) px(v float64) float64 {
	return float64(p.left) + p.x.at(v)*float64(plotWidth-p.left-plotRight)
}

func (p *plot) py(v float64) float64 { return float64(plotTop) + (1-p.y.at(v))*float64(p.inner) }

// grid draws the axes, with a label at each tick.
func (p *plot) grid(xLabel, yLabel func(float64) string) {
	bottom := float64(plotTop + p.inner)
	for _, t := range p.x.ticks {
		fmt.Fprintf(&p.b, `<path class="grid" d="M%.1f %dV%.1f"/>`, p.px(t), plotTop, bottom)
		p.text(p.px(t), bottom+17, "middle", xLabel(t))
	}
	for _, t := range p.y.ticks {
		fmt.Fprintf(&p.b, `<path class="grid" d="M%d %.1fH%d"/>`, p.left, p.py(t), plotWidth-plotRight)
		if yLabel != nil {
			p.text(float64(p.left-8), p.py(t)+4, "end", yLabel(t))
		}
	}
	fmt.Fprintf(&p.b, `<path class="axis" d="M%d %dV%.1fH%d"/>`, p.left, plotTop, bottom, plotWidth-plotRight)
	p.text(float64(p.left+plotWidth-plotRight)/2, bottom+38, "middle", p.xTitle)
	if p.yTitle != "" {
		fmt.Fprintf(&p.b, `<text class="label" text-anchor="middle" transform="translate(14 %d) rotate(-90)">%s</text>`, plotTop+p.inner/2, html.EscapeString(p.yTitle))
	}
}

func (p *plot) text(x, y float64, anchor, text string) {
	fmt.Fprintf(&p.b, `<text class="label" x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, x, y, anchor, html.EscapeString(text))
}

type point struct{ x, y float64 }

// line draws points joined by straight lines, each with a mark.
func (p *plot) line(style int, points []point, title string) {
	var d strings.Builder
	for i, q := range points {
		fmt.Fprintf(&d, "%c%.1f %.1f", "ML"[min(i, 1)], p.px(q.x), p.py(q.y))
	}
	fmt.Fprintf(&p.b, `<g class="s%d"><title>%s</title><path class="line" d="%s"/>`, style%series, html.EscapeString(title), d.String())
	for _, q := range points {
		p.b.WriteString(mark(style, p.px(q.x), p.py(q.y), 4))
	}
	p.b.WriteString("</g>")
}

// steps draws a distribution: a step up at each point, level until the right edge.
func (p *plot) steps(style int, points []point, title string) {
	if len(points) == 0 {
		return
	}
	var d strings.Builder
	fmt.Fprintf(&d, "M%.1f %.1f", p.px(points[0].x), p.py(0))
	for _, q := range points {
		fmt.Fprintf(&d, "H%.1fV%.1f", p.px(q.x), p.py(q.y))
	}
	fmt.Fprintf(&d, "H%d", plotWidth-plotRight)
	fmt.Fprintf(&p.b, `<g class="s%d"><title>%s</title><path class="line" d="%s"/>`, style%series, html.EscapeString(title), d.String())
	// One mark in the middle, where lines without colours are to be told apart.
	m := points[len(points)/2]
	p.b.WriteString(mark(style, p.px(m.x), p.py(m.y), 4))
	p.b.WriteString("</g>")
}

// mark is the sign of a style.
func mark(style int, x, y, r float64) string {
	switch style % 5 {
	case 1:
		return fmt.Sprintf(`<rect class="mark" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`, x-r, y-r, 2*r, 2*r)
	case 2:
		return polygon(x, y, r*1.3, 3)
	case 3:
		return polygon(x, y, r*1.3, 4)
	case 4:
		return polygon(x, y, r*1.2, 5)
	}
	return fmt.Sprintf(`<circle class="mark" cx="%.1f" cy="%.1f" r="%.1f"/>`, x, y, r)
}

func polygon(x, y, r float64, corners int) string {
	var b strings.Builder
	for i := range corners {
		a := 2*math.Pi*float64(i)/float64(corners) - math.Pi/2
		fmt.Fprintf(&b, "%.1f,%.1f ", x+r*math.Cos(a), y+r*math.Sin(a))
	}
	return fmt.Sprintf(`<polygon class="mark" points="%s"/>`, strings.TrimSpace(b.String()))
}

// legend writes names below the plot, in as many lines as they need.
func (p *plot) legend(names []string, styles []int) {
	x, y := float64(p.left), float64(p.height)+6
	for i, name := range names {
		width := 34 + charWidth*float64(len([]rune(name))) + 14
		if x > float64(p.left) && x+width > float64(p.left+legendLimit) {
			x, y = float64(p.left), y+legendLine
		}
		fmt.Fprintf(&p.b, `<g class="s%d"><path class="line" d="M%.1f %.1fh26"/>%s</g>`, styles[i]%series, x, y, mark(styles[i], x+13, y, 4))
		p.text(x+34, y+4, "start", name)
		x += width
	}
	p.height = int(y) + 12
}

// svg closes the chart; title is for readers who do not see it.
func (p *plot) svg(title string) template.HTML {
	return template.HTML(fmt.Sprintf(`<svg viewBox="0 0 %d %d" role="img" aria-label="%s">%s</svg>`,
		plotWidth, p.height, html.EscapeString(title), p.b.String()))
}
