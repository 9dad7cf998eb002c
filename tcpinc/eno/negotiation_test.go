package eno

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// X, Y and Z of RFC 8547, Section 6.
const (
	tepX TEP = 0x21
	tepY TEP = 0x22
	tepZ TEP = 0x23
)

func offers(teps ...TEP) []Offer {
	var out []Offer
	for _, t := range teps {
		out = append(out, Offer{TEP: t})
	}
	return out
}

func mustNew(t *testing.T, cfg Config) *Negotiation {
	t.Helper()
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// send moves one segment from one host to the other, through what a path does to it, and returns what left.
func send(from, to *Negotiation, k Segment, path func([]byte) []byte) []byte {
	wire := from.AppendOptions([]byte{2, 4, 5, 180}, k, 20)
	arrived := wire
	if path != nil {
		arrived = path(bytes.Clone(wire))
	}
	if to != nil {
		to.Receive(k, arrived)
	}
	return wire[4:]
}

func strip([]byte) []byte { return nil }

func state(t *testing.T, who string, n *Negotiation, s State, r Reason) Outcome {
	t.Helper()
	out := n.Outcome()
	if out.State != s || out.Reason != r {
		t.Fatalf("%s is %v (%v, %v), want %v (%v)", who, out.State, out.Reason, out.Err, s, r)
	}
	if out.State == Disabled && (out.TEP != 0 || out.Transcript != nil || out.Encrypt()) {
		t.Fatalf("%s is disabled and yet has %+v", who, out)
	}
	return out
}

func onWire(t *testing.T, what string, got []byte, want ...byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatalf("%s is %x, want %x", what, got, want)
	}
}

// RFC 8547, Figure 9. A prefers Y, which therefore comes last.
func TestFigure9(t *testing.T) {
	a := mustNew(t, Config{Offers: offers(tepY, tepX)})
	b := mustNew(t, Config{Passive: true, Offers: offers(tepY)})
	onWire(t, "SYN", send(a, b, SYN, nil), 69, 4, 0x21, 0x22)
	state(t, "A", a, SYNSent, NoReason)
	state(t, "B", b, SYNReceived, NoReason)
	onWire(t, "SYN-ACK", send(b, a, SYNACK, nil), 69, 4, 0x01, 0x22)
	state(t, "B", b, Exchanged, NoReason)
	if !state(t, "A", a, Confirmed, NoReason).Encrypt() {
		t.Error("A need not encrypt")
	}
	if b.Outcome().Encrypt() {
		t.Error("B encrypts before the first ACK")
	}
	onWire(t, "ACK", send(a, b, NonSYN, nil), 69, 2)
	oa, ob := state(t, "A", a, Enabled, NoReason), state(t, "B", b, Enabled, NoReason)
	want := []byte{69, 4, 0x21, 0x22, 69, 4, 0x01, 0x22}
	onWire(t, "A's transcript", oa.Transcript, want...)
	onWire(t, "B's transcript", ob.Transcript, want...)
	for _, o := range []Outcome{oa, ob} {
		if o.TEP != tepY || o.TEPByte != 0x22 || o.PeerAppAware {
			t.Errorf("outcome %+v", o)
		}
	}
	if oa.Role != RoleA || ob.Role != RoleB {
		t.Errorf("roles %v and %v", oa.Role, ob.Role)
	}
	onWire(t, "B's segment after a non-SYN one", send(b, a, NonSYN, nil))
	onWire(t, "A's segment after a non-SYN one", send(a, b, NonSYN, nil))
}

