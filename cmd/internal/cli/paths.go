package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"

	"innertun/cmd/internal/config"
	"innertun/cmd/internal/control"
)

// paths is `innertun paths`.
func (p *Program) paths(ctx context.Context, c *command, args []string) int {
	fs := new(flag.FlagSet)
	socket := fs.String("control", config.DefaultSocket, "")
	asJSON := fs.Bool("json", false, "")
	words, ok, exit := p.parseMixed(c, fs, args)
	if !ok {
		return exit
	}
	client := control.NewClient(*socket)
	if len(words) > 0 {
		to, err := flushWhat(words)
		if err != nil {
			return p.wrongUsage(c, err)
		}
		return p.flushPaths(ctx, c, client, to, *asJSON)
	}
	all, err := client.Paths(ctx)
	if err == nil {
		err = p.showPaths(all, *asJSON)
	}
	if err != nil {
		return p.failed(c, err)
	}
	return ExitGood
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

func (p *Program) flushPaths(ctx context.Context, c *command, client *control.Client, to netip.AddrPort, asJSON bool) int {
	f, err := client.FlushPaths(ctx, to)
	if err == nil {
		if asJSON {
			err = json.NewEncoder(p.Stdout).Encode(f)
		} else {
			_, err = fmt.Fprintf(p.Stdout, "forgotten: %d\n", f.Forgotten)
		}
	}
	if err != nil {
		return p.failed(c, err)
	}
	return ExitGood
}

func (p *Program) showPaths(all []control.Path, asJSON bool) error {
	if !asJSON {
		return control.PrintPaths(p.Stdout, all)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, path := range all {
		if err := enc.Encode(path); err != nil {
			return err
		}
	}
	_, err := p.Stdout.Write(b.Bytes())
	return err
}
