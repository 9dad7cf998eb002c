package lab

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"innertun/cmd/internal/lab/experiment"
	"innertun/integration/lab/elements"
)

const listText = `
Experiments are for innertun lab run NAME; with the name of one, its text. Elements are the
delays, losses and middleboxes that a path consists of; with the name of one, its parameters.
In a command line an element is NAME or NAME:KEY=VALUE,KEY=VALUE, the words of a list joined
by +; in an experiment file { element = "NAME", KEY = VALUE }.

  --json                  one JSON object a line
`

// list is `innertun lab list`.
func list(_ context.Context, c *call) int {
	fs := new(flag.FlagSet)
	asJSON := fs.Bool("json", false, "")
	words, ok, exit := c.parse(fs, listText)
	if !ok {
		return exit
	}
	kinds := elements.Kinds()
	ready := experiment.Names()
	if len(words) > 1 {
		return c.wrong(fmt.Errorf("unexpected argument %q", words[1]))
	}
	if len(words) == 1 && slices.Contains(ready, words[0]) {
		return c.experiment(words[0], *asJSON)
	}
	if len(words) == 1 {
		k, err := elements.Lookup(words[0])
		if err != nil {
			return c.failed(fmt.Errorf("%w; the ready experiments are %s", err, strings.Join(ready, ", ")))
		}
		kinds, ready = []elements.Kind{k}, nil
	}
	var b strings.Builder
	switch {
	case *asJSON:
		for _, name := range ready {
			if err := describeExperiment(&b, name); err != nil {
				return c.failed(err)
			}
		}
		for _, k := range kinds {
			if err := json.NewEncoder(&b).Encode(describe(k)); err != nil {
				return c.failed(err)
			}
		}
	case len(words) == 1:
		printOne(&b, kinds[0])
	default:
		if err := printExperiments(&b, ready); err != nil {
			return c.failed(err)
		}
		printAll(&b, kinds)
	}
	if _, err := io.WriteString(c.stdout, b.String()); err != nil {
		return c.failed(err)
	}
	return exitGood
}

// experiment shows one ready experiment.
func (c *call) experiment(name string, asJSON bool) int {
	text, err := experiment.Text(name)
	if asJSON && err == nil {
		var b strings.Builder
		err = describeExperiment(&b, name)
		text = b.String()
	}
	if err == nil {
		_, err = io.WriteString(c.stdout, text)
	}
	if err != nil {
		return c.failed(err)
	}
	return exitGood
}

func printExperiments(b *strings.Builder, names []string) error {
	b.WriteString("experiments\n")
	for _, name := range names {
		e, err := experiment.Load(name)
		if err != nil {
			return err
		}
		fmt.Fprintf(b, "  %-18s %s (%d cells)\n", name, e.Title, len(e.Jobs()))
	}
	b.WriteString("\n")
	return nil
}

// experimentDescription is a ready experiment as JSON; its keys are part of the command's interface.
type experimentDescription struct {
	Is      string `json:"is"` // "experiment"
	Name    string `json:"name"`
	Title   string `json:"title"`
	Summary string `json:"summary"`
	Cells   int    `json:"cells"`
	TOML    string `json:"toml"`
}

func describeExperiment(b *strings.Builder, name string) error {
	e, err := experiment.Load(name)
	if err != nil {
		return err
	}
	text, err := experiment.Text(name)
	if err != nil {
		return err
	}
	return json.NewEncoder(b).Encode(experimentDescription{"experiment", name, e.Title, e.Summary, len(e.Jobs()), text})
}

func printAll(b *strings.Builder, kinds []elements.Kind) {
	group := ""
	for _, k := range kinds {
		if k.Group != group {
			group = k.Group
			fmt.Fprintf(b, "%s\n", group)
		}
		fmt.Fprintf(b, "  %-18s %s\n", k.Name, k.Summary)
	}
	b.WriteString("\ninnertun lab list NAME shows the parameters of one.\n")
}

func printOne(b *strings.Builder, k elements.Kind) {
	fmt.Fprintf(b, "%s: %s\n\n", k.Name, k.Summary)
	for _, p := range k.AllParams() {
		of := p.Type.String()
		if len(p.Choices) > 0 {
			of = strings.Join(p.Choices, " | ")
		}
		fmt.Fprintf(b, "  %-14s %s (%s", p.Name, p.Help, of)
		switch d := defaultOf(p); d {
		case "":
			b.WriteString(")\n")
		default:
			fmt.Fprintf(b, "; %s)\n", d)
		}
	}
	fmt.Fprintf(b, "\nexample: %s\n", k.Example)
}

// defaultOf says what goes without a parameter.
func defaultOf(p elements.Param) string {
	switch d := p.Default.(type) {
	case nil:
		return "required"
	case []string:
		return "default " + strings.Join(d, "+")
	default:
		if text := fmt.Sprint(d); text != "" {
			return "default " + text
		}
	}
	return ""
}

// description is a kind as JSON; its keys are part of the command's interface.
type description struct {
	Is      string      `json:"is"` // "element"
	Name    string      `json:"name"`
	Group   string      `json:"group"`
	Summary string      `json:"summary"`
	Example string      `json:"example"`
	Params  []parameter `json:"params"`
}

type parameter struct {
	Name    string   `json:"name"`
	Type    string   `json:"type"`
	Default any      `json:"default"` // null: required
	Choices []string `json:"choices,omitempty"`
	Help    string   `json:"help"`
}

func describe(k elements.Kind) description {
	d := description{Is: "element", Name: k.Name, Group: k.Group, Summary: k.Summary, Example: k.Example}
	for _, p := range k.AllParams() {
		d.Params = append(d.Params, parameter{p.Name, p.Type.String(), p.Default, p.Choices, p.Help})
	}
	return d
}