// RFC 8547, Figure 10, in its four cases.
func TestFigure10(t *testing.T) {
	t.Run("B does not support ENO", func(t *testing.T) {
		a := mustNew(t, Config{Offers: offers(tepY, tepX)})
		send(a, nil, SYN, nil)
		a.Receive(SYNACK, []byte{2, 4, 5, 180})
		onWire(t, "ACK", send(a, nil, NonSYN, nil))
		state(t, "A", a, Disabled, PeerNoENO)
	})
	for name, v := range map[string]struct {
		b      Config
		path   func([]byte) []byte
		reason Reason
	}{
		"no TEP in common":        {Config{Offers: offers(tepZ)}, nil, NoCommonTEP},
		"mandatory app-aware":     {Config{Offers: offers(tepY), MandatoryAppAware: true}, nil, NotAppAware},
		"stripped out of A's SYN": {Config{Offers: offers(tepY)}, strip, PeerNoENO},
	} {
		t.Run(name, func(t *testing.T) {
			v.b.Passive = true
			a, b := mustNew(t, Config{Offers: offers(tepY, tepX)}), mustNew(t, v.b)
			send(a, b, SYN, v.path)
			state(t, "B", b, Disabled, v.reason)
			onWire(t, "SYN-ACK", send(b, a, SYNACK, nil))
			onWire(t, "ACK", send(a, b, NonSYN, nil))
			state(t, "A", a, Disabled, PeerNoENO)
			state(t, "B", b, Disabled, v.reason)
		})
	}
}

// RFC 8547, Figure 11.
func TestFigure11(t *testing.T) {
	a := mustNew(t, Config{Offers: offers(tepY, tepX)})
	b := mustNew(t, Config{Passive: true, Offers: offers(tepX)})
	send(a, b, SYN, nil)
	onWire(t, "SYN-ACK", send(b, a, SYNACK, strip), 69, 4, 0x01, 0x21)
	onWire(t, "ACK", send(a, b, NonSYN, nil))
	state(t, "A", a, Disabled, PeerNoENO)
	if !state(t, "B", b, Disabled, Stripped).ENOSent {
		t.Error("B forgot that it sent ENO")
	}
	onWire(t, "B's next segment", send(b, a, NonSYN, nil))
}

// RFC 8547, Figure 12: simultaneous open. B's option decides, so B's preference is Z, Y, X.
func TestFigure12(t *testing.T) {
	a := mustNew(t, Config{Offers: offers(tepX, tepY)})
	b := mustNew(t, Config{RoleB: true, Offers: offers(tepZ, tepY, tepX)})
	optA, optB := []byte{69, 4, 0x22, 0x21}, []byte{69, 6, 0x01, 0x21, 0x22, 0x23}
	synA, synB := a.AppendOptions(nil, SYN, 20), b.AppendOptions(nil, SYN, 20)
	onWire(t, "A's SYN", synA, optA...)
	onWire(t, "B's SYN", synB, optB...)
	b.Receive(SYN, synA)
	a.Receive(SYN, synB)
	state(t, "A", a, Exchanged, NoReason)
	ackA, ackB := a.AppendOptions(nil, SYNACK, 20), b.AppendOptions(nil, SYNACK, 20)
	onWire(t, "A's SYN-ACK", ackA, optA...)
	onWire(t, "B's SYN-ACK", ackB, optB...)
	a.Receive(SYNACK, ackB)
	b.Receive(SYNACK, ackA)
	for who, n := range map[string]*Negotiation{"A": a, "B": b} {
		out := state(t, who, n, Enabled, NoReason)
		if out.TEP != tepY || out.TEPByte != 0x22 || !out.Simultaneous {
			t.Errorf("%s: %+v", who, out)
		}
		onWire(t, who+"'s transcript", out.Transcript, append(bytes.Clone(optA), optB...)...)
	}
	if a.Outcome().Role != RoleA || b.Outcome().Role != RoleB {
		t.Error("roles")
	}
}

// One SYN of a simultaneous open is lost: that host sees an ordinary SYN-ACK.
func TestSimultaneousOpenWithLoss(t *testing.T) {
	a := mustNew(t, Config{Offers: offers(tepX)})
	b := mustNew(t, Config{RoleB: true, Offers: offers(tepX)})
	send(b, nil, SYN, nil)
	send(a, b, SYN, nil)
	send(b, a, SYNACK, nil)
	send(a, b, NonSYN, nil)
	state(t, "A", a, Enabled, NoReason)
	state(t, "B", b, Enabled, NoReason)
}

