package demo

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
)

// Exit statuses of Command.
const (
	exitGood  = 0
	exitFail  = 1
	exitUsage = 2
)

// Command runs `innertun demo` with what follows these words on the command line, and returns the exit status. The end of
// ctx is a good end.
func Command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("innertun demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, `usage: innertun demo [--once] [--json] [-listen ADDR]

A client, a server that speaks TCP-ENO and tcpcrypt, an ordinary server and the path between
them, in one process. It needs no privileges and no network.

`)
		flags.PrintDefaults()
	}
	o := Options{Out: stdout}
	flags.BoolVar(&o.Once, "once", false, "end after the transfers; exit status 0 only if all checks held")
	flags.BoolVar(&o.JSON, "json", false, "print one JSON object instead of text")
	flags.StringVar(&o.Listen, "listen", DefaultListen, "where the SOCKS5 port is, as `IP:PORT`")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return exitGood
	case err != nil:
		return exitUsage
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "innertun demo: unexpected argument %q\n", flags.Arg(0))
		return exitUsage
	}
	if err := Run(ctx, o); err != nil {
		fmt.Fprintf(stderr, "innertun demo: %v\n", err)
		return exitFail
	}
	return exitGood
}
