package report

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"innertun/cmd/internal/lab/cell"
	"innertun/cmd/internal/lab/experiment"
)

// sample has something for every part of the page.
const sample = `
name = "sample"
title = "A page with everything"
summary = "For looking at it: <script>alert(1)</script> & other things that must not be taken for HTML."
rtt = ["10ms", "80ms"]
loss = [0, 0.02]
limit = "10m"

[[variant]]
name = "plain"
[[variant]]
name = "tcpcrypt"
[[variant]]
name = "Inner Space, with an option of one's own"
inner-space = "on"
resume = true
[[variant.option]]
place = "suffix"
exid = 0x5a5a
data = "cafe"
[[variant]]
name = "require"
policy = "require"

[[path]]
name = "clean"
[[path]]
name = "options stripped from SYNs"
note = "a firewall that normalizes"
elements = ["strip-options:from=syn"]
[[path]]
name = "corrupted"
elements = ["corrupt-option:kinds=69,from=syn"]
[[path]]
name = "spoilt data"
elements = ["bit-errors:probability=0.3,checksum=valid"]
[[path]]
elements = ["add-option:data=4953cafe,towards=b", "dead:after-packets=40"]

[[workload]]
kind = "request-reply"
connections = 2
[[workload]]
kind = "bulk"
up = 120000

[[must]]
path = ["corrupted"]
variant = ["tcpcrypt"]
outcome = "broke"
why = "The ends disagree on what was negotiated."
`

var once = sync.OnceValues(build)

// write returns the page of the sample and the name of its file.
func write(t *testing.T) (text, file string) {
	t.Helper()
	text, err := once()
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.ArtifactDir(), "report.html")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return text, file
}

// build runs the sample.
func build() (string, error) {
	e, err := experiment.Parse("sample.toml", sample)
	if err != nil {
		return "", err
	}
	var records []experiment.Record
	begin := time.Now()
	if err := e.Run(context.Background(), nil, func(r experiment.Record) error { records = append(records, r); return nil }); err != nil {
		return "", err
	}
	end := experiment.Summary(records, true, time.Since(begin))
	for _, o := range []cell.Outcome{cell.Encrypted, cell.PlainTCP, cell.FellBack, cell.Broke, cell.Garbled} {
		if end.Outcomes[o] == 0 {
			return "", fmt.Errorf("the sample has no cell that is %s", o)
		}
	}
	var b bytes.Buffer
	err = Write(&b, e.Header("v0.0.0", begin), records, end)
	return b.String(), err
}

// clipped names what does not fit: what is wider than the page or its box, and what of a chart lies outside of it.
const clipped = `(() => {
  const bad = [], name = e => e.tagName + '.' + (e.className.baseVal ?? e.className) + ' "' + e.textContent.trim().slice(0, 40) + '"';
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) bad.push('the page is ' + document.documentElement.scrollWidth + ' wide, of ' + width);
  for (const e of document.querySelectorAll('body *:not(svg *)')) {
    const r = e.getBoundingClientRect();
    if (r.width && (r.left < -0.5 || r.right > width + 0.5)) bad.push(name(e) + ' reaches from ' + r.left + ' to ' + r.right);
    if (e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display != 'inline' && e.clientWidth) bad.push(name(e) + ' holds ' + e.scrollWidth + ' in ' + e.clientWidth);
  }
  for (const svg of document.querySelectorAll('svg')) {
    const o = svg.getBoundingClientRect();
    for (const e of svg.querySelectorAll('text, path, circle, rect, polygon')) {
      const r = e.getBoundingClientRect();
      if (r.left < o.left - 1 || r.right > o.right + 1 || r.top < o.top - 1 || r.bottom > o.bottom + 1) bad.push('in a chart: ' + name(e) + ' ' + e.getAttribute('d'));
    }
    const labels = [...svg.querySelectorAll('text')];
    for (let i = 0; i < labels.length; i++) for (let j = 0; j < i; j++) {
      const a = labels[i].getBoundingClientRect(), b = labels[j].getBoundingClientRect();
      if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3) bad.push('labels overlap: ' + name(labels[i]) + ' and ' + name(labels[j]));
    }
  }
  return bad;
})()`

