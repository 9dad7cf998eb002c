// Package experiment reads experiments from files: variants of what hosts speak, paths between them, workloads, and what is
// repeated; and runs them cell by cell.
package experiment

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"innertun/cmd/internal/lab/cell"
	"innertun/integration/lab/elements"
)

// Experiment is a matrix: each variant over each path with each workload, at each RTT and loss, in each IP version, so many
// times.
type Experiment struct {
	Name    string // a word, for file names
	Title   string
	Summary string

	Variants  []cell.Variant
	Paths     []Path
	Workloads []cell.Workload
	RTTs      []time.Duration
	Loss      []float64 // random, of each path each way; 0: none
	IPv6      []bool
	MTU       int
	Room      cell.Room // of the server's stack

	Repetitions int
	Seed        uint64
	Limit       time.Duration // of a cell, by its clock; 0: the default

	Must []Must
}

// Path is a row of elements.
type Path struct {
	Name     string
	Note     string // what it stands for, or where it was seen
	Elements []elements.Spec
}

// Must is cells that have to be as they are although a promise is broken in them, and why. Empty: all.
type Must struct {
	Paths, Variants, Workloads []string
	Outcome                    cell.Outcome
	Why                        string
}

// Job is one cell of an experiment.
type Job struct {
	Index      int
	Variant    cell.Variant
	Path       Path
	Workload   cell.Workload
	RTT        time.Duration
	Loss       float64
	IPv6       bool
	Repetition int
	Seed       uint64
}

// Jobs returns the cells in the order in which they are run.
func (e Experiment) Jobs() (all []Job) {
	for _, path := range e.Paths {
		for _, w := range e.Workloads {
			for _, rtt := range e.RTTs {
				for _, loss := range e.Loss {
					for _, six := range e.IPv6 {
						for n := range e.Repetitions {
							for _, v := range e.Variants {
								all = append(all, Job{len(all), v, path, w, rtt, loss, six, n + 1, e.Seed + uint64(n)})
							}
						}
					}
				}
			}
		}
	}
	return all
}

// Cell is what is run.
func (e Experiment) Cell(j Job) cell.Cell {
	row := j.Path.Elements
	if j.Loss > 0 {
		row = append(slices.Clip(row), elements.Spec{Element: "loss", Params: map[string]any{"probability": j.Loss}})
	}
	return cell.Cell{Variant: j.Variant, Path: row, Workload: j.Workload, RTT: j.RTT, MTU: e.MTU, IPv6: j.IPv6, Room: e.Room, Seed: j.Seed, Limit: e.Limit}
}

// Select leaves only the variants and paths that are named; none: all stay.
func (e *Experiment) Select(variants, paths []string) error {
	var missing []string
	keep := func(names []string, all func() []string, drop func(func(name string) bool)) {
		if len(names) == 0 {
			return
		}
		for _, n := range names {
			if !slices.Contains(all(), n) {
				missing = append(missing, fmt.Sprintf("%q (there are: %s)", n, quoted(all())))
			}
		}
		drop(func(name string) bool { return !slices.Contains(names, name) })
	}
	keep(variants, e.variantNames, func(not func(string) bool) {
		e.Variants = slices.DeleteFunc(e.Variants, func(v cell.Variant) bool { return not(v.Name) })
	})
	keep(paths, e.pathNames, func(not func(string) bool) {
		e.Paths = slices.DeleteFunc(e.Paths, func(p Path) bool { return not(p.Name) })
	})
	if len(missing) > 0 {
		return errors.New("the experiment has no " + strings.Join(missing, ", nor "))
	}
	return nil
}

// quoted is a list of names that may have commas.
func quoted(names []string) string {
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = strconv.Quote(n)
	}
	return strings.Join(q, ", ")
}

// Repeat has every cell run so many times. Error: too few, or too many, or too many cells.
func (e *Experiment) Repeat(n int) error {
	if n < 1 || n > maxRepetitions {
		return fmt.Errorf("%d repetitions: expected 1 to %d", n, maxRepetitions)
	}
	e.Repetitions = n
	if cells := e.cells(); cells > maxCells {
		return fmt.Errorf("the experiment has %d cells, at most %d", cells, maxCells)
	}
	return nil
}

// cells is how many there are.
func (e *Experiment) cells() int {
	return len(e.Variants) * len(e.Paths) * len(e.Workloads) * len(e.RTTs) * len(e.Loss) * len(e.IPv6) * e.Repetitions
}

func (e *Experiment) variantNames() (names []string) {
	for _, v := range e.Variants {
		names = append(names, v.Name)
	}
	return names
}

func (e *Experiment) pathNames() (names []string) {
	for _, p := range e.Paths {
		names = append(names, p.Name)
	}
	return names
}

func (e *Experiment) workloadNames() (names []string) {
	for _, w := range e.Workloads {
		names = append(names, w.Name)
	}
	return names
}
