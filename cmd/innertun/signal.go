package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// patience is how long after the first signal a further one only repeats the wish: timeout(1), sudo and terminals send theirs to
// the process and to its group, and what was changed on the host has to be undone all the same.
const patience = time.Second

// untilSignal returns a context that ends at SIGINT, SIGTERM, or SIGHUP (its terminal was closed; not under nohup). A further one
// ends the process at once if what it does at its end takes longer than patience.
func untilSignal(parent context.Context, patience time.Duration) (context.Context, context.CancelFunc) {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(parent, signals...)
	context.AfterFunc(ctx, func() { time.AfterFunc(patience, stop) })
	return ctx, stop
}
