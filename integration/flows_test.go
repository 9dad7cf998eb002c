package integration

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"innertun/integration/decode"
)

// keptFlows is decode.Flows without the connections that were given up for another one: whose SYN went unanswered for so long
// that a second connection was tried beside it, or that were this second one as A had not taken note of an answer to the first.
// That is what happens where a server or a client cannot run.
func keptFlows(segs []decode.Segment) (flows []*decode.Flow, strays []*decode.Segment) {
	all, strays := decode.Flows(segs)
	for _, f := range all {
		if !givenUp(f) || !slices.ContainsFunc(all, func(g *decode.Flow) bool { return triedBeside(f, g, answer) || triedBeside(g, f, reaction) }) {
			flows = append(flows, f)
		}
	}
	return flows, strays
}

// givenUp tells whether all that A has sent is its SYN and resets.
func givenUp(f *decode.Flow) bool {
	return !slices.ContainsFunc(f.Segments, func(s *decode.Segment) bool {
		return f.Direction(s) == decode.AtoB && s.Flags&(decode.SYN|decode.RST) == 0
	})
}

// answer and reaction tell whether a segment is B's answer to A's SYN, and whether it shows that A has taken note of one.
func answer(f *decode.Flow, s *decode.Segment) bool { return f.Direction(s) == decode.BtoA }
func reaction(f *decode.Flow, s *decode.Segment) bool {
	return f.Direction(s) == decode.AtoB && s.Flags&decode.SYN == 0
}

// triedBeside tells whether the first connection was without such a segment when the second began, a second later or more.
func triedBeside(first, second *decode.Flow, what func(*decode.Flow, *decode.Segment) bool) bool {
	begin := second.Segments[0].Time
	waited := begin.Sub(first.Segments[0].Time)
	return first.A.Addr() == second.A.Addr() && first.B == second.B && waited > 900*time.Millisecond && waited < 10*time.Second &&
		!slices.ContainsFunc(first.Segments, func(s *decode.Segment) bool {
			return what(first, s) && s.Time.Before(begin)
		})
}

func TestKeptFlows(t *testing.T) {
	at := time.Unix(1000, 0)
	a, b, c := families()[0].client, families()[0].at(80), families()[0].at(81)
	var segs []decode.Segment
	add := func(after time.Duration, port uint16, to string, back bool, flags uint8) {
		s := decode.Segment{Time: at.Add(after), Src: netip.AddrPortFrom(a, port), Dst: netip.MustParseAddrPort(to), Flags: flags}
		if back {
			s.Src, s.Dst = s.Dst, s.Src
		}
		segs = append(segs, s)
	}
	ports := func() (all []uint16) {
		flows, _ := keptFlows(segs)
		for _, f := range flows {
			all = append(all, f.A.Port())
		}
		return all
	}
	add(0, 1, b, false, decode.SYN)
	add(time.Second, 2, b, false, decode.SYN)
	add(1200*time.Millisecond, 1, b, true, decode.SYN|decode.ACK)
	add(1200*time.Millisecond, 1, b, false, decode.ACK)
	add(1300*time.Millisecond, 2, b, true, decode.SYN|decode.ACK)
	add(1300*time.Millisecond, 2, b, false, decode.RST)
	add(1300*time.Millisecond, 3, c, false, decode.SYN) // to another port
	add(1400*time.Millisecond, 3, c, false, decode.RST)
	add(2500*time.Millisecond, 4, b, false, decode.SYN) // the others had been answered
	add(2600*time.Millisecond, 4, b, false, decode.RST)
	if got := ports(); !slices.Equal(got, []uint16{1, 3, 4}) {
		t.Errorf("%v", got)
	}
	segs = nil // the client could not run when the answer came: the second one is given up for the first, but never the reverse
	add(0, 5, b, false, decode.SYN)
	add(time.Millisecond, 5, b, true, decode.SYN|decode.ACK)
	add(1500*time.Millisecond, 6, b, false, decode.SYN)
	begin := segs
	for port, want := range map[uint16][]uint16{5: {5}, 6: {5, 6}} {
		segs = slices.Clone(begin)
		add(1600*time.Millisecond, port, b, false, decode.ACK)
		add(1600*time.Millisecond, 11-port, b, false, decode.RST)
		if got := ports(); !slices.Equal(got, want) {
			t.Errorf("%d goes on: %v, want %v", port, got, want)
		}
	}
}
