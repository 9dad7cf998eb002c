package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"innertun/cmd/internal/config"
	"innertun/cmd/internal/conns"
	"innertun/cmd/internal/control"
)

const watchInterval = time.Second

// status is `innertun status`.
func (p *Program) status(ctx context.Context, c *command, args []string) int {
	fs := new(flag.FlagSet)
	socket := fs.String("control", config.DefaultSocket, "")
	asJSON := fs.Bool("json", false, "")
	if ok, exit := p.parse(c, fs, args); !ok {
		return exit
	}
	st, err := control.NewClient(*socket).Status(ctx)
	if err == nil {
		if *asJSON {
			err = json.NewEncoder(p.Stdout).Encode(st)
		} else {
			err = control.PrintStatus(p.Stdout, st)
		}
	}
	if err != nil {
		return p.failed(c, err)
	}
	return ExitGood
}

// conns is `innertun conns`.
func (p *Program) conns(ctx context.Context, c *command, args []string) int {
	fs := new(flag.FlagSet)
	socket := fs.String("control", config.DefaultSocket, "")
	asJSON := fs.Bool("json", false, "")
	watch := fs.Bool("watch", false, "")
	if ok, exit := p.parse(c, fs, args); !ok {
		return exit
	}
	client := control.NewClient(*socket)
	clear := *watch && !*asJSON && isTerminal(p.Stdout)
	for {
		all, err := client.Conns(ctx)
		if ctx.Err() != nil {
			return ExitGood
		}
		if err == nil {
			err = p.show(all, *asJSON, clear)
		}
		if err != nil {
			return p.failed(c, err)
		}
		if !*watch {
			return ExitGood
		}
		select {
		case <-ctx.Done():
			return ExitGood
		case <-time.After(watchInterval):
		}
	}
}

// show prints all in one write, so that a watched table does not flicker.
func (p *Program) show(all []conns.Info, asJSON, clear bool) error {
	var b bytes.Buffer
	if clear {
		fmt.Fprint(&b, "\x1b[H\x1b[2J") // home, erase
	}
	if asJSON {
		enc := json.NewEncoder(&b)
		for _, c := range all {
			if err := enc.Encode(c); err != nil {
				return err
			}
		}
	} else if err := control.PrintConns(&b, all); err != nil {
		return err
	}
	_, err := p.Stdout.Write(b.Bytes())
	return err
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
