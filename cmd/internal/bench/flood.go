package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

const (
	// floodWarmUp is how long a flood lasts before good clients come: until what it can fill is full.
	floodWarmUp  = 5
	floodSeconds = 5
	goodRate     = 40 // good connections a second
)

// flooding is one kind of flood against one kind of server.
type flooding struct {
	server string
	kind   string // "": none
	kernel string // net.ipv4.tcp_syncookies; "": the server is innertun
}

var floodings = []flooding{
	{"kernel", "", "1"},
	{"kernel", "SYN", "1"},
	{"innertun", "", ""},
	{"innertun", "SYN", ""},
	{"innertun", "SYN with ENO", ""},
	{"innertun", "SYN-U", ""},
}

// weathered is what became of good connections, in each round.
type weathered struct {
	Server, Flood        string
	Sent                 []float64 // forged SYNs a second
	Tried, Failed        []float64
	Median, Late, Latest []float64 // ms
	CPU                  []float64 // us of the server's for each forged SYN; of innertun
	Before, After        []float64 // MiB resident; of innertun
	InnerSpace           []float64 // share of the connections that the server has seen so
}

func measureFloods(ctx context.Context, o options) ([]*weathered, error) {
	w, err := newWorld(ctx, o.binary)
	if err != nil {
		return nil, err
	}
	defer w.close()
	var results []*weathered
	for _, f := range floodings {
		results = append(results, &weathered{Server: f.server, Flood: f.kind})
	}
	for round := range o.rounds {
		for i, f := range floodings {
			fmt.Fprintf(os.Stderr, "round %d/%d: %s, flood of %q\n", round+1, o.rounds, f.server, f.kind)
			if err := w.weather(ctx, f, o.flood, results[i]); err != nil {
				return nil, fmt.Errorf("%s, %s: %w", f.server, f.kind, err)
			}
		}
	}
	return results, nil
}

func (w *world) weather(ctx context.Context, f flooding, rate int, r *weathered) error {
	at := net.JoinHostPort(serverAddress, strconv.Itoa(shortPort))
	echo, err := w.start(w.server, "echo", w.self, "echo-one", net.JoinHostPort("", strconv.Itoa(shortPort)))
	if err != nil {
		return err
	}
	defer echo.close()
	if f.kernel != "" {
		if _, err := w.exec(ctx, w.server, "sysctl", "-qw", "net.ipv4.tcp_syncookies="+f.kernel); err != nil {
			return err
		}
	}
	way := way{}
	if f.kernel == "" {
		way.policy, way.serve, way.resume = "require", true, true
	}
	d, err := w.daemons(ctx, way)
	if err != nil {
		return err
	}
	defer d.close()
	time.Sleep(300 * time.Millisecond)
	if _, err := w.exec(ctx, w.client, w.self, "short", at, "1", "3x"); err != nil { // what the server speaks is known then
		return err
	}
	before, cpu := d.rss(), cpuTime(d.server)
	sent := func() (float64, error) { return 0, nil }
	if f.kind != "" {
		if sent, err = w.startFlood(f.kind, at, rate); err != nil {
			return err
		}
		time.Sleep(floodWarmUp * time.Second)
	}
	out, err := w.exec(ctx, w.client, w.self, "good", at, strconv.Itoa(goodRate), strconv.Itoa(floodSeconds))
	if err != nil {
		return err
	}
	var tried, failed, median, late, latest float64
	if _, err := fmt.Sscan(out, &tried, &failed, &median, &late, &latest); err != nil {
		return err
	}
	r.Tried, r.Failed = append(r.Tried, tried), append(r.Failed, failed)
	r.Median, r.Late, r.Latest = append(r.Median, median), append(r.Late, late), append(r.Latest, latest)
	n, err := sent()
	if err != nil {
		return err
	}
	if f.kind != "" {
		r.Sent = append(r.Sent, n/(floodWarmUp+floodSeconds+1))
	}
	if f.kernel != "" {
		return nil
	}
	if n > 0 {
		r.CPU = append(r.CPU, float64(cpuTime(d.server)-cpu)/n*1e6)
	}
	r.Before, r.After = append(r.Before, mib(before[1])), append(r.After, mib(d.rss()[1]))
	share, err := w.innerSpaceShare(ctx)
	r.InnerSpace = append(r.InnerSpace, share)
	return err
}

// startFlood starts a flood that lasts a second longer than it is needed. The function waits for its end and returns how many
// SYNs were sent.
func (w *world) startFlood(kind, at string, rate int) (func() (float64, error), error) {
	var out bytes.Buffer
	cmd := exec.Command("ip", "netns", "exec", w.client, w.self, "flood", kind, at, strconv.Itoa(rate), strconv.Itoa(floodWarmUp+floodSeconds+1))
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() (n float64, err error) {
		if err := cmd.Wait(); err != nil {
			return 0, err
		}
		_, err = fmt.Sscan(out.String(), &n)
		return n, err
	}, nil
}

// innerSpaceShare is how many of the connections that the client knows of had Inner Space. All are encrypted: policy demands it.
func (w *world) innerSpaceShare(ctx context.Context) (float64, error) {
	out, err := w.exec(ctx, w.client, w.binary, "conns", "--json", "--control", filepath.Join(w.dir, "client.sock"))
	if err != nil {
		return 0, err
	}
	var all, inner float64
	for line := range strings.Lines(out) {
		var c struct {
			Encrypted  bool
			InnerSpace bool `json:"inner_space"`
		}
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			return 0, err
		}
		if c.Encrypted {
			all++
		}
		if c.InnerSpace {
			inner++
		}
	}
	return inner / max(all, 1), nil
}

// cpuTime is the processor time of a process, in seconds.
func cpuTime(p *process) float64 {
	if p == nil {
		return 0
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100 // USER_HZ
}

func printFloods(out io.Writer, results []*weathered) {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "server\tflood of\tforged SYNs/s\tgood connections\tfailed\tmedian ms\t95 %\tslowest\tus of CPU a forged SYN\tMiB before\tafter\tInner Space")
	for _, r := range results {
		flood := r.Flood
		if flood == "" {
			flood = "none"
		}
		fmt.Fprintf(t, "%s\t%s\t%.0f\t%.0f\t%.1f\t%.1f\t%.1f\t%.0f\t", r.Server, flood, median(r.Sent), median(r.Tried), median(r.Failed), median(r.Median), median(r.Late), median(r.Latest))
		if r.Server == "innertun" {
			fmt.Fprintf(t, "%.1f\t%.0f\t%.0f\t%.0f %%", median(r.CPU), median(r.Before), median(r.After), 100*median(r.InnerSpace))
		}
		fmt.Fprintln(t)
	}
	t.Flush()
}
