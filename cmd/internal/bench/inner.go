package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
)

// innerPort is that of the streams with Inner Space; those without have bulkPort.
const innerPort = bulkPort + 1

// units compares encrypted streams with and without Inner Space: one pair of daemons, two ports, and short measurements in
// turn, so that what else the machine does falls on both.
type units struct {
	Without, With         []float64 // Gbit/s, one stream
	CPUWithout, CPUWith   []float64 // seconds of both daemons for each GB
	BackWithout, BackWith []float64 // Gbit/s, one stream, the other direction
}

func measureUnits(ctx context.Context, o options) (*units, error) {
	w, err := newWorld(ctx, o.binary)
	if err != nil {
		return nil, err
	}
	defer w.close()
	for _, port := range []int{bulkPort, innerPort} {
		p, err := w.start(w.server, "iperf3", "iperf3", "-s", "-p", strconv.Itoa(port))
		if err != nil {
			return nil, err
		}
		defer p.close()
	}
	control := [2]string{filepath.Join(w.dir, "server.sock"), filepath.Join(w.dir, "client.sock")}
	config := "[egress]\ninterface = \"bench0\"\n[control]\nsocket = %q\n"
	server, client := fmt.Sprintf(config, control[0]), fmt.Sprintf(config+"[tun]\nname = \"inner0\"\n", control[1])
	for port, mode := range map[int]string{bulkPort: "off", innerPort: "auto"} {
		server += fmt.Sprintf("[[serve]]\nlisten = \":%d\"\nforward = \"127.0.0.1:%d\"\n", port, port)
		client += fmt.Sprintf("[[rule]]\nport = [%d]\npolicy = \"require\"\nresume = false\ninner_space = %q\n", port, mode)
	}
	var d daemons
	defer d.close()
	if d.server, err = w.daemon(ctx, w.server, "server", server, control[0]); err != nil {
		return nil, err
	}
	if d.client, err = w.daemon(ctx, w.client, "client", client, control[1]); err != nil {
		return nil, err
	}
	u := new(units)
	for round := range 2*o.rounds + 1 {
		fmt.Fprintf(os.Stderr, "Inner Space, round %d/%d\n", round, 2*o.rounds)
		order := []int{bulkPort, innerPort}
		if round%2 == 1 {
			order = []int{innerPort, bulkPort}
		}
		for _, port := range order {
			if err := u.round(ctx, w, &d, port, o, round == 0); err != nil {
				return nil, err
			}
		}
	}
	return u, w.unitsAsMeant(ctx, control[1])
}

// round measures one stream each way. The first one only warms up.
func (u *units) round(ctx context.Context, w *world, d *daemons, port int, o options, warm bool) error {
	rate, cpu, back := &u.Without, &u.CPUWithout, &u.BackWithout
	if port == innerPort {
		rate, cpu, back = &u.With, &u.CPUWith, &u.BackWith
	}
	before := d.cpu()
	forth, octets, err := w.stream(ctx, port, o.seconds/2)
	if err != nil {
		return err
	}
	used := d.cpu() - before
	other, _, err := w.stream(ctx, port, o.seconds/2, "-R")
	if err != nil || warm {
		return err
	}
	*rate, *cpu, *back = append(*rate, forth), append(*cpu, used/octets*1e9), append(*back, other)
	return nil
}

// stream is one iperf3 run: what arrived in Gbit/s, and the octets sent.
func (w *world) stream(ctx context.Context, port, seconds int, args ...string) (rate, octets float64, err error) {
	out, err := w.exec(ctx, w.client, append([]string{"iperf3", "-c", serverAddress, "-p", strconv.Itoa(port), "-J", "-t", strconv.Itoa(max(seconds, 1))}, args...)...)
	if err != nil {
		return 0, 0, err
	}
	var report struct {
		End struct {
			Sent struct {
				Bytes float64 `json:"bytes"`
			} `json:"sum_sent"`
			Received struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		return 0, 0, err
	}
	return report.End.Received.BitsPerSecond / 1e9, report.End.Sent.Bytes, nil
}

// cpu is the processor time that both daemons have used, in seconds.
func (d *daemons) cpu() (seconds float64) {
	for _, p := range []*process{d.client, d.server} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(b), ") ") // the name may have blanks
		fields := strings.Fields(rest)
		for _, i := range []int{11, 12} { // utime and stime, in ticks of 10 ms
			if len(fields) > i {
				ticks, _ := strconv.ParseFloat(fields[i], 64)
				seconds += ticks / 100
			}
		}
	}
	return seconds
}

// unitsAsMeant asks the client's daemon what the connections were.
func (w *world) unitsAsMeant(ctx context.Context, control string) error {
	out, err := w.exec(ctx, w.client, w.binary, "conns", "--json", "--control", control)
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		var c struct {
			Remote     string
			Encrypted  bool
			InnerSpace bool `json:"inner_space"`
		}
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			return err
		}
		_, port, err := net.SplitHostPort(c.Remote)
		if err != nil {
			return err
		}
		if !c.Encrypted || c.InnerSpace != (port == strconv.Itoa(innerPort)) {
			return fmt.Errorf("the connection is not what was to be measured: %s", line)
		}
	}
	return nil
}

// summary is what JSON has of it.
func (u *units) summary() map[string]float64 {
	if u == nil {
		return nil
	}
	return map[string]float64{
		"one_stream": median(u.With), "one_stream_of_without": ratios(u.With, u.Without),
		"one_stream_reverse": median(u.BackWith), "one_stream_reverse_of_without": ratios(u.BackWith, u.BackWithout),
		"cpu_s_per_gb": median(u.CPUWith), "cpu_of_without": ratios(u.CPUWith, u.CPUWithout),
	}
}

func (u *units) print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\nInner Space\twithout\twith\tratio of rounds\tof medians\t")
	for _, row := range []struct {
		name          string
		without, with []float64
	}{
		{"one_stream Gbit/s", u.Without, u.With},
		{"one_stream_reverse Gbit/s", u.BackWithout, u.BackWith},
		{"processor time of both daemons, s/GB", u.CPUWithout, u.CPUWith},
	} {
		fmt.Fprintf(w, "%s\t%.4g\t%.4g\t%.3fx\t%.3fx\t\n", row.name, median(row.without), median(row.with),
			ratios(row.with, row.without), median(row.with)/median(row.without))
	}
	w.Flush()
	fmt.Fprintln(out, "\n"+
		"Encrypted streams of iperf3 through the same two daemons, with and without Inner Space in turn. More than 2 % between them is a fault.")
}