// The page as people see it: light, dark and printed, in a real browser with scripts switched off.
func TestInBrowser(t *testing.T) {
	_, file := write(t)
	b := openBrowser(t)
	b.open(file)
	for _, c := range []struct {
		name, medium, scheme string
		width                int
		dark                 bool
	}{
		{"light", "screen", "light", 1280, false},
		{"dark", "screen", "dark", 1280, true},
		{"print", "print", "dark", 1030, false}, // A4 on its side, less the margins; paper is white whatever the screen is
	} {
		b.look(c.medium, c.scheme, c.width)
		var bad []string
		if b.eval(clipped, &bad); len(bad) > 0 {
			t.Errorf("%s: %s", c.name, strings.Join(bad, "\n"))
		}
		shot := b.screenshot()
		if err := os.WriteFile(filepath.Join(t.ArtifactDir(), c.name+".png"), shot, 0o644); err != nil {
			t.Fatal(err)
		}
		p, err := png.Decode(bytes.NewReader(shot))
		if err != nil {
			t.Fatal(err)
		}
		if err := seen(p, c.dark); err != "" {
			t.Errorf("%s: %s", c.name, err)
		}
	}
	pdf := b.pdf()
	if !bytes.HasPrefix(pdf, []byte("%PDF-")) || len(pdf) < 20_000 {
		t.Errorf("printed: %d octets", len(pdf))
	}
	if err := os.WriteFile(filepath.Join(t.ArtifactDir(), "report.pdf"), pdf, 0o644); err != nil {
		t.Fatal(err)
	}
	if said := b.console(); len(said) > 0 {
		t.Errorf("the browser complains: %s", strings.Join(said, "\n"))
	}
}

// seen says what is wrong with a picture of the page: empty, or of the wrong brightness.
func seen(p image.Image, dark bool) string {
	colours := map[color.RGBA]int{}
	n := 0
	for y := p.Bounds().Min.Y; y < p.Bounds().Max.Y; y += 3 {
		for x := p.Bounds().Min.X; x < p.Bounds().Max.X; x += 3 {
			r, g, b, _ := p.At(x, y).RGBA()
			colours[color.RGBA{uint8(r >> 8), uint8(g >> 8), uint8(b >> 8), 255}]++
			n++
		}
	}
	var paper color.RGBA
	for c, count := range colours {
		if count > colours[paper] {
			paper = c
		}
	}
	switch {
	case p.Bounds().Dy() < 1500 || len(colours) < 50 || colours[paper] > n*98/100:
		return "blank, or nearly so"
	case dark != (int(paper.R)+int(paper.G)+int(paper.B) < 200):
		return "the paper has the wrong colour"
	}
	return ""
}

// Nothing is loaded from elsewhere, nothing runs, and what users write is text.
func TestSelfContained(t *testing.T) {
	text, _ := write(t)
	if m := regexp.MustCompile(`(?i)<script|javascript:|\son[a-z]+=|<link[^>]*href="[^d]|src=|url\(|@import|https?://`).FindString(text); m != "" {
		t.Errorf("the page has %q", m)
	}
	for _, want := range []string{"&lt;script&gt;", "a firewall that normalizes", "253/0x5a5a", "The ends disagree", "Throughput against loss: bulk, RTT 80 ms",
		"Throughput against RTT: bulk, loss 2 %", "Completion times: request-reply", "Round trips"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if n := strings.Count(text, "<svg"); n != 2+1+2+2 {
		t.Errorf("%d charts", n)
	}
}

func TestScale(t *testing.T) {
	for _, c := range []struct {
		s     scale
		ticks int
		low   float64
		high  float64
	}{
		{linear(3), 7, 0, 3}, {linear(1), 6, 0, 1}, {linear(0.1), 6, 0, 0.1}, {linear(8), 5, 0, 8}, {linear(0), 2, 0, 1},
		{logarithmic(3, 70), 6, 2, 100}, {logarithmic(1, 1e6), 7, 1, 1e6}, {logarithmic(40, 41), 2, 20, 50},
	} {
		if len(c.s.ticks) != c.ticks || c.s.low != c.low || c.s.high != c.high {
			t.Errorf("%+v, want %d ticks from %g to %g", c.s, c.ticks, c.low, c.high)
		}
	}
}
