package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"innertun/cmd/internal/capture"
	"innertun/cmd/internal/config"
	"innertun/cmd/internal/control"
)

// captureFlags are the flags of `innertun capture`.
type captureFlags struct {
	file, socket string
	keys         bool
	count        uint64
	duration     time.Duration
}

func (f *captureFlags) check() error {
	switch {
	case f.file == "":
		return errors.New("name a file for the capture with -w")
	case f.keys && f.file == "-":
		return errors.New("keys need a file to be written beside: name one with -w, or leave --keys out")
	case f.duration < 0:
		return fmt.Errorf("--duration %v is negative", f.duration)
	}
	return nil
}

// capture is `innertun capture`.
func (p *Program) capture(ctx context.Context, c *command, args []string) int {
	var f captureFlags
	fs := new(flag.FlagSet)
	fs.StringVar(&f.file, "w", "", "")
	fs.StringVar(&f.socket, "control", config.DefaultSocket, "")
	fs.BoolVar(&f.keys, "keys", false, "")
	fs.Uint64Var(&f.count, "count", 0, "")
	fs.DurationVar(&f.duration, "duration", 0, "")
	if ok, exit := p.parse(c, fs, args); !ok {
		return exit
	}
	if err := f.check(); err != nil {
		return p.wrongUsage(c, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	res, err := p.saveCapture(ctx, f, func() {
		if f.duration > 0 { // from now on: until the daemon has answered nothing is captured
			time.AfterFunc(f.duration, cancel)
		}
	})
	if err != nil {
		return p.failed(c, err)
	}
	fmt.Fprintf(p.Stderr, "%d packets", res.Packets)
	if f.keys {
		fmt.Fprintf(p.Stderr, ", %d lines of keys", res.Keys)
	}
	if res.Complete {
		fmt.Fprintf(p.Stderr, "; %d dropped\n", res.Dropped)
	} else {
		fmt.Fprintln(p.Stderr, "; the daemon ended, or did not answer, before it said how many were dropped")
	}
	return ExitGood
}

// saveCapture calls begun when nothing passes unseen any more.
func (p *Program) saveCapture(ctx context.Context, f captureFlags, begun func()) (res capture.Result, err error) {
	if f.file == "-" {
		return control.NewClient(f.socket).Capture(ctx, p.Stdout, nil, f.count, begun)
	}
	// Asked first, so that no file is made, or lost, for a daemon that is not there.
	if _, err := control.NewClient(f.socket).Status(ctx); err != nil {
		return res, err
	}
	file, err := createPrivate(f.file)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	var keys io.Writer
	if f.keys {
		k, err := createPrivate(f.file + ".keys")
		if err != nil {
			return res, err
		}
		defer func() { err = errors.Join(err, k.Close()) }()
		keys = k
	}
	return control.NewClient(f.socket).Capture(ctx, file, keys, f.count, func() {
		fmt.Fprintf(p.Stderr, "capturing to %s\n", f.file)
		begun()
	})
}

// createPrivate makes a file for its owner's eyes only, or empties one that was there.
func createPrivate(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s is there and is no regular file: name another, or write to the standard output with -w -", name)
	default:
		if err = f.Chmod(0o600); err == nil {
			err = f.Truncate(0)
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