// The SYN-ACK of the peer overtakes this host's own.
func TestSimultaneousOpenSYNACKFirst(t *testing.T) {
	a := mustNew(t, Config{Offers: offers(tepX)})
	b := mustNew(t, Config{RoleB: true, Offers: offers(tepX)})
	opt := []byte{69, 3, 0x21}
	synB := send(b, nil, SYN, nil)
	send(a, b, SYN, nil)
	a.Receive(SYN, synB)
	a.Receive(SYNACK, send(b, nil, SYNACK, nil))
	state(t, "A", a, Confirmed, NoReason)
	onWire(t, "A's SYN-ACK", send(a, b, SYNACK, nil), opt...)
	state(t, "A", a, Enabled, NoReason)
	state(t, "B", b, Enabled, NoReason)
}

func TestRoleConflicts(t *testing.T) {
	for name, v := range map[string]struct {
		role bool
		peer []byte
	}{
		"both b = 0, as an echoing load balancer makes it": {false, []byte{69, 3, 0x21}},
		"active opener with b = 1 and a passive one":       {true, []byte{69, 4, 0x01, 0x21}},
	} {
		t.Run(name, func(t *testing.T) {
			a := mustNew(t, Config{RoleB: v.role, Offers: offers(tepX)})
			send(a, nil, SYN, nil)
			a.Receive(SYNACK, v.peer)
			state(t, "A", a, Disabled, RoleConflict)
			onWire(t, "ACK", send(a, nil, NonSYN, nil))
		})
	}
	t.Run("passive opener and a SYN with b = 1", func(t *testing.T) {
		b := mustNew(t, Config{Passive: true, Offers: offers(tepX)})
		b.Receive(SYN, []byte{69, 4, 0x01, 0x21})
		state(t, "B", b, Disabled, RoleConflict)
		onWire(t, "SYN-ACK", send(b, nil, SYNACK, nil))
	})
	t.Run("simultaneous, both b = 0", func(t *testing.T) {
		a := mustNew(t, Config{Offers: offers(tepX)})
		send(a, nil, SYN, nil)
		a.Receive(SYN, []byte{69, 3, 0x21})
		state(t, "A", a, Disabled, RoleConflict)
		onWire(t, "SYN-ACK", send(a, nil, SYNACK, nil)) // Section 4.6, second exception
	})
}

func TestApplicationAware(t *testing.T) {
	for _, v := range []struct {
		name   string
		a, b   Config
		synOpt []byte
		reason Reason // A's; NoReason: enabled
		sees   [2]bool
	}{
		{"default", Config{}, Config{}, []byte{69, 3, 0x21}, NoReason, [2]bool{false, false}},
		{"A sets a", Config{AppAware: true}, Config{}, []byte{69, 4, 0x02, 0x21}, NoReason, [2]bool{false, true}},
		{"both", Config{AppAware: true}, Config{AppAware: true}, []byte{69, 4, 0x02, 0x21}, NoReason, [2]bool{true, true}},
		{"both mandatory", Config{MandatoryAppAware: true}, Config{MandatoryAppAware: true}, []byte{69, 4, 0x02, 0x21}, NoReason, [2]bool{true, true}},
		{"A mandatory, B not aware", Config{MandatoryAppAware: true}, Config{}, []byte{69, 4, 0x02, 0x21}, NotAppAware, [2]bool{false, true}},
	} {
		t.Run(v.name, func(t *testing.T) {
			v.a.Offers, v.b.Offers, v.b.Passive = offers(tepX), offers(tepX), true
			a, b := mustNew(t, v.a), mustNew(t, v.b)
			onWire(t, "SYN", send(a, b, SYN, nil), v.synOpt...)
			send(b, a, SYNACK, nil)
			send(a, b, NonSYN, nil)
			if v.reason == NoReason {
				state(t, "A", a, Enabled, NoReason)
				state(t, "B", b, Enabled, NoReason)
			} else {
				state(t, "A", a, Disabled, v.reason)
				state(t, "B", b, Disabled, Stripped)
			}
			if got := [2]bool{a.Outcome().PeerAppAware, b.Outcome().PeerAppAware}; got != v.sees {
				t.Errorf("A and B see a = %v, want %v", got, v.sees)
			}
		})
	}
}

