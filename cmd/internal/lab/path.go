package lab

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"innertun/cmd/internal/lab/bridge"
	"innertun/integration/lab"
	"innertun/integration/lab/elements"
)

const pathText = `
Packets that come in at one interface pass the elements and leave at the other, both ways, in
real time, until SIGINT, SIGTERM or SIGHUP; then the counts are printed. The first element is nearest
to side a, the client's. innertun lab list names the elements.

Two TUN devices are made if they are not there, and go away at the end; move them to other
network namespaces, give them addresses and use them. Two other interfaces (veth, Ethernet)
are joined as by a bridge, and must not be used by this host otherwise.

  -a NAME                 the interface of side a
  -b NAME                 the interface of side b
  --mtu N                 of TUN devices that are made, octets (default 1500)
  --seed N                of the elements' chances (default 1)

example: innertun lab path -a tunA -b tunB delay:time=20ms loss:probability=0.01 nat
`

// runPath is `innertun lab path`.
func runPath(ctx context.Context, c *call) int {
	var cfg bridge.Config
	fs := new(flag.FlagSet)
	fs.StringVar(&cfg.A, "a", "", "")
	fs.StringVar(&cfg.B, "b", "", "")
	fs.IntVar(&cfg.MTU, "mtu", 1500, "")
	seed := fs.Uint64("seed", 1, "")
	words, ok, exit := c.parse(fs, pathText)
	if !ok {
		return exit
	}
	if cfg.A == "" || cfg.B == "" {
		return c.wrong(errors.New("-a and -b name the two interfaces"))
	}
	if cfg.MTU < 576 || cfg.MTU > 65535 {
		return c.wrong(fmt.Errorf("--mtu %d: expected 576 to 65535", cfg.MTU))
	}
	specs, err := parseSpecs(words)
	if err != nil {
		return c.wrong(err)
	}
	if cfg.Elements, err = elements.BuildAll(specs, elements.Env{Seed: *seed}); err != nil {
		return c.wrong(err)
	}
	b, err := bridge.Open(cfg)
	if errors.Is(err, os.ErrPermission) {
		err = fmt.Errorf("%w (needs root, or CAP_NET_ADMIN and CAP_NET_RAW)", err)
	}
	if err != nil {
		return c.failed(err)
	}
	fmt.Fprintf(c.stdout, "path from %s to %s through %d elements is up\n", cfg.A, cfg.B, len(specs))
	err = b.Run(ctx)
	b.Close()
	printStats(c.stdout, b, specs, cfg.Elements)
	if err != nil {
		return c.failed(err)
	}
	return exitGood
}

func parseSpecs(words []string) (specs []elements.Spec, err error) {
	for _, w := range words {
		s, err := elements.ParseSpec(w)
		if err != nil {
			return nil, err
		}
		specs = append(specs, s)
	}
	return specs, nil
}

func printStats(w io.Writer, b *bridge.Bridge, specs []elements.Spec, row []lab.Element) {
	for _, to := range []lab.End{lab.B, lab.A} {
		s := b.Stats(to)
		fmt.Fprintf(w, "%s to %s: %d packets in, %d out, %d not taken by the interface, %d for nobody known\n",
			to.Other(), to, s.In, s.Out, s.Lost, s.Alien)
	}
	for i, e := range row {
		if a, ok := e.(lab.Actor); ok {
			fmt.Fprintf(w, "%s: acted on %d\n", specs[i], a.Acted())
		}
	}
}
