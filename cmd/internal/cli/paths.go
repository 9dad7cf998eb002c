package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/netip"

	"innertun/cmd/internal/config"
	"innertun/cmd/internal/control"
)

// paths is `innertun paths`.
func (p *Program) paths(ctx context.Context, c *command, args []string) int {
	return listOrFlush(p, ctx, c, args, (*control.Client).Paths, (*control.Client).FlushPaths, control.PrintPaths)
}

// sessions is `innertun sessions`.
func (p *Program) sessions(ctx context.Context, c *command, args []string) int {
	return listOrFlush(p, ctx, c, args, (*control.Client).Sessions, (*control.Client).FlushSessions, control.PrintSessions)
}

// listOrFlush is a command that shows a list, or with the word flush forgets what is in it.
func listOrFlush[T any](p *Program, ctx context.Context, c *command, args []string,
	list func(*control.Client, context.Context) ([]T, error),
	flush func(*control.Client, context.Context, netip.AddrPort) (control.Flushed, error),
	print func(io.Writer, []T) error,
) int {
	fs := new(flag.FlagSet)
	socket := fs.String("control", config.DefaultSocket, "")
	asJSON := fs.Bool("json", false, "")
	words, ok, exit := p.parseMixed(c, fs, args)
	if !ok {
		return exit
	}
	client := control.NewClient(*socket)
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	var err error
	if len(words) > 0 {
		to, wrong := flushWhat(words)
		if wrong != nil {
			return p.wrongUsage(c, wrong)
		}
		var f control.Flushed
		if f, err = flush(client, ctx, to); err == nil {
			if *asJSON {
				err = enc.Encode(f)
			} else {
				fmt.Fprintf(&b, "forgotten: %d\n", f.Forgotten)
			}
		}
	} else {
		var all []T
		if all, err = list(client, ctx); err == nil {
			err = printList(&b, enc, all, *asJSON, print)
		}
	}
	if err == nil {
		_, err = p.Stdout.Write(b.Bytes())
	}
	if err != nil {
		return p.failed(c, err)
	}
	return ExitGood
}

func printList[T any](w io.Writer, enc *json.Encoder, all []T, asJSON bool, print func(io.Writer, []T) error) error {
	if !asJSON {
		return print(w, all)
	}
	for _, v := range all {
		if err := enc.Encode(v); err != nil {
			return err
		}
	}
	return nil
}

// flushWhat reads "flush" or "flush DEST"; an invalid address stands for no DEST.
func flushWhat(words []string) (to netip.AddrPort, err error) {
	switch {
	case words[0] != "flush":
		return to, fmt.Errorf("unexpected argument %q", words[0])
	case len(words) > 2:
		return to, fmt.Errorf("unexpected argument %q", words[2])
	case len(words) == 2:
		return control.ParseDestination(words[1])
	}
	return to, nil
}
