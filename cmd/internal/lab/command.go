// Package lab is `innertun lab`: its subcommands. What they do is in the packages below it and in integration/lab.
package lab

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
)

// Exit statuses of Command.
const (
	exitGood  = 0
	exitFail  = 1
	exitUsage = 2
)

// subcommand is one word after `innertun lab`.
type subcommand struct {
	name, args, summary string
	run                 func(ctx context.Context, c *call) int
}

func subcommands() []subcommand {
	return []subcommand{
		{"run", "FILE|NAME [-o PREFIX] [--check] ...", "run an experiment: a file's, or a ready one", run},
		{"list", "[--json] [NAME]", "the ready experiments, and the elements that paths are made of", list},
		{"path", "-a NAME -b NAME [--mtu N] [--seed N] ELEMENT...", "join two interfaces by an emulated path", runPath},
	}
}

// call is one run of a subcommand.
type call struct {
	sub            subcommand
	args           []string
	stdout, stderr io.Writer
}

// Command runs `innertun lab` with what follows these words on the command line, and returns the exit status. The end of
// ctx is a good end.
func Command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, help())
		return exitUsage
	}
	if word := args[0]; word == "-h" || word == "--help" || word == "-help" || word == "help" {
		fmt.Fprint(stdout, help())
		return exitGood
	}
	for _, s := range subcommands() {
		if s.name == args[0] {
			return s.run(ctx, &call{s, args[1:], stdout, stderr})
		}
	}
	fmt.Fprintf(stderr, "innertun lab: there is no %q; innertun lab -h lists what there is\n", args[0])
	return exitUsage
}

func help() string {
	var b strings.Builder
	b.WriteString("Experiments over emulated paths: what survives on them, and what it costs.\n\nusage: innertun lab COMMAND ...\n\n")
	for _, s := range subcommands() {
		fmt.Fprintf(&b, "  %-6s %s\n", s.name, s.summary)
	}
	b.WriteString("\ninnertun lab COMMAND -h tells about one of them.\n")
	return b.String()
}

// parse reads flags, which may stand among the other words. If ok is false the command ends with the exit status.
func (c *call) parse(fs *flag.FlagSet, text string) (words []string, ok bool, exit int) {
	fs.Init("innertun lab "+c.sub.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	for args := c.args; ; {
		switch err := fs.Parse(args); {
		case errors.Is(err, flag.ErrHelp):
			fmt.Fprintf(c.stdout, "usage: innertun lab %s %s\n%s", c.sub.name, c.sub.args, text)
			return nil, false, exitGood
		case err != nil:
			return nil, false, c.wrong(err)
		case fs.NArg() == 0:
			return words, true, exitGood
		}
		words, args = append(words, fs.Arg(0)), fs.Args()[1:]
	}
}

// wrong reports wrong usage.
func (c *call) wrong(err error) int {
	fmt.Fprintf(c.stderr, "innertun lab %s: %v\nusage: innertun lab %s %s\n", c.sub.name, err, c.sub.name, c.sub.args)
	return exitUsage
}

func (c *call) failed(err error) int {
	fmt.Fprintf(c.stderr, "innertun lab %s: %v\n", c.sub.name, err)
	return exitFail
}
