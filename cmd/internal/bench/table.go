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
		"encrypted: TUN, tcpcrypt, serve. Both ends on this machine's cores. Idle: growth with 1,000 connections; bulk: resident after 8 streams.")
}
