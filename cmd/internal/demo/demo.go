// Package demo shows in one process what the program does on a network: a client sends a file to a server that speaks
// TCP-ENO and tcpcrypt and to one that does not, over a path with delay and an eavesdropper on it.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"syscall"
	"time"

	"innertun/tcpinc"
)

// Options says how a run goes.
type Options struct {
	Listen string        // of the SOCKS5 port; "": 127.0.0.1:1080
	Once   bool          // end after the transfers
	JSON   bool          // print the report as one JSON object and nothing else
	RTT    time.Duration // of the path; 0: DefaultRTT
	Size   int           // of the file, octets; 0: DefaultSize
	Out    io.Writer
	Logger *slog.Logger // nil: discard
}

// Defaults of Options.
const (
	DefaultListen = "127.0.0.1:1080"
	DefaultRTT    = 80 * time.Millisecond
	DefaultSize   = 1 << 20
)

// ErrChecks says that something the demo shows did not hold; the report names it.
var ErrChecks = errors.New("not all checks held")

// want is what must hold of each transfer, by name. RFC 8548 costs a round trip more than plain TCP,
// the first time.
var want = map[string]expected{
	"fresh":   {encrypted: true, roundTrips: 3},
	"legacy":  {encrypted: false, roundTrips: 2},
	"resumed": {encrypted: true, resumed: true, roundTrips: 2},

	"inner-space": {encrypted: true, innerSpace: true, roundTrips: 2},
	"early-data":  {encrypted: true, resumed: true, innerSpace: true, earlyData: true, roundTrips: 1},
}

func (o Options) withDefaults() Options {
	if o.Listen == "" {
		o.Listen = DefaultListen
	}
	if o.RTT == 0 {
		o.RTT = DefaultRTT
	}
	if o.Size == 0 {
		o.Size = DefaultSize
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Run makes the transfers, reports them, and with Once unset goes on serving until ctx ends, which is no error.
func Run(ctx context.Context, o Options) error {
	o = o.withDefaults()
	var port net.Listener
	if !o.Once {
		var err error
		if port, err = listen(ctx, o.Listen); err != nil {
			return err
		}
		defer port.Close()
	}
	text := o.Out
	if o.JSON {
		text = io.Discard
	}
	if o.Once {
		printWorld(text, o.RTT, o.Size)
		fmt.Fprint(text, "The clock stands still while there is anything to do: all that takes time is the path.\n\n")
		report, err := o.still(ctx, text)
		if !errors.Is(err, errRestless) {
			return o.end(ctx, text, report, err)
		}
		fmt.Fprint(text, "It does not come to rest. Once more, by the clock on the wall.\n\n")
	}
	w, report, err := o.show(ctx, text)
	for try := 1; err == nil && report.busy && try < maxTries; try++ {
		w.close()
		fmt.Fprint(text, "The machine was busy with something else, and that counts as time on the path. Once more.\n\n")
		w, report, err = o.show(ctx, text)
	}
	if err == nil {
		defer w.close()
	}
	if err == nil && report.busy {
		fmt.Fprint(text, "Still busy. Once more, on a clock that stands still while there is anything to do: the same\ntransfers, but all that takes time is the path.\n")
		report, err = o.still(ctx, text)
	}
	if err = o.end(ctx, text, report, err); err != nil || o.Once || ctx.Err() != nil {
		return err
	}
	w.tap.Stop()
	printInvitation(text, port.Addr().String())
	return w.serve(ctx, port, text)
}

// end reports the transfers. That ctx has ended them is no error.
func (o Options) end(ctx context.Context, text io.Writer, report Report, err error) error {
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	printTable(text, report)
	if o.JSON {
		if err := json.NewEncoder(o.Out).Encode(report); err != nil {
			return err
		}
	}
	if !report.OK {
		return ErrChecks
	}
	return nil
}

// maxTries is how often the clock on the wall is tried, on a busy machine.
const maxTries = 2

// show makes a world and the transfers in it. Without an error the world is the caller's to close.
func (o Options) show(ctx context.Context, text io.Writer) (*world, Report, error) {
	w, err := newWorld(setup{rtt: o.RTT, log: o.Logger})
	if err != nil {
		return nil, Report{}, err
	}
	printWorld(text, o.RTT, o.Size)
	report, err := w.transfers(ctx, o.Size, func(t Transfer) { printTransfer(text, t, o.RTT) })
	if err != nil {
		w.close()
		return nil, report, err
	}
	return w, report, nil
}

// transfers sends a file to each server in turn, and three times more to the one that it has exchanged keys with.
func (w *world) transfers(ctx context.Context, size int, done func(Transfer)) (Report, error) {
	report := Report{RTT: ms(w.rtt)}
	late := 0
	for _, to := range []struct {
		name   string
		server *server
		way    way
	}{
		{"fresh", w.servers[0], way{}},
		{"legacy", w.servers[1], way{}},
		{"resumed", w.servers[0], way{}},
		{"inner-space", w.servers[0], way{inner: tcpinc.InnerSpaceOn}},
		{"early-data", w.servers[0], way{inner: tcpinc.InnerSpaceOn, early: true}},
	} {
		t, err := w.transfer(ctx, to.name, to.server, to.way, size)
		if err != nil {
			return report, err
		}
		report.Transfers = append(report.Transfers, t)
		report.failures = append(report.failures, t.check(want[t.Name])...)
		if t.late(want[t.Name]) {
			late++
		}
		done(t)
	}
	report.OK = len(report.failures) == 0
	report.busy = late > 0 && len(report.failures) == late
	return report, nil
}

// listen opens the SOCKS5 port.
func listen(ctx context.Context, at string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", at)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s is taken by another program: choose another port with -listen, as in -listen 127.0.0.1:1081", at)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the SOCKS5 port: %w", err)
	}
	return l, nil
}
