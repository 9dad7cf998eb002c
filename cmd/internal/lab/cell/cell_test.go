package cell

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"innertun/integration/lab"
	"innertun/integration/lab/elements"
	"innertun/tcpinc"

	"innertun/internal/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

func specs(t *testing.T, words ...string) (all []elements.Spec) {
	t.Helper()
	for _, w := range words {
		s, err := elements.ParseSpec(w)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

func mustRun(t *testing.T, c Cell) Result {
	t.Helper()
	r, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Round trips to the first octet of the reply are exact.
func TestRoundTrips(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, c := range []struct {
			v       Variant
			outcome Outcome
			want    float64
		}{{Plain(), PlainTCP, 2}, {Opportunistic(), Encrypted, 3}, {Require(), Encrypted, 3}} {
			r := mustRun(t, Cell{Variant: c.v, Workload: RequestReply(), IPv6: v6})
			if r.Outcome != c.outcome || len(r.Connections) != 1 || r.Connections[0].RoundTrips != c.want || r.Leaked || r.ServerHung {
				t.Errorf("%s: %+v", c.v.Name, r)
			}
		}
	}
}

// The same seed gives the same losses, at the same times.
func TestDeterministic(t *testing.T) {
	c := Cell{Workload: Bulk(300_000), Variant: Plain(), Seed: 3, Path: specs(t, "loss:probability=0.03", "reorder:probability=0.05")}
	first := mustRun(t, c)
	if first.Elements[0].Acted == 0 || first.Elements[1].Acted == 0 {
		t.Errorf("nothing was lost or reordered: %+v", first.Elements)
	}
	again := mustRun(t, c)
	c.Seed = 4
	other := mustRun(t, c)
	first.Wall, again.Wall = 0, 0
	a, _ := json.Marshal(first.Connections)
	b, _ := json.Marshal(again.Connections)
	if string(a) != string(b) || first.Elements[0] != again.Elements[0] {
		t.Errorf("two runs differ:\n%s\n%s", a, b)
	}
	if other.Elapsed == first.Elapsed {
		t.Error("another seed changes nothing")
	}
}

// It gives the same keys, ports and sequence numbers too: SYNs, and what is sent either way, repeat to the octet.
func TestRepeats(t *testing.T) {
	for _, mode := range []tcpinc.InnerSpaceMode{tcpinc.InnerSpaceOff, tcpinc.InnerSpaceAuto} {
		side := Side{Resume: true, Config: tcpinc.Config{InnerSpace: mode}}
		w := RequestReply()
		w.Connections = 2
		c := Cell{Workload: w, Variant: Variant{Client: side, Server: side}, Seed: 5}
		streams := func() (syns []string, octets [2][]byte) {
			_, packets, err := RunCaptured(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range packets[0] {
				s, ok := lab.ParseSegment(p.Data)
				if ok && s.IsSYN() {
					syns = append(syns, string(p.Data))
				}
				octets[p.To] = append(octets[p.To], s.Payload()...)
			}
			return syns, octets
		}
		syns, octets := streams()
		synsAgain, again := streams()
		if !slices.Equal(syns, synsAgain) || len(syns) != 4 {
			t.Errorf("Inner Space %v: SYNs differ:\n%x\n%x", mode, syns, synsAgain)
		}
		for e := range octets {
			if !bytes.Equal(octets[e], again[e]) || len(octets[e]) < 400 {
				t.Errorf("Inner Space %v: what is sent to %v differs: %d and %d octets", mode, lab.End(e), len(octets[e]), len(again[e]))
			}
		}
	}
}

// What is interrupted is over at once.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, Cell{Workload: IdleThenRequest(time.Hour)}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A workload that is silent for longer than the limit is not hung for that.
func TestLongPauses(t *testing.T) {
	w := RequestReply()
	w.Connections, w.Pause = 2, 3*time.Hour
	if r := mustRun(t, Cell{Variant: Plain(), Workload: w}); r.Outcome != PlainTCP || r.Elapsed < w.Pause {
		t.Errorf("%+v", r)
	}
}

// An idle quarter of an hour costs nothing.
func TestIdle(t *testing.T) {
	r := mustRun(t, Cell{Variant: Opportunistic(), Workload: IdleThenRequest(20 * time.Minute)})
	if r.Outcome != Encrypted || r.Elapsed < 20*time.Minute || r.Connections[0].Received != 4000 {
		t.Errorf("%+v", r)
	}
	// A NAT forgets it, and the client finds out by a time-out, not by hanging.
	r = mustRun(t, Cell{Variant: Plain(), Workload: IdleThenRequest(4 * time.Minute), Path: specs(t, "nat:idle=1m")})
	if r.Outcome != Broke || r.Class != "timeout" || r.Elements[0].Acted == 0 {
		t.Errorf("%+v", r)
	}
}

// Large packets vanish, and nobody says so: after three timeouts they are smaller, and all goes on, as soon in what is encrypted.
func TestBlackHole(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, v := range []Variant{Plain(), Opportunistic(), Require()} {
			for _, w := range []Workload{RequestReply(), Bulk(100_000)} {
				c := Cell{Variant: v, Workload: w, IPv6: v6, Path: specs(t, "black-hole:mtu=1400")}
				want := Encrypted
				if v.Name == Plain().Name {
					want = PlainTCP
				}
				if r := mustRun(t, c); r.Outcome != want || r.ServerHung || r.Elements[0].Acted < 3 || r.Elapsed > 10*time.Second {
					t.Errorf("%s, %s, IPv6 %v: %+v", v.Name, w.Name, v6, r)
				}
			}
		}
	}
}

// Two connections in a row: the second knows what the first found out.
func TestConnections(t *testing.T) {
	w := RequestReply()
	w.Connections = 2
	r := mustRun(t, Cell{Variant: Opportunistic(), Workload: w, Path: specs(t, "block-syn-options:kinds=69")})
	if len(r.Connections) != 2 || r.Outcome != FellBack || r.Connections[0].Reason != "syn-eno-dropped" || r.Connections[1].Reason != "remembered" ||
		r.Connections[1].RoundTrips != 2 {
		t.Errorf("%+v", r)
	}
}

// Bad cells: octets spoilt unseen, a path that dies, a limit.
func TestBadOutcomes(t *testing.T) {
	spoil := specs(t, "bit-errors:probability=0.1,checksum=valid")
	if r := mustRun(t, Cell{Variant: Plain(), Workload: Bulk(100_000), Path: spoil}); r.Outcome != Garbled {
		t.Errorf("plain: %+v", r)
	}
	if r := mustRun(t, Cell{Variant: Require(), Workload: Bulk(100_000), Path: spoil}); r.Outcome != Broke || r.Leaked {
		t.Errorf("encrypted: %+v", r)
	}
	dead := Cell{Variant: Plain(), Workload: Bulk(100_000), Path: specs(t, "dead:after-packets=20")}
	if r := mustRun(t, dead); r.Outcome != Broke || r.Class != "timeout" || r.Elapsed < time.Minute {
		t.Errorf("dead: %+v", r)
	}
	dead.Limit = 5 * time.Second
	if r := mustRun(t, dead); r.Outcome != Hung || r.Elapsed != 5*time.Second {
		t.Errorf("limit: %+v", r)
	}
	dead.Wall = time.Nanosecond
	if _, err := Run(t.Context(), dead); !errors.Is(err, ErrSlow) {
		t.Errorf("no time: %v", err)
	}
}

// What each side sees of a user's own option, in which segments.
func TestOptionsSeen(t *testing.T) {
	r := mustRun(t, Cell{Variant: Opportunistic(), Workload: RequestReply(), MTU: 1492,
		Path: specs(t, "add-option:data=4953cafe,from=syn,towards=b", "strip-options:kinds=253,from=syn")})
	client, server := r.Sides[0], r.Sides[1]
	if !Has(client.Sent.SYN, 69) || !Has(server.Received.SYN, 69) || !Has(client.Received.SYN, 69) || !Has(server.Received.Later, 69) || Has(server.Received.SYN, 253) {
		t.Errorf("%+v", r.Sides)
	}
	r = mustRun(t, Cell{Variant: Plain(), Workload: RequestReply(), Path: specs(t, "add-option:data=4953cafe,from=syn,towards=b")})
	if got := r.Sides[1].Received; !Has(got.SYN, 253) || Has(got.Later, 253) || got.SYN[len(got.SYN)-1].Data != "4953cafe" || r.Elements[0].Acted != 1 {
		t.Errorf("%+v", got)
	}
	if got := r.Sides[0].Sent; Has(got.SYN, 253) || got.Packets == 0 || got.Data != 200 {
		t.Errorf("%+v", got)
	}
}

func TestReal(t *testing.T) {
	r := mustRun(t, Cell{Variant: Require(), Workload: RequestReply(), Real: true, RTT: 10 * time.Millisecond})
	if r.Outcome != Encrypted || r.Connections[0].RoundTrips < 3 {
		t.Errorf("%+v", r)
	}
	r = mustRun(t, Cell{Variant: Require(), Workload: RequestReply(), Real: true, Path: specs(t, "dead"), Limit: 100 * time.Millisecond})
	if r.Outcome != Hung {
		t.Errorf("%+v", r)
	}
}

func TestCaptured(t *testing.T) {
	_, packets, err := RunCaptured(t.Context(), Cell{Variant: Plain(), Workload: RequestReply()})
	if err != nil || len(packets[0]) < 6 || len(packets[1]) < 6 {
		t.Errorf("%d and %d packets, %v", len(packets[0]), len(packets[1]), err)
	}
}

func TestWrongCells(t *testing.T) {
	for says, c := range map[string]Cell{
		"at least one octet": {},
		"does not fit":       {Workload: Bulk(1 << 40)},
		"mtu is 100":         {Workload: RequestReply(), MTU: 100},
		"negative":           {Workload: RequestReply(), RTT: -1},
		"no such element":    {Workload: RequestReply(), Path: []elements.Spec{{Element: "x"}}},
		"there is no policy": {Workload: RequestReply(), Variant: Variant{Server: Side{Policy: 99}}},
	} {
		if _, err := Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, should say %q", err, says)
		}
	}
}

// The text is the same wherever one begins, and each octet that is not its own is found.
func TestText(t *testing.T) {
	whole := make([]byte, 1000)
	upText(7).fill(whole, 0)
	part := make([]byte, 300)
	for _, at := range []int64{0, 5, 28, 29, 100, 700} {
		upText(7).fill(part, at)
		if string(part) != string(whole[at:at+300]) {
			t.Errorf("at %d: %q", at, part[:40])
		}
	}
	if !strings.HasPrefix(string(whole), "GET /") || !strings.Contains(string(whole), marker) {
		t.Errorf("%q", whole[:80])
	}
	for i := range whole {
		whole[i] ^= 1
		if _, err := upText(7).expect(strings.NewReader(string(whole)), 0, 1000, nil); !errors.Is(err, errGarbled) {
			t.Errorf("octet %d: %v", i, err)
		}
		whole[i] ^= 1
	}
	if n, err := upText(7).expect(strings.NewReader(string(whole[:900])), 0, 1000, nil); n != 900 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%d, %v", n, err)
	}
}
