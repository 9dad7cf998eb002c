// Command bench measures what innertun costs beside the kernel's own TCP, on one machine, in one run: two network
// namespaces joined by a veth pair, the daemon at both ends, iperf3 and a connection counter as the workload.
//
// Every figure is a median of several rounds, and the rounds of the ways compared alternate, so that the machine's mood
// falls on all of them alike. Figures are printed, never asserted.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

type options struct {
	binary  string
	rounds  int
	seconds int
	only    string
	asJSON  bool
	short   int
}

func main() {
	if len(os.Args) > 1 {
		if tool, ok := tools[os.Args[1]]; ok {
			os.Exit(tool(os.Args[2:]))
		}
	}
	var o options
	flag.StringVar(&o.binary, "binary", "bin/innertun", "the innertun binary to measure")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds of each way; the median is printed")
	flag.IntVar(&o.seconds, "seconds", 4, "seconds of each measurement")
	flag.StringVar(&o.only, "only", "", "comma-separated ways to measure (default all): "+wayNames())
	flag.IntVar(&o.short, "short", 10000, "short connections of the TIME-WAIT measurement (0: none)")
	flag.BoolVar(&o.asJSON, "json", false, "print one JSON object instead of the table")
	flag.Parse()
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "bench: needs root, for network namespaces and a TUN device")
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	ways, err := pick(o.only)
	if err != nil {
		return err
	}
	w, err := newWorld(ctx, o.binary)
	if err != nil {
		return err
	}
	defer w.close()
	results := make([]*result, len(ways))
	for i, way := range ways {
		results[i] = &result{Way: way.name}
	}
	for round := range o.rounds {
		for i, way := range ways {
			fmt.Fprintf(os.Stderr, "round %d/%d: %s\n", round+1, o.rounds, way.name)
			if err := measure(ctx, w, way, o, results[i], round == 0); err != nil {
				return fmt.Errorf("%s: %w", way.name, err)
			}
		}
	}
	if o.asJSON {
		return json.NewEncoder(os.Stdout).Encode(map[string]any{
			"cpus": runtime.NumCPU(), "go": runtime.Version(), "rounds": o.rounds, "seconds": o.seconds,
			"time": time.Now().UTC().Format(time.RFC3339), "ways": summarize(results)})
	}
	printTable(os.Stdout, results)
	return nil
}