func TestVacuous(t *testing.T) {
	t.Run("active", func(t *testing.T) {
		a := mustNew(t, Config{Vacuous: true})
		b := mustNew(t, Config{Passive: true, Offers: offers(tepX)})
		onWire(t, "SYN", send(a, b, SYN, nil), 69, 2)
		state(t, "B", b, Disabled, NoCommonTEP)
		onWire(t, "SYN-ACK", send(b, a, SYNACK, nil))
	})
	t.Run("active, answered", func(t *testing.T) {
		a := mustNew(t, Config{Vacuous: true})
		send(a, nil, SYN, nil)
		a.Receive(SYNACK, []byte{69, 4, 0x01, 0x21})
		state(t, "A", a, Disabled, PolicyOff)
		onWire(t, "ACK", send(a, nil, NonSYN, nil))
	})
	t.Run("passive, ENO in the SYN", func(t *testing.T) {
		a := mustNew(t, Config{Offers: offers(tepX)})
		b := mustNew(t, Config{Passive: true, Vacuous: true})
		send(a, b, SYN, nil)
		onWire(t, "SYN-ACK", send(b, a, SYNACK, nil), 69, 3, 0x01)
		onWire(t, "SYN-ACK again", send(b, a, SYNACK, nil), 69, 3, 0x01)
		state(t, "A", a, Disabled, NoCommonTEP)
		onWire(t, "ACK", send(a, b, NonSYN, nil))
		state(t, "B", b, Disabled, PolicyOff)
	})
	t.Run("passive, an ACK with ENO does not enable", func(t *testing.T) {
		b := mustNew(t, Config{Passive: true, Vacuous: true})
		b.Receive(SYN, []byte{69, 3, 0x21})
		send(b, nil, SYNACK, nil)
		onWire(t, "non-SYN", send(b, nil, NonSYN, nil))
		b.Receive(NonSYN, []byte{69, 2})
		state(t, "B", b, Disabled, PolicyOff)
	})
	t.Run("passive, no ENO in the SYN", func(t *testing.T) {
		b := mustNew(t, Config{Passive: true, Vacuous: true})
		b.Receive(SYN, nil)
		onWire(t, "SYN-ACK", send(b, nil, SYNACK, nil))
		state(t, "B", b, Disabled, PeerNoENO)
	})
}

// A passive opener takes its own first choice, whatever the order of A's. RFC 8547, Section 4.5.
func TestPassivePreference(t *testing.T) {
	for _, v := range []struct {
		prefers []TEP
		syn     []byte
		want    []byte
	}{
		{[]TEP{tepX, tepY, tepZ}, []byte{69, 5, 0x21, 0x22, 0x23}, []byte{69, 4, 0x01, 0x21}},
		{[]TEP{tepZ, tepX}, []byte{69, 5, 0x23, 0x22, 0x21}, []byte{69, 4, 0x01, 0x23}},
		{[]TEP{tepZ, tepY}, []byte{69, 4, 0x22, 0x21}, []byte{69, 4, 0x01, 0x22}},
		{[]TEP{tepZ}, []byte{69, 5, 0x20, 0x23, 0x70}, []byte{69, 4, 0x01, 0x23}},             // 0x20 and reserved ones are passed over
		{[]TEP{tepZ}, []byte{69, 7, 0x81, 0xa0, 0x49, 0x53, 0x23}, []byte{69, 4, 0x01, 0x23}}, // the mark of design.md
		{[]TEP{tepZ, tepX}, []byte{69, 5, 0x21, 0x23, 0x23}, []byte{69, 4, 0x01, 0x21}},       // a repeated TEP is not valid
		{[]TEP{tepX}, []byte{69, 6, 0x02, 0x21, 0x01, 0x1c}, []byte{69, 4, 0x01, 0x21}},       // only the first global counts: b = 0
		{[]TEP{tepX}, []byte{69, 5, 0x1c, 0x21, 0x22}, []byte{69, 4, 0x01, 0x21}},             // z bits are ignored
	} {
		b := mustNew(t, Config{Passive: true, Offers: offers(v.prefers...)})
		b.Receive(SYN, v.syn)
		onWire(t, "answer", send(b, nil, SYNACK, nil), v.want...)
	}
}

