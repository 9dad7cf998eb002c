// Package elements builds the elements of lab paths from names and parameters, as experiment files and command lines give
// them: { element = "strip-options", kinds = [69], from = "syn" } or strip-options:kinds=69,from=syn.
package elements

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"innertun/integration/lab"
	"innertun/stack"
)

// Env is what elements are built with besides their parameters.
type Env struct {
	// Seed is mixed with an element's place in its row where no seed is given, so that no two share their chances.
	Seed uint64
	// Tune is the last touch to the stacks of elements that have some: clock, randomness. May be nil.
	Tune func(*stack.Config)
}

// Kind describes one kind of element.
type Kind struct {
	Name    string
	Group   string // kin are listed together
	Summary string // one line
	Params  []Param
	Example string // a text for ParseSpec that shows the kind at work

	build func(a args, env Env) (lab.Element, error)
}

// Param describes one parameter.
type Param struct {
	Name    string
	Type    Type
	Default any      // nil: it must be given
	Choices []string // of Word and Words
	Help    string
}

// Spec is one element as a user writes it.
type Spec struct {
	Element string
	Params  map[string]any // strings, or values as a TOML decoder makes them
}

// Errors of Build, SpecOf and ParseSpec, to be found with errors.Is; the text says which and what to do.
var (
	ErrUnknownElement = errors.New("there is no such element")
	ErrParam          = errors.New("wrong parameter")
)

// Kinds returns all kinds, kin together.
func Kinds() []Kind {
	return slices.Concat(linkKinds(), optionKinds(), synKinds(), segmentKinds(), boxKinds(), attackKinds())
}

// Lookup returns the kind of that name.
func Lookup(name string) (Kind, error) {
	var names []string
	for _, k := range Kinds() {
		if k.Name == name {
			return k, nil
		}
		names = append(names, k.Name)
	}
	return Kind{}, fmt.Errorf("%w: %q (known: %s)", ErrUnknownElement, name, strings.Join(names, ", "))
}

// bothWays reports whether the kind is of no use, or runs in circles, unless it sees both directions.
func (k Kind) bothWays() bool {
	return slices.Contains([]string{"rewrite-sequence", "splice", "nat"}, k.Name)
}

// AllParams are the parameters of a kind with those that every element has.
func (k Kind) AllParams() []Param {
	all := slices.Clone(k.Params)
	if !k.bothWays() {
		all = append(all, Param{"towards", Word, "both", []string{"a", "b", "both"}, "only packets that travel to this side"})
	}
	return append(all, Param{"seed", Seed, "", nil, "of its chances, a number from 1; without: from the run's seed and its place"})
}

// Build makes one element. Elements that are io.Closers are closed by their path.
func Build(s Spec, env Env) (lab.Element, error) {
	k, err := Lookup(s.Element)
	if err != nil {
		return nil, err
	}
	a, err := k.read(s.Params)
	if err != nil {
		return nil, err
	}
	if seed := a.values["seed"].(uint64); seed != 0 {
		env.Seed = seed
	}
	e, err := k.build(a, env)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.Name, err)
	}
	switch a.values["towards"] {
	case "a":
		e = lab.Towards(lab.A, e)
	case "b":
		e = lab.Towards(lab.B, e)
	}
	return e, nil
}

// BuildAll makes a row of elements, the first nearest to side A. On an error nothing is left.
func BuildAll(specs []Spec, env Env) ([]lab.Element, error) {
	var row []lab.Element
	for i, s := range specs {
		place := env
		place.Seed = mix(env.Seed, i)
		e, err := Build(s, place)
		if err != nil {
			for _, made := range row {
				if c, ok := made.(io.Closer); ok {
					c.Close()
				}
			}
			return nil, fmt.Errorf("element %d: %w", i+1, err)
		}
		row = append(row, e)
	}
	return row, nil
}

// mix makes another seed of a seed and a place (the finalizer of SplitMix64).
func mix(seed uint64, place int) uint64 {
	z := seed + uint64(place+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// Check says what is wrong with a spec, without anything of it left behind.
func Check(s Spec) error {
	e, err := Build(s, Env{Seed: 1})
	if c, ok := e.(io.Closer); ok && err == nil {
		c.Close()
	}
	return err
}
