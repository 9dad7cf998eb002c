package probe

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"innertun/cmd/internal/probe/rawnet"
)

// Exit statuses of Command.
const (
	exitGood  = 0
	exitFail  = 1
	exitUsage = 2
)

const usage = "usage: innertun probe [flags] HOST:PORT ... | -f FILE\n"

const helpText = `
Asks a server what survives on the path to it: whether a SYN with TCP-ENO, with data, with
an option nobody knows comes through and what is answered; whether the server speaks ENO,
tcpcrypt, Inner Space and TCP Fast Open; and which hop changes packets. Needs root, or
CAP_NET_ADMIN and CAP_NET_RAW. Nothing stays half open at the server.

  -f FILE                 targets, one a line; # begins a comment; - for standard input
  --json                  one JSON object a target and address, one a line
  -4, -6                  IPv4 or IPv6 addresses of names; both: one of each
                          (default: the first that the system's resolver gives)
  -i, --interface NAME    leave by this interface (default: as the routes say)
  --rate N                SYNs a second, of all targets together (default 50)
  --timeout TIME          how long an answer may take (default 1.3s)
  --tries N               SYNs at most for each question (default 8)
  --hops N                routers at most (default 30); 0: don't look for hops

Exit status: 0 all targets were probed, whatever the answers; 1 some could not be;
2 wrong usage.
`

// atOnce is how many targets are probed at once.
const atOnce = 8

// lingering is how long what still arrives at the end is answered. After that the kernel answers it.
const lingering = 250 * time.Millisecond

// options are the command line.
type options struct {
	file, interfaceName string
	json, four, six     bool
	rate                float64
	timeout             time.Duration
	tries, hops         int
	targets             []string
}

// Command runs `innertun probe` with what follows the word on the command line, and returns the exit status.
func Command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage, helpText)
		return exitGood
	}
	if err == nil {
		err = o.readFile(os.Stdin)
	}
	var bad *usageError
	if errors.As(err, &bad) {
		fmt.Fprintf(stderr, "innertun probe: %v\n%sinnertun probe -h tells more\n", err, usage)
		return exitUsage
	}
	if err == nil {
		err = o.run(ctx, stdout)
	}
	switch {
	case err == nil || ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return exitGood
	case !errors.Is(err, errSome):
		fmt.Fprintf(stderr, "innertun probe: %v\n", err)
	}
	return exitFail
}

// usageError is wrong usage.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// errSome says that some targets could not be probed; their results tell why.
var errSome = errors.New("some targets could not be probed")

func parse(args []string) (*options, error) {
	o := new(options)
	fs := flag.NewFlagSet("innertun probe", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	fs.StringVar(&o.file, "f", "", "")
	fs.StringVar(&o.interfaceName, "i", "", "")
	fs.StringVar(&o.interfaceName, "interface", "", "")
	fs.BoolVar(&o.json, "json", false, "")
	fs.BoolVar(&o.four, "4", false, "")
	fs.BoolVar(&o.six, "6", false, "")
	fs.Float64Var(&o.rate, "rate", DefaultRate, "")
	fs.DurationVar(&o.timeout, "timeout", DefaultTimeout, "")
	fs.IntVar(&o.tries, "tries", DefaultTries, "")
	fs.IntVar(&o.hops, "hops", DefaultHops, "")
	for {
		if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
			return nil, err
		} else if err != nil {
			return nil, &usageError{err}
		}
		if fs.NArg() == 0 {
			break
		}
		o.targets, args = append(o.targets, fs.Arg(0)), fs.Args()[1:]
	}
	return o, o.check()
}

func (o *options) check() error {
	wrong := func(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }
	switch {
	case len(o.targets) == 0 && o.file == "":
		return wrong("no target: expected HOST:PORT, or -f FILE")
	case !(o.rate > 0 && o.rate <= 10000):
		return wrong("--rate %v: expected more than 0, at most 10000", o.rate)
	case o.timeout < 10*time.Millisecond || o.timeout > time.Minute:
		return wrong("--timeout %v: expected 10ms to 1m", o.timeout)
	case o.tries < agreeing || o.tries > 100:
		return wrong("--tries %d: expected %d to 100", o.tries, agreeing)
	case o.hops < 0 || o.hops > 255:
		return wrong("--hops %d: expected 0 to 255", o.hops)
	}
	for _, t := range o.targets {
		if _, _, err := splitTarget(t); err != nil {
			return &usageError{err}
		}
	}
	return nil
}