// An active opener follows the last valid TEP of B's option. RFC 8547, Section 4.5.
func TestActiveTakesLastValid(t *testing.T) {
	for _, v := range []struct {
		offer  []TEP
		synack []byte
		want   TEP
		byteB  byte
	}{
		{[]TEP{tepX, tepY}, []byte{69, 5, 0x01, 0x21, 0x22}, tepY, 0x22},
		{[]TEP{tepX, tepY}, []byte{69, 5, 0x01, 0x22, 0x21}, tepX, 0x21},
		{[]TEP{tepX, tepY}, []byte{69, 6, 0x01, 0x21, 0x22, 0x23}, tepY, 0x22},
		{[]TEP{tepX}, []byte{69, 5, 0x01, 0x21, 0x20}, tepX, 0x21},
		{[]TEP{tepX}, []byte{69, 5, 0x01, 0xa1, 9}, tepX, 0xa1},
		{[]TEP{tepX, tepY}, []byte{69, 6, 0x01, 0x22, 0x21, 0x21}, tepY, 0x22},
		{[]TEP{tepX}, []byte{69, 4, 0x01, 0x20}, 0, 0},
		{[]TEP{tepX}, []byte{69, 4, 0x01, 0x23}, 0, 0},
		{[]TEP{tepX}, []byte{69, 3, 0x01}, 0, 0},
	} {
		a := mustNew(t, Config{Offers: offers(v.offer...)})
		send(a, nil, SYN, nil)
		a.Receive(SYNACK, v.synack)
		out := a.Outcome()
		if out.TEP != v.want || out.TEPByte != v.byteB {
			t.Errorf("%x gives %v, %#x, want %v, %#x", v.synack, out.TEP, out.TEPByte, v.want, v.byteB)
		}
		if v.want == 0 {
			state(t, "A", a, Disabled, NoCommonTEP)
		}
	}
}

// Suboption data is judged by the TEP and answered by it. RFC 8547, Section 4.5, rule 2.
func TestSuboptionData(t *testing.T) {
	data := []byte("resume-me")
	good := func(s Suboption) bool { return s.V && string(s.Data) == "resume-me" }
	a := mustNew(t, Config{Offers: []Offer{{TEP: tepX, Data: data, Valid: good}, {TEP: tepY}}})
	b := mustNew(t, Config{Passive: true, Offers: []Offer{
		{TEP: tepX, Valid: good, Answer: func(p Suboption) Suboption { return Suboption{TEP: tepX, V: true, Data: p.Data} }},
	}})
	onWire(t, "SYN", send(a, b, SYN, nil), append([]byte{69, 13, 0x22, 0xa1}, data...)...)
	onWire(t, "SYN-ACK", send(b, a, SYNACK, nil), append([]byte{69, 13, 0x01, 0xa1}, data...)...)
	send(a, b, NonSYN, nil)
	for _, n := range []*Negotiation{a, b} {
		out := n.Outcome()
		if out.State != Enabled || out.TEPByte != 0xa1 || !bytes.Equal(out.Peer.Data, data) || !bytes.Equal(out.Own.Data, data) {
			t.Errorf("outcome %+v", out)
		}
	}

	a = mustNew(t, Config{Offers: []Offer{{TEP: tepX, Data: data, Valid: good}}})
	send(a, nil, SYN, nil)
	a.Receive(SYNACK, []byte{69, 6, 0x01, 0xa1, 1, 2})
	state(t, "A with data that does not match", a, Disabled, NoCommonTEP)

	b = mustNew(t, Config{Passive: true, Offers: []Offer{{TEP: tepX, Valid: good}, {TEP: tepY}}})
	b.Receive(SYN, []byte{69, 6, 0x22, 0xa1, 1, 2})
	onWire(t, "the next choice", send(b, nil, SYNACK, nil), 69, 4, 0x01, 0x22)

	for name, answer := range map[string]Suboption{
		"of another TEP": {TEP: tepY}, "too long": {TEP: tepX, V: true, Data: bytesOf(38)},
	} {
		b = mustNew(t, Config{Passive: true, Offers: []Offer{{TEP: tepX, Answer: func(Suboption) Suboption { return answer }}}})
		b.Receive(SYN, []byte{69, 3, 0x21})
		if out := b.Outcome(); out.State != Disabled || out.TEP != 0 {
			t.Errorf("answer %s: %+v", name, out)
		}
	}
}

