// Command innertun encrypts the TCP connections of unmodified programs with TCP-ENO and tcpcrypt wherever the other end
// can.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"innertun/cmd/internal/cli"
	"innertun/cmd/internal/demo"
	"innertun/internal/host"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	p := &cli.Program{
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
		Version: cli.Version(),
		Demo:    demo.Command,
		Down:    down,
	}
	return p.Main(ctx, os.Args[1:])
}

// down removes what an earlier run has left on this host.
func down(_ context.Context, socket string, log *slog.Logger) error {
	undone, err := host.Clean(host.Config{Control: socket, Logger: log})
	if err != nil {
		return err
	}
	log.Info("this host is as it was", "undone", len(undone))
	return nil
}
