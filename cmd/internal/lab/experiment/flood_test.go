package experiment

import (
	"strings"
	"testing"

	"innertun/cmd/internal/lab/cell"
)

// During a flood connections come up encrypted where the client sends an upgraded SYN, and only there, by the echo cookie;
// without one nobody needs it.
func TestSYNFlood(t *testing.T) {
	e, err := Load("syn-flood")
	if err != nil {
		t.Fatal(err)
	}
	type want struct {
		outcome           cell.Outcome
		encrypted, cookie [2]bool
	}
	var (
		no   [2]bool
		both = [2]bool{true, true}
		late = [2]bool{false, true}
	)
	const (
		clear = iota // no flood
		later        // between the connections
		first        // before them
	)
	encrypted := want{cell.Encrypted, both, no}
	expected := map[string][3]want{
		"plain": {{cell.PlainTCP, no, no}, {cell.PlainTCP, no, no}, {cell.PlainTCP, no, no}},
		// There is no place for a cookie in a header.
		"tcpcrypt":          {encrypted, {cell.FellBack, [2]bool{true, false}, no}, {cell.FellBack, no, no}},
		"tcpcrypt, require": {encrypted, {cell.Broke, [2]bool{true, false}, no}, {cell.Broke, no, no}},
		// The first SYN is an ordinary one, which tells whether the next can be upgraded.
		"Inner Space auto":        {encrypted, {cell.Encrypted, both, late}, {cell.FellBack, no, no}},
		"Inner Space on":          {encrypted, {cell.Encrypted, both, late}, {cell.Encrypted, both, both}},
		"Inner Space on, require": {encrypted, {cell.Encrypted, both, late}, {cell.Encrypted, both, both}},
	}
	cells := 0
	err = e.Run(t.Context(), nil, func(r Record) error {
		cells++
		when := later
		switch {
		case len(r.Elements) == 0:
			when = clear
		case strings.Contains(r.Path, "from the start"):
			when = first
		}
		w, known := expected[r.Variant]
		if !known {
			t.Fatalf("variant %q", r.Variant)
		}
		if r.Verdict != Kept || r.Result.Outcome != w[when].outcome || len(r.Result.Connections) != 2 {
			t.Errorf("%s: %s, %s %s", r.Name(), r.Result.Outcome, r.Finding, r.Result.Error)
			return nil
		}
		for i, c := range r.Result.Connections {
			if c.Encrypted != w[when].encrypted[i] || c.Cookie != w[when].cookie[i] {
				t.Errorf("%s: connection %d: %+v", r.Name(), i+1, c)
			}
		}
		n := r.Result.NoRoom
		if when == clear && n != (cell.NoRoom{}) || when != clear && (n.SYNCookies == 0 || r.Result.Elements[0].Acted < 280) {
			t.Errorf("%s: %+v, %+v", r.Name(), n, r.Result.Elements)
		}
		if r.Path == "upgraded SYNs" && r.Variant == "Inner Space on" && n.EchoCookies < 200 {
			t.Errorf("%s: the forged SYNs are not taken for upgraded ones: %+v", r.Name(), n)
		}
		if s := r.Result.Sides[1].Received; s.Packets == 0 || s.Packets > 100 {
			t.Errorf("%s: %d packets are the client's", r.Name(), s.Packets)
		}
		return nil
	})
	if err != nil || cells != len(e.Jobs()) {
		t.Errorf("%d cells, %v", cells, err)
	}
}
