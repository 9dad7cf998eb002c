package cell

import (
	"slices"
	"testing"

	"innertun/integration/lab/elements"
)

// expected is what an element's example leads to where that is not "all works": under opportunistic, and under require.
var expected = map[string][2][]Outcome{
	"strip-options":     {{FellBack}, {Broke}},
	"echo-options":      {{FellBack}, {Broke}}, // both ends then claim to be B
	"corrupt-option":    {{Broke}, {Broke}},    // the ends disagree on the transcript: tampering, never plain
	"block-syn-options": {{FellBack}, {Broke}},
	"splice":            {{FellBack}, {Broke}},
	"block-unknown":     {{FellBack}, {Broke}},
	// Whether a key looks like noise to the box is a matter of chance.
	"block-ciphertext": {{FellBack, Encrypted}, {Broke, Encrypted}},
}

// idle are elements that have nothing to do here: nobody sends data in a SYN, or what a firewall must stop, or asks how far it is.
var idle = []string{"strip-syn-data", "block-syn-data", "firewall", "router"}

// Over every element that the lab has, with real netstacks, in both IP versions: plain TCP works, opportunistic encryption
// works wherever plain TCP does, nobody hangs, nothing is garbled, and what must be encrypted does not leak.
func TestEveryElement(t *testing.T) {
	for _, k := range elements.Kinds() {
		t.Run(k.Name, func(t *testing.T) {
			spec, err := elements.ParseSpec(k.Example)
			if err != nil {
				t.Fatal(err)
			}
			want, special := expected[k.Name]
			if !special {
				want = [2][]Outcome{{Encrypted}, {Encrypted}}
			}
			var acted int64
			for _, c := range []struct {
				v        Variant
				w        Workload
				v6       bool
				outcomes []Outcome
			}{
				{Plain(), Bulk(200_000), true, []Outcome{PlainTCP}},
				{Plain(), RequestReply(), false, []Outcome{PlainTCP}},
				{Opportunistic(), Bulk(200_000), false, want[0]},
				{Opportunistic(), RequestReply(), true, want[0]},
				{Require(), RequestReply(), false, want[1]},
			} {
				r, err := Run(t.Context(), Cell{Variant: c.v, Workload: c.w, Path: []elements.Spec{spec}, IPv6: c.v6, Seed: 1})
				if err != nil {
					t.Fatal(err)
				}
				acted += r.Elements[0].Acted
				if !slices.Contains(c.outcomes, r.Outcome) || r.Leaked || r.ServerHung {
					t.Errorf("%s, %s, IPv6 %v: %+v", c.v.Name, c.w.Name, c.v6, r)
				}
			}
			if acted == 0 && !slices.Contains(idle, k.Name) {
				t.Error("it did nothing")
			}
		})
	}
}
