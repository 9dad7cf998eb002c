package main

import (
	"bytes"
	"strings"
	"testing"

	"innertun/tcpinc/tcpcrypt"
)

// Every way to open a connection opens three, the second and third resumed where that is what it is about.
func TestOpenings(t *testing.T) {
	w, err := newOpenings()
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	var all []opened
	for _, way := range w.ways {
		dial := way.dial()
		for range 3 {
			if _, err := way.connect(t.Context(), dial); err != nil {
				t.Errorf("%s: %v", way.name, err)
			}
		}
		all = append(all, opened{way.name, []float64{2, 8, 4}, []float64{1, 1, 1}, []float64{3, 3, 3}})
	}
	all[0].Latency = []float64{1, 2, 2}
	var out bytes.Buffer
	printOpenings(&out, all)
	if !strings.Contains(out.String(), "plain                2        0.50x") || strings.Count(out.String(), "1.00x") != 3*len(all)-1 {
		t.Error(out.String())
	}
}

func TestFrames(t *testing.T) {
	for _, c := range tcpcrypt.Ciphers() {
		l := load{20, 1000}
		seal, open, err := l.frames(c)
		if err != nil || seal <= 0 || open <= 0 {
			t.Errorf("%v: %v, %v, %v", c, seal, open, err)
		}
		if seal, open, err = l.bare(c); err != nil || seal <= 0 || open <= 0 {
			t.Errorf("%v alone: %v, %v, %v", c, seal, open, err)
		}
	}
}
