package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// columns are the figures of the table, in order. of tells whether a ratio to the first way makes sense.
var columns = []struct {
	name   string
	unit   string
	of     bool
	values func(*result) []float64
}{
	{"one_stream", "Gbit/s", true, func(r *result) []float64 { return r.OneStream }},
	{"one_stream_reverse", "Gbit/s", true, func(r *result) []float64 { return r.Upload }},
	{"eight_streams", "Gbit/s", true, func(r *result) []float64 { return r.EightStreams }},
	{"connections_1", "1/s", true, func(r *result) []float64 { return r.ConnsOne }},
	{"connections_16", "1/s", true, func(r *result) []float64 { return r.ConnsSixteen }},
	{"short_connections", "1/s", true, func(r *result) []float64 { return r.Short }},
	{"short_slowest", "ms", false, func(r *result) []float64 { return r.ShortSlowest }},
	{"short_failed", "", false, func(r *result) []float64 { return r.ShortFailed }},
	{"idle_1000_client", "MiB", false, func(r *result) []float64 { return r.ClientIdle }},
	{"idle_1000_server", "MiB", false, func(r *result) []float64 { return r.ServerIdle }},
	{"bulk_8_client", "MiB", false, func(r *result) []float64 { return r.ClientBusy }},
	{"bulk_8_server", "MiB", false, func(r *result) []float64 { return r.ServerBusy }},
}

func summarize(results []*result) map[string]map[string]float64 {
	all := make(map[string]map[string]float64)
	for _, r := range results {
		m := make(map[string]float64)
		for _, c := range columns {
			if v := c.values(r); len(v) > 0 {
				m[c.name] = median(v)
			}
		}
		all[r.Way] = m
	}
	return all
}

// ratios is the median of what each round of one way is to the same round of another.
func ratios(of, to []float64) float64 {
	var all []float64
	for i := range of {
		all = append(all, of[i]/to[i])
	}
	return median(all)
}

func summarizeOpenings(all []opened) map[string]map[string]float64 {
	m := make(map[string]map[string]float64)
	for _, o := range all {
		m[o.Name] = map[string]float64{"latency_us": median(o.Latency), "connections_16": median(o.Rate), "cpu_us": median(o.CPU)}
	}
	return m
}

func summarizeFrames(all []framed) map[string]map[string]float64 {
	m := make(map[string]map[string]float64)
	for _, f := range all {
		m[fmt.Sprintf("%s/%d", f.Cipher, f.Size)] = map[string]float64{
			"seal": median(f.Seal), "seal_of_bare": ratios(f.Seal, f.BareSeal),
			"open": median(f.Open), "open_of_bare": ratios(f.Open, f.BareOpen),
		}
	}
	return m
}

func (r report) print(out io.Writer) {
	if r.ways != nil {
		printTable(out, r.ways)
	}
	if r.units != nil {
		r.units.print(out)
	}
	if r.handshakes != nil {
		printOpenings(out, r.handshakes)
	}
	if r.frames != nil {
		printFrames(out, r.frames)
	}
	if r.floods != nil {
		printFloods(out, r.floods)
	}
}

// base is the way that others are compared with.
const base = "tls-full"

func printOpenings(out io.Writer, all []opened) {
	var to opened
	for _, o := range all {
		if o.Name == base {
			to = o
		}
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\nhandshakes\tus to the reply\tof "+base+"\tconnections/s, 16 at once\tof "+base+"\tus of processor time\tof "+base+"\t")
	for _, o := range all {
		fmt.Fprintf(w, "%s\t%.0f\t%.2fx\t%.0f\t%.2fx\t%.0f\t%.2fx\t\n", o.Name, median(o.Latency), ratios(o.Latency, to.Latency),
			median(o.Rate), ratios(o.Rate, to.Rate), median(o.CPU), ratios(o.CPU, to.CPU))
	}
	w.Flush()
	fmt.Fprintln(out, "\n"+
		"Connect, one octet each way, close; both ends in this process, over the same two netstacks and a path without delay.\n"+
		"Curve25519 everywhere; TLS is crypto/tls 1.3 with a certificate of ECDSA P-256. pool: key pairs made in advance.")
}

func printFrames(out io.Writer, all []framed) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\nframes\toctets\tseal GB/s\tof bare\topen GB/s\tof bare\t")
	for _, f := range all {
		fmt.Fprintf(w, "%s\t%d\t%.2f\t%.2fx\t%.2f\t%.2fx\t\n", f.Cipher, f.Size, median(f.Seal), ratios(f.Seal, f.BareSeal), median(f.Open), ratios(f.Open, f.BareOpen))
	}
	w.Flush()
	fmt.Fprintln(out, "\n"+
		"One stream through tcpcrypt.Conn over a transport that costs nothing, one write a frame, against the AEAD alone, in place.")
}

// printTable prints a row a figure and a column a way, each with its ratio to the first way.
func printTable(out io.Writer, results []*result) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "\t")
	for _, r := range results {
		fmt.Fprintf(w, "%s\t", r.Way)
	}
	fmt.Fprintln(w)
	for _, c := range columns {
		fmt.Fprintf(w, "%s %s\t", c.name, c.unit)
		base := median(c.values(results[0]))
		for i, r := range results {
			v := c.values(r)
			switch {
			case len(v) == 0:
				fmt.Fprint(w, "-\t")
			case c.of && i > 0 && base > 0:
				fmt.Fprintf(w, "%.4g (%.2fx)\t", median(v), median(v)/base)
			default:
				fmt.Fprintf(w, "%.4g\t", median(v))
			}
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	fmt.Fprintln(out, "\n"+
		"direct: kernel TCP over the veth pair. plain-relay: TUN, relayed to host sockets. off: TUN, policy off, serve.\n"+
		"encrypted: TUN, tcpcrypt with fresh keys, serve. resumed: likewise, with resumption. Both ends on this machine's cores. Idle: growth with 1,000 connections; bulk: resident after 8 streams.")
}
