package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"

	"innertun/cmd/internal/config"
)

// run is `innertun run`.
func (p *Program) run(ctx context.Context, c *command, args []string) int {
	var file string
	return p.daemon(ctx, c, args,
		func(fs *flag.FlagSet, _ *config.Flags) { fs.StringVar(&file, "c", "", "") },
		func(_ *config.Flags, log *slog.Logger) (*config.Config, error) {
			if file == "" {
				cfg := config.Default()
				cfg.TUN = config.DefaultTUN()
				return cfg, nil
			}
			cfg, err := config.Load(file)
			if err == nil && !cfg.Enabled() {
				err = fmt.Errorf("%s enables nothing: it needs [tun], [socks] or [[serve]]", file)
			}
			return cfg, err
		})
}

// socks is `innertun socks`.
func (p *Program) socks(ctx context.Context, c *command, args []string) int {
	return p.daemon(ctx, c, args,
		func(fs *flag.FlagSet, f *config.Flags) { fs.StringVar(&f.Listen, "listen", "", "") },
		func(f *config.Flags, _ *slog.Logger) (*config.Config, error) {
			cfg := config.Default()
			return cfg, usage(f.ApplySOCKS(cfg))
		})
}

// serve is `innertun serve`.
func (p *Program) serve(ctx context.Context, c *command, args []string) int {
	return p.daemon(ctx, c, args,
		func(fs *flag.FlagSet, f *config.Flags) {
			fs.StringVar(&f.Listen, "listen", "", "")
			fs.StringVar(&f.Forward, "forward", "", "")
		},
		func(f *config.Flags, _ *slog.Logger) (*config.Config, error) {
			cfg := config.Default()
			return cfg, usage(f.ApplyServe(cfg))
		})
}

// usageError marks an error as wrong usage of the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usage(err error) error {
	if err == nil {
		return nil
	}
	return usageError{err}
}

// daemon runs a command that runs the daemon: flags adds its own flags, and build makes the configuration, which the
// common flags then override.
func (p *Program) daemon(ctx context.Context, c *command, args []string, flags func(*flag.FlagSet, *config.Flags),
	build func(*config.Flags, *slog.Logger) (*config.Config, error)) int {
	var f config.Flags
	level := slog.LevelInfo
	fs := new(flag.FlagSet)
	f.Common(fs)
	fs.Func("log-level", "", func(s string) (err error) { level, err = parseLevel(s); return err })
	flags(fs, &f)
	if ok, exit := p.parse(c, fs, args); !ok {
		return exit
	}
	log := p.logger(level)
	cfg, err := build(&f, log)
	if err == nil {
		err = usage(f.Apply(cfg))
	}
	var wrong usageError
	switch {
	case errors.As(err, &wrong):
		return p.wrongUsage(c, err)
	case err != nil:
		return p.failed(c, err)
	case p.Daemon == nil:
		return p.notBuilt(ctx, c, args)
	}
	cfg.Warn(log)
	if err := p.Daemon(ctx, cfg, log); err != nil && !(ctx.Err() != nil && errors.Is(err, context.Cause(ctx))) {
		return p.failed(c, err)
	}
	return ExitGood
}

func (p *Program) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(p.Stderr, &slog.HandlerOptions{Level: level}))
}

func parseLevel(s string) (slog.Level, error) {
	switch s {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, errors.New("expected debug, info, warn or error")
}

// down is `innertun down`.
func (p *Program) down(ctx context.Context, c *command, args []string) int {
	fs := new(flag.FlagSet)
	socket := fs.String("control", config.DefaultSocket, "")
	if ok, exit := p.parse(c, fs, args); !ok {
		return exit
	}
	if p.Down == nil {
		return p.notBuilt(ctx, c, args)
	}
	if err := p.Down(ctx, *socket, p.logger(slog.LevelInfo)); err != nil {
		return p.failed(c, err)
	}
	return ExitGood
}
