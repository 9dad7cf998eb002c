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
	"slices"
	"strings"
	"syscall"
	"time"
)

type options struct {
	binary  string
	rounds  int
	seconds int
	only    string
	parts   string
	asJSON  bool
	short   int
	flood   int
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
	flag.StringVar(&o.parts, "parts", "ways,inner,handshakes,frames,floods", "what to measure: ways from program to program (needs root); inner, encrypted streams with and without Inner Space (needs root); handshakes, beside TLS; frames, beside the bare AEAD; floods of SYNs, beside the kernel (needs root)")
	flag.IntVar(&o.flood, "flood", 5000, "forged SYNs a second")
	flag.IntVar(&o.short, "short", 10000, "short connections of the TIME-WAIT measurement (0: none)")
	flag.BoolVar(&o.asJSON, "json", false, "print one JSON object instead of the table")
	flag.Parse()
	if os.Geteuid() != 0 && (o.has("ways") || o.has("inner") || o.has("floods")) {
		fmt.Fprintln(os.Stderr, "bench: needs root, for network namespaces and a TUN device; -parts handshakes,frames does without")
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// has reports whether a part is to be measured.
func (o options) has(part string) bool { return slices.Contains(strings.Split(o.parts, ","), part) }

// report is all that was measured.
type report struct {
	ways       []*result
	units      *units // nil: not measured
	handshakes []opened
	frames     []framed
	floods     []*weathered
}

func run(ctx context.Context, o options) (err error) {
	for part := range strings.SplitSeq(o.parts, ",") {
		if !slices.Contains([]string{"ways", "inner", "handshakes", "frames", "floods"}, part) {
			return fmt.Errorf("no part named %q: there are ways, inner, handshakes, frames and floods", part)
		}
	}
	var r report
	if o.has("ways") {
		if r.ways, err = measureWays(ctx, o); err != nil {
			return err
		}
	}
	if o.has("inner") {
		if r.units, err = measureUnits(ctx, o); err != nil {
			return fmt.Errorf("with and without Inner Space: %w", err)
		}
	}
	if o.has("handshakes") {
		if r.handshakes, err = measureOpenings(ctx, max(o.rounds, 3), time.Duration(o.seconds)*time.Second/4); err != nil {
			return fmt.Errorf("handshakes: %w", err)
		}
	}
	if o.has("frames") {
		if r.frames, err = measureFrames(max(o.rounds, 3)); err != nil {
			return fmt.Errorf("frames: %w", err)
		}
	}
	if o.has("floods") {
		if r.floods, err = measureFloods(ctx, o); err != nil {
			return fmt.Errorf("floods: %w", err)
		}
	}
	if o.asJSON {
		return json.NewEncoder(os.Stdout).Encode(map[string]any{
			"cpus": runtime.NumCPU(), "go": runtime.Version(), "rounds": o.rounds, "seconds": o.seconds,
			"time": time.Now().UTC().Format(time.RFC3339), "ways": summarize(r.ways), "inner_space": r.units.summary(),
			"handshakes": summarizeOpenings(r.handshakes), "frames": summarizeFrames(r.frames), "floods": r.floods})
	}
	r.print(os.Stdout)
	return nil
}

func measureWays(ctx context.Context, o options) ([]*result, error) {
	ways, err := pick(o.only)
	if err != nil {
		return nil, err
	}
	w, err := newWorld(ctx, o.binary)
	if err != nil {
		return nil, err
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
				return nil, fmt.Errorf("%s: %w", way.name, err)
			}
		}
	}
	return results, nil
}