// readFile adds the targets of the file.
func (o *options) readFile(stdin io.Reader) error {
	if o.file == "" {
		return nil
	}
	in := stdin
	if o.file != "-" {
		f, err := os.Open(o.file)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	lines := bufio.NewScanner(in)
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		for _, target := range strings.Fields(text) {
			if _, _, err := splitTarget(target); err != nil {
				return &usageError{fmt.Errorf("%s:%d: %w", o.file, n, err)}
			}
			o.targets = append(o.targets, target)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s: %w", o.file, err)
	}
	if len(o.targets) == 0 {
		return &usageError{fmt.Errorf("%s has no target", o.file)}
	}
	return nil
}

func splitTarget(target string) (hostName string, port uint16, err error) {
	hostName, service, err := net.SplitHostPort(target)
	n, portErr := strconv.ParseUint(service, 10, 16)
	if err != nil || hostName == "" || portErr != nil || n == 0 {
		return "", 0, fmt.Errorf("%q is no target: expected HOST:PORT, as in example.net:80 or [2001:db8::1]:80", target)
	}
	return hostName, uint16(n), nil
}

// run opens the network and probes all targets. Results are written in the order of the targets.
func (o *options) run(ctx context.Context, stdout io.Writer) error {
	network, err := rawnet.Open(o.interfaceName)
	if err != nil {
		return err
	}
	defer network.Close()
	hops := o.hops
	if hops == 0 {
		hops = -1
	}
	p := New(Config{Network: network, Ports: network.Ports(), Rand: rand.Reader, Timeout: o.timeout, Tries: o.tries, Hops: hops, Rate: o.rate})
	if err := network.Start(p.Receive); err != nil {
		return err
	}
	err = o.probeAll(ctx, p, stdout)
	_ = p.sleep(context.WithoutCancel(ctx), lingering)
	return err
}

func (o *options) probeAll(ctx context.Context, p *Prober, stdout io.Writer) error {
	results := make([]chan []*Result, len(o.targets))
	slots := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	defer all.Wait()
	for i := range results {
		results[i] = make(chan []*Result, 1)
	}
	all.Go(func() {
		for i, target := range o.targets {
			slots <- struct{}{}
			all.Go(func() {
				defer func() { <-slots }()
				results[i] <- o.probe(ctx, p, target)
			})
		}
	})
	var failed error
	for i := range results {
		for _, r := range <-results[i] {
			if r.Error != "" {
				failed = errSome
			}
			if err := o.write(stdout, r); err != nil {
				return err
			}
		}
	}
	return errors.Join(ctx.Err(), failed)
}

// probe probes the addresses of one target.
func (o *options) probe(ctx context.Context, p *Prober, target string) (out []*Result) {
	addresses, err := o.resolve(ctx, target)
	if err != nil {
		r := newResult(target, netip.AddrPort{})
		r.Error = err.Error()
		r.notAsked("there is no address")
		r.tidy()
		return []*Result{r}
	}
	for _, to := range addresses {
		out = append(out, p.Probe(ctx, target, to))
	}
	return out
}

// resolve returns the addresses of a target that are to be probed.
func (o *options) resolve(ctx context.Context, target string) ([]netip.AddrPort, error) {
	name, port, err := splitTarget(target)
	if err != nil {
		return nil, err
	}
	all, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return nil, err
	}
	var four, six, out []netip.AddrPort
	for _, a := range all {
		at := netip.AddrPortFrom(a.Unmap(), port)
		if len(out) == 0 {
			out = append(out, at)
		}
		if at.Addr().Is4() {
			four = append(four, at)
		} else {
			six = append(six, at)
		}
	}
	if o.four || o.six {
		out = nil
	}
	if o.four && len(four) > 0 {
		out = append(out, four[0])
	}
	if o.six && len(six) > 0 {
		out = append(out, six[0])
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s has no address of the family asked for", name)
	}
	return out, nil
}

func (o *options) write(w io.Writer, r *Result) error {
	if o.json {
		return json.NewEncoder(w).Encode(r)
	}
	_, err := io.WriteString(w, r.Table())
	return err
}
