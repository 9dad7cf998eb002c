package host

import (
	"errors"
	"math/rand/v2"
	"testing"
)

func TestParsePorts(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "\n": "", "80": "80", "0": "0", "80,443\n": "80,443", "443,80": "80,443", "1-3,2-5,6": "1-6", "61000-65535": "61000-65535",
		"65535,0-65534": "0-65535",
	} {
		p, err := ParsePorts(in)
		if err != nil || p.String() != want {
			t.Errorf("%q: %q, %v", in, p, err)
		}
		if got := len(p.List()); got != p.Len() {
			t.Errorf("%q: %d ports listed, %d counted", in, got, p.Len())
		}
	}
	for _, in := range []string{"x", "-", "1-", "-1", "5-3", "65536", "1,,2", "1-2-3", "1;2", "0x10", "1 2"} {
		if p, err := ParsePorts(in); !errors.Is(err, ErrPorts) {
			t.Errorf("%q: %q, %v", in, p, err)
		}
	}
}

// TestPortsAsSets compares the operations with those on plain sets.
func TestPortsAsSets(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	some := func() Ports {
		var ranges []PortRange
		for range random.IntN(6) {
			first := uint16(random.IntN(60))
			if random.IntN(2) == 0 {
				first += 1<<16 - 60
			}
			ranges = append(ranges, PortRange{first, first + uint16(random.IntN(min(12, 1<<16-int(first))))})
		}
		return NewPorts(ranges...)
	}
	for range 2000 {
		p, q := some(), some()
		union, without := p.Union(q), p.Without(q)
		for _, port := range append(p.Union(q).List(), 0, 30, 65535) {
			if union.Contains(port) != (p.Contains(port) || q.Contains(port)) {
				t.Fatalf("%v with %v: %v at %d", p, q, union, port)
			}
			if without.Contains(port) != (p.Contains(port) && !q.Contains(port)) {
				t.Fatalf("%v without %v: %v at %d", p, q, without, port)
			}
		}
		for _, set := range []Ports{p, union, without} {
			if again, err := ParsePorts(set.String()); err != nil || !again.Equal(set) {
				t.Fatalf("%v reads back as %v, %v", set, again, err)
			}
		}
	}
}
