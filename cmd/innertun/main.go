// Command innertun encrypts the TCP connections of unmodified programs with TCP-ENO and tcpcrypt wherever the other end
// can.
package main

import (
	"context"
	"log/slog"
	"os"

	"innertun/cmd/internal/cli"
	"innertun/cmd/internal/config"
	"innertun/cmd/internal/daemon"
	"innertun/cmd/internal/demo"
	"innertun/cmd/internal/lab"
	"innertun/cmd/internal/probe"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := untilSignal(context.Background(), patience)
	defer stop()
	p := &cli.Program{
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
		Version: cli.Version(),
		Demo:    demo.Command,
		Lab:     lab.Command,
		Probe:   probe.Command,
		Daemon: func(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
			return daemon.Run(ctx, cfg, cli.Version(), log)
		},
		Down: daemon.Down,
	}
	return p.Main(ctx, os.Args[1:])
}
