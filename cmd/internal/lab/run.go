package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"innertun/cmd/internal/cli"
	"innertun/cmd/internal/lab/experiment"
	"innertun/cmd/internal/lab/report"
)

const runText = `
FILE is an experiment in TOML, NAME a ready one: innertun lab list names them, and
innertun lab list NAME shows its text. Each cell is a variant over a path with a workload, run
in the process on a virtual clock, so that the same seed gives the same times.

Results go to PREFIX.jsonl, one JSON object a line, and to PREFIX.html, a report for a browser or
paper that needs nothing else.

  -o PREFIX               where to (default: the experiment's name, here); its folder is made if need be
  --variant NAME          only this variant; may be repeated, as --path
  --path NAME             only this path
  --repetitions N, --seed N   in place of the file's
  --check                 exit with 1 if a promise is broken that the file does not excuse: no cell
                          hangs, garbles, or delivers plaintext where encryption is required; under
                          opportunistic every cell works in which plain TCP does
  --quiet                 no progress, no matrix

example: innertun lab run latency -o /tmp/latency
`

// repeated is a flag that may be given several times.
type repeated []string

func (r *repeated) String() string     { return strings.Join(*r, ", ") }
func (r *repeated) Set(s string) error { *r = append(*r, s); return nil }

// runOptions are the flags of `innertun lab run`.
type runOptions struct {
	out             string
	variants, paths repeated
	repetitions     int
	seed            uint64
	check, quiet    bool
	given           map[string]bool // flags that stand in place of the file's word
}

// run is `innertun lab run`.
func run(ctx context.Context, c *call) int {
	var o runOptions
	fs := new(flag.FlagSet)
	fs.StringVar(&o.out, "o", "", "")
	fs.Var(&o.variants, "variant", "")
	fs.Var(&o.paths, "path", "")
	fs.IntVar(&o.repetitions, "repetitions", 0, "")
	fs.Uint64Var(&o.seed, "seed", 0, "")
	fs.BoolVar(&o.check, "check", false, "")
	fs.BoolVar(&o.quiet, "quiet", false, "")
	words, ok, exit := c.parse(fs, runText)
	if !ok {
		return exit
	}
	if len(words) != 1 {
		return c.wrong(errors.New("one FILE or NAME is needed"))
	}
	e, err := open(words[0])
	if err != nil {
		return c.failed(err)
	}
	o.given = map[string]bool{}
	fs.Visit(func(f *flag.Flag) { o.given[f.Name] = true })
	if err := o.apply(&e); err != nil {
		return c.wrong(err)
	}
	broken, err := perform(ctx, c, e, o)
	if err != nil {
		return c.failed(err)
	}
	if o.check && broken > 0 {
		return c.failed(fmt.Errorf("a promise is broken in %d cells", broken))
	}
	return exitGood
}

// open reads an experiment from a file, or takes a ready one.
func open(word string) (experiment.Experiment, error) {
	b, err := os.ReadFile(word)
	if err == nil {
		return experiment.Parse(word, string(b))
	}
	if !errors.Is(err, os.ErrNotExist) || strings.ContainsAny(word, "/.") {
		return experiment.Experiment{}, err
	}
	return experiment.Load(word)
}

func (o runOptions) apply(e *experiment.Experiment) error {
	if err := e.Select(o.variants, o.paths); err != nil {
		return err
	}
	if o.given["seed"] {
		e.Seed = o.seed
	}
	if o.given["repetitions"] {
		return e.Repeat(o.repetitions)
	}
	return nil
}

// perform runs the experiment and writes what came of it.
func perform(ctx context.Context, c *call, e experiment.Experiment, o runOptions) (broken int, err error) {
	prefix := o.out
	if prefix == "" {
		prefix = e.Name
	}
	if err := os.MkdirAll(filepath.Dir(prefix), 0o777); err != nil {
		return 0, err
	}
	f, err := os.Create(prefix + ".jsonl")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	enc := json.NewEncoder(f) // each line at once: what has been run stays, whatever ends the run
	began := time.Now()
	header := e.Header(cli.Version(), began)
	if err := enc.Encode(header); err != nil {
		return 0, err
	}
	show := newProgress(c.stderr, header.Cells, o.quiet)
	var records []experiment.Record
	err = e.Run(ctx, show.cell, func(r experiment.Record) error {
		records = append(records, r)
		return enc.Encode(r)
	})
	show.end()
	if err != nil {
		return 0, err
	}
	end := experiment.Summary(records, len(records) == header.Cells, time.Since(began))
	if err := errors.Join(enc.Encode(end), f.Close()); err != nil {
		return 0, err
	}
	if err := writeReport(prefix+".html", header, records, end); err != nil {
		return 0, err
	}
	if !o.quiet {
		printMatrix(c.stdout, header, records)
		printEnd(c.stdout, end, records)
		fmt.Fprintf(c.stdout, "\n%s\n%s.html\n", f.Name(), prefix)
	}
	return end.Verdicts[experiment.Broken], nil
}

func writeReport(name string, h experiment.Header, records []experiment.Record, t experiment.Trailer) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	b := bufio.NewWriter(f)
	return errors.Join(report.Write(b, h, records, t), b.Flush(), f.Close())
}

// progress shows how far a run is: in place on a terminal, else a line now and then.
type progress struct {
	w        io.Writer
	cells    int
	terminal bool
	quiet    bool
	shown    time.Time
}

func newProgress(w io.Writer, cells int, quiet bool) *progress {
	p := &progress{w: w, cells: cells, quiet: quiet, shown: time.Now()}
	if f, ok := w.(*os.File); ok {
		info, err := f.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

const progressInterval = 5 * time.Second // of lines, where they cannot be written over

func (p *progress) cell(done int, r experiment.Record) {
	switch {
	case p.quiet:
	case p.terminal:
		fmt.Fprintf(p.w, "\r\x1b[K%d/%d %s: %s", done, p.cells, r.Name(), r.Result.Outcome)
	case done == p.cells || time.Since(p.shown) >= progressInterval:
		p.shown = time.Now()
		fmt.Fprintf(p.w, "%d/%d cells\n", done, p.cells)
	}
}

func (p *progress) end() {
	if p.terminal && !p.quiet {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
