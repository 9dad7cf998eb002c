// Package cli is innertun's command line: commands, flags, usage texts and exit statuses. What the commands do is
// handed in.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"innertun/cmd/internal/config"
)

// Exit statuses.
const (
	ExitGood  = 0 // also after SIGINT, SIGTERM and SIGHUP
	ExitFail  = 1
	ExitUsage = 2
)

// Program is innertun, with what its commands need.
type Program struct {
	Stdout, Stderr io.Writer
	Version        string

	// Daemon runs what the configuration enables until ctx ends; that is a good end.
	Daemon func(ctx context.Context, cfg *config.Config, log *slog.Logger) error
	// Down removes what an earlier run with this control socket left on the host.
	Down func(ctx context.Context, socket string, log *slog.Logger) error
	// Demo is `innertun demo`, with its own flags.
	Demo func(ctx context.Context, args []string, stdout, stderr io.Writer) int
	// Probe is `innertun probe`, with its own flags.
	Probe func(ctx context.Context, args []string, stdout, stderr io.Writer) int
	// Lab is `innertun lab`, with subcommands of its own.
	Lab func(ctx context.Context, args []string, stdout, stderr io.Writer) int
}

// command is one of the program's commands.
type command struct {
	name    string
	args    string // what follows the name in its usage
	summary string // one line for the list of commands; empty: not listed
	text    string // what `innertun NAME -h` says below the usage line
	run     func(p *Program, ctx context.Context, c *command, args []string) int
}

// commands are all commands, in the order of the help.
func commands() []*command {
	return []*command{
		{"run", "[-c FILE] [flags]", "run everything the configuration file enables", runText, (*Program).run},
		{"socks", "[-listen ADDR] [flags]", "client side: a SOCKS5 port, nothing else", socksText, (*Program).socks},
		{"serve", "-listen PORT -forward ADDR [flags]", "server side: answer in front of a service", serveText, (*Program).serve},
		{"demo", "[--once] [--json] [-listen ADDR]", "a two-host world inside this process; no privileges, no network", "", (*Program).demo},
		{"status", "[--json] [-control PATH]", "what the running daemon does, in sum", statusText, (*Program).status},
		{"conns", "[--json] [--watch] [-control PATH]", "the running daemon's connections", connsText, (*Program).conns},
		{"paths", "[--json] [-control PATH] [flush [DEST]]", "what the running daemon remembers of paths", pathsText, (*Program).paths},
		{"sessions", "[--json] [-control PATH] [flush [DEST]]", "what the running daemon could resume", sessionsText, (*Program).sessions},
		{"capture", "-w FILE [--keys] [--count N] [--duration TIME] [-control PATH]", "packets of the running daemon, for Wireshark", captureText, (*Program).capture},
		{"key", "gen [-o FILE] | show [FILE]", "this host's identity", keyText, (*Program).key},
		{"peers", "[--json] [-control PATH | -file FILE] [accept DEST [KEY] | forget DEST]", "who peers are, and who was refused", peersText, (*Program).peers},
		{"down", "[-control PATH]", "remove whatever an earlier run left on this host", downText, (*Program).down},
		{"version", "", "print the version", "", (*Program).version},
		{"probe", "[flags] HOST:PORT ... | -f FILE", "what survives on the path to a server, and which hop changes it", "", (*Program).probe},
		{"lab", "run|list|path ...", "experiments over emulated paths, in the process or between interfaces", "", (*Program).lab},
	}
}

// Main runs the command that args (without the program's name) ask for, and returns the exit status.
func (p *Program) Main(ctx context.Context, args []string) int {
	if len(args) == 0 {
		fmt.Fprint(p.Stderr, help())
		return ExitUsage
	}
	name, args := args[0], args[1:]
	switch name {
	case "help", "-h", "-help", "--help":
		if len(args) == 0 {
			fmt.Fprint(p.Stdout, help())
			return ExitGood
		}
		name, args = args[0], []string{"-h"}
	case "-version", "--version":
		name = "version"
	}
	for _, c := range commands() {
		if c.name == name {
			return c.run(p, ctx, c, args)
		}
	}
	fmt.Fprintf(p.Stderr, "innertun: unknown command %q; innertun help lists them\n", name)
	return ExitUsage
}

func (c *command) usage() string {
	return strings.TrimSpace("usage: innertun "+c.name+" "+c.args) + "\n"
}

// parse reads a command's flags. If it returns false the command ends with the exit status.
func (p *Program) parse(c *command, fs *flag.FlagSet, args []string) (ok bool, exit int) {
	rest, ok, exit := p.parseMixed(c, fs, args)
	if ok && len(rest) > 0 {
		return false, p.wrongUsage(c, fmt.Errorf("unexpected argument %q", rest[0]))
	}
	return ok, exit
}

// parseMixed is parse for a command with words of its own, which flags may follow too.
func (p *Program) parseMixed(c *command, fs *flag.FlagSet, args []string) (words []string, ok bool, exit int) {
	fs.Init("innertun "+c.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	for {
		err := fs.Parse(args)
		switch {
		case errors.Is(err, flag.ErrHelp):
			fmt.Fprint(p.Stdout, c.usage(), c.text)
			return nil, false, ExitGood
		case err != nil:
			return nil, false, p.wrongUsage(c, err)
		case fs.NArg() == 0:
			if err := emptyFlag(fs); err != nil {
				return nil, false, p.wrongUsage(c, err)
			}
			return words, true, ExitGood
		}
		words, args = append(words, fs.Arg(0)), fs.Args()[1:]
	}
}

// emptyFlag names a flag that was given and has nothing in it, as from a shell's variable that is not set: its default could
// be less than what was meant.
func emptyFlag(fs *flag.FlagSet) (err error) {
	fs.Visit(func(f *flag.Flag) {
		if g, ok := f.Value.(flag.Getter); ok && g.Get() == "" {
			err = fmt.Errorf("-%s: is empty; leave it out for the default", f.Name)
		}
	})
	return err
}

func (p *Program) wrongUsage(c *command, err error) int {
	fmt.Fprintf(p.Stderr, "innertun %s: %v\n%sinnertun %s -h tells more\n", c.name, err, c.usage(), c.name)
	return ExitUsage
}

// failed prints an error, each of a joined one on a line of its own.
func (p *Program) failed(c *command, err error) int {
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(p.Stderr, "innertun %s: %s\n", c.name, strings.TrimRight(line, "\n"))
	}
	return ExitFail
}

func (p *Program) notBuilt(_ context.Context, c *command, _ []string) int {
	return p.failed(c, errors.New("this command is not built yet"))
}

func (p *Program) demo(ctx context.Context, c *command, args []string) int {
	if p.Demo == nil {
		return p.notBuilt(ctx, c, args)
	}
	return p.Demo(ctx, args, p.Stdout, p.Stderr)
}

func (p *Program) probe(ctx context.Context, c *command, args []string) int {
	if p.Probe == nil {
		return p.notBuilt(ctx, c, args)
	}
	return p.Probe(ctx, args, p.Stdout, p.Stderr)
}

func (p *Program) lab(ctx context.Context, c *command, args []string) int {
	if p.Lab == nil {
		return p.notBuilt(ctx, c, args)
	}
	return p.Lab(ctx, args, p.Stdout, p.Stderr)
}

func (p *Program) version(_ context.Context, c *command, args []string) int {
	if ok, exit := p.parse(c, new(flag.FlagSet), args); !ok {
		return exit
	}
	fmt.Fprintf(p.Stdout, "innertun %s\n", p.Version)
	return ExitGood
}