func TestConfig(t *testing.T) {
	for name, cfg := range map[string]Config{
		"nothing to offer":  {},
		"experimental TEP":  {Offers: offers(Experimental)},
		"reserved TEP":      {Offers: offers(0x70)},
		"not a TEP":         {Offers: offers(0x01)},
		"with v bit":        {Offers: offers(0xa1)},
		"twice":             {Offers: offers(tepX, tepX)},
		"vacuous with TEPs": {Vacuous: true, Offers: offers(tepX)},
		"too long":          {Offers: []Offer{{TEP: tepX, Data: bytesOf(38)}}},
	} {
		if n, err := New(cfg); !errors.Is(err, ErrConfig) || n != nil {
			t.Errorf("%s: %v, %v", name, n, err)
		}
	}
}

func TestReasonWords(t *testing.T) {
	want := []string{"", "peer-no-eno", "eno-stripped", "eno-malformed", "syn-eno-dropped", "no-common-tep", "role-conflict",
		"not-app-aware", "policy-off", "skip-port", "remembered", "local", "no-room"}
	var got []string
	for r := NoReason; r <= NoRoom; r++ {
		got = append(got, r.String())
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// The segment is the caller's: what it does with the octets later must not reach the negotiation.
func TestNothingRetained(t *testing.T) {
	b := mustNew(t, Config{Passive: true, Offers: offers(tepX)})
	syn := []byte{69, 6, 0x80, 0xa2, 7, 0x21}
	b.Receive(SYN, syn)
	clear(syn)
	out := b.Outcome()
	onWire(t, "transcript", out.Transcript, 69, 6, 0x80, 0xa2, 7, 0x21, 69, 4, 0x01, 0x21)
	if out.PeerOption.Suboptions[0].Data[0] != 7 {
		t.Error("suboption data changed")
	}
	clear(out.Transcript)
	if b.Outcome().Transcript[0] != Kind {
		t.Error("the transcript handed out is the negotiation's own")
	}
}

// Whatever comes, in whatever order: no panic, nothing but ENO is sent, Disabled is for good, and encryption is never on
// without ENO sent and received.
func FuzzNegotiation(f *testing.F) {
	f.Add(false, []byte{0x01, 0, 0x12, 4, 69, 4, 0x01, 0x21, 0x03, 0})
	f.Add(true, []byte{0x11, 3, 69, 3, 0x21, 0x02, 0, 0x13, 2, 69, 2})
	f.Fuzz(func(t *testing.T, passive bool, script []byte) {
		n, err := New(Config{Passive: passive, Offers: offers(tepX, tepZ)})
		if err != nil {
			t.Fatal(err)
		}
		var own []byte
		disabled := NoReason
		for len(script) >= 2 {
			k, size := Segment(script[0]&0x0f), int(script[1])
			incoming := script[0]&0x10 != 0
			script = script[2:]
			if incoming {
				size = min(size, len(script))
				n.Receive(k, script[:size])
				script = script[size:]
			} else if got := n.AppendOptions(nil, k, size); len(got) > size {
				t.Fatalf("%d octets for a room of %d", len(got), size)
			} else if len(got) > 0 && (k == SYN || k == SYNACK) {
				if own != nil && !bytes.Equal(own, got) {
					t.Fatalf("sent %x, then %x", own, got)
				}
				own = got
			}
			out := n.Outcome()
			if disabled != NoReason && out.Reason != disabled {
				t.Fatalf("disabled for %v, then %v", disabled, out.Reason)
			}
			disabled = out.Reason
			if out.Encrypt() && (own == nil || out.TEP == 0 || len(out.Transcript) == 0 || !bytes.Contains(out.Transcript, own)) {
				t.Fatalf("encrypts with %+v", out)
			}
		}
	})
}
