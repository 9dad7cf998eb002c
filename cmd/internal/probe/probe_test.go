package probe

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"innertun/cmd/internal/probe/packet"
	"innertun/integration/lab"
	"innertun/tcpinc"
)

var ours = tcpinc.Config{InnerSpace: tcpinc.InnerSpaceAuto}

// summary is what a test compares: findings in the order of the table, and the changes with the hops they are between.
func summary(r *Result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "plain=%s eno=%s later=%s tcpcrypt=%s unknown=%s data=%s tfo=%s inner=%s", r.Plain.Finding, r.ENO.Finding.Finding, r.Later.Finding,
		r.Crypt.Finding.Finding, r.Unknown.Finding, r.Data.Finding, r.TFO.Finding.Finding, r.Inner.Finding.Finding)
	if r.Inner.Mark {
		b.WriteString(" mark")
	}
	var changes []string
	for _, c := range r.Hops.Changes {
		changes = append(changes, fmt.Sprintf(" %s:%s@%d-%d", c.Segment, c.What, c.After, c.By))
	}
	slices.Sort(changes)
	return b.String() + strings.Join(changes, "")
}

func TestFindings(t *testing.T) {
	const (
		good   = "plain=open eno=answered later=kept tcpcrypt=completed unknown=ignored data=ignored tfo=none inner=upgraded mark"
		legacy = "plain=open eno=absent later=accepted tcpcrypt= unknown=ignored data=ignored tfo=none inner=ignored"
	)
	for name, c := range map[string]struct {
		setup
		want string
	}{
		"clean":              {setup{server: ours}, good},
		"clean, IPv6":        {setup{server: ours, ipv6: true}, good},
		"no Inner Space":     {setup{}, "plain=open eno=answered later=kept tcpcrypt=completed unknown=ignored data=ignored tfo=none inner=ignored"},
		"legacy":             {setup{policy: tcpinc.Off}, legacy},
		"closed":             {setup{closed: true}, "plain=closed eno= later= tcpcrypt= unknown= data= tfo= inner="},
		"vacuous":            {setup{server: tcpinc.Config{Vacuous: true}}, strings.Replace(legacy, "absent", "vacuous", 1)},
		"strip":              {setup{server: ours, path: []string{"strip-options"}}, "plain=open eno=absent later=accepted tcpcrypt= unknown=ignored data=ignored tfo=none inner=upgraded ack:option 253 removed@1-2 ack:option 69 removed@1-2 syn:option 253 removed@1-2 syn:option 34 removed@1-2 syn:option 69 removed@1-2"},
		"strip, removing":    {setup{server: ours, path: []string{"strip-options:how=remove"}}, "plain=open eno=absent later=accepted tcpcrypt= unknown=ignored data=ignored tfo=none inner=upgraded ack:option 253 removed@1-2 ack:option 69 removed@1-2 syn:option 253 removed@1-2 syn:option 34 removed@1-2 syn:option 69 removed@1-2"},
		"strip from SYN":     {setup{server: ours, path: []string{"strip-options:kinds=69,from=syn"}}, "plain=open eno=absent later=accepted tcpcrypt= unknown=ignored data=ignored tfo=none inner=upgraded syn:option 69 removed@1-2"},
		"strip from non-SYN": {setup{server: ours, path: []string{"strip-options:kinds=69,from=non-syn"}}, "plain=open eno=answered later=not-kept tcpcrypt=failed unknown=ignored data=ignored tfo=none inner=upgraded mark ack:option 69 removed@1-2"},
		"echo":               {setup{policy: tcpinc.Off, path: []string{"echo-options"}}, "plain=open eno=echoed later=accepted tcpcrypt= unknown=echoed data=ignored tfo=echoed inner=ignored"},
		"corrupt":            {setup{server: ours, path: []string{"corrupt-option:kinds=69,from=syn"}}, "plain=open eno=answered later=kept tcpcrypt=failed unknown=ignored data=ignored tfo=none inner=upgraded syn:option 69 changed@1-2"},
		"drop SYN data":      {setup{server: ours, path: []string{"block-syn-data"}}, "plain=open eno=answered later=kept tcpcrypt=completed unknown=ignored data=dropped tfo=none inner=dropped mark syn-data:lost@1-2"},
		"reset SYN data":     {setup{server: ours, path: []string{"block-syn-data:answer=reset"}}, "plain=open eno=answered later=kept tcpcrypt=completed unknown=ignored data=reset tfo=none inner=reset mark syn-data:answered@1-2"},
		"strip SYN data":     {setup{server: ours, path: []string{"strip-syn-data"}}, "plain=open eno=answered later=kept tcpcrypt=completed unknown=ignored data=ignored tfo=none inner=ignored mark syn-data:payload length@1-2"},
		"NAT":                {setup{server: ours, path: []string{"nat"}}, good + " ack:checksum@1-2 plain:checksum@1-2 syn-data:checksum@1-2 syn:checksum@1-2"},
		"splice":             {setup{server: ours, path: []string{"splice"}}, "plain=open eno=absent later=accepted tcpcrypt= unknown=ignored data=ignored tfo=none inner=ignored"},
		"firewall resets":    {setup{server: ours, path: []string{"block-syn-options:kinds=69,answer=reset"}}, "plain=open eno=reset later=accepted tcpcrypt= unknown=ignored data=ignored tfo=none inner=upgraded syn:answered@1-2"},
		"firewall prohibits": {setup{server: ours, path: []string{"block-syn-options:kinds=69,answer=prohibit"}}, "plain=open eno=icmp later=accepted tcpcrypt= unknown=ignored data=ignored tfo=none inner=upgraded syn:answered@1-2"},
		"firewall drops":     {setup{server: ours, path: []string{"block-syn-options:kinds=69"}}, "plain=open eno=dropped later=accepted tcpcrypt= unknown=ignored data=ignored tfo=none inner=upgraded syn:lost@1-2"},
		"stateful firewall":  {setup{server: ours, path: []string{"firewall:strict=true"}}, good},
		"clamp MSS":          {setup{server: ours, path: []string{"clamp-mss:to=1220"}}, good + " plain:mss@1-2 syn-data:mss@1-2 syn:mss@1-2"},
		"re-sequence":        {setup{server: ours, path: []string{"rewrite-sequence"}}, good + " ack:acknowledgment@1-2 ack:sequence@1-2 plain:sequence@1-2 syn-data:sequence@1-2 syn:sequence@1-2"},
		"re-sequence, IPv6":  {setup{server: ours, ipv6: true, path: []string{"rewrite-sequence"}}, good + " ack:acknowledgment@1-2 ack:sequence@1-2 plain:sequence@1-2 syn-data:sequence@1-2 syn:sequence@1-2"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.setup)
			r := w.probe(t.Context())
			if got := summary(r); got != c.want {
				j, _ := json.Marshal(r)
				t.Errorf("got  %s\nwant %s\n%s", got, c.want, j)
			}
		})
	}
}

// Loss is no finding: whatever is said with confidence is what a path without loss gets.
func TestLoss(t *testing.T) {
	for seed := range 12 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, setup{server: ours, path: []string{fmt.Sprintf("loss:probability=0.25,seed=%d", seed+1)}, config: Config{Hops: -1}})
			r := w.probe(t.Context())
			for _, c := range []struct {
				question string
				f        Finding
				want     string
			}{
				{"plain", r.Plain, wordOpen}, {"eno", r.ENO.Finding, wordAnswered}, {"unknown", r.Unknown, wordIgnored}, {"data", r.Data, wordIgnored},
				{"tfo", r.TFO.Finding, wordNone}, {"later", r.Later, wordKept}, {"tcpcrypt", r.Crypt.Finding, wordCompleted}, {"inner", r.Inner.Finding, wordUpgraded},
			} {
				if c.f.Finding != c.want && c.f.Finding != wordUnsure && c.f.Finding != wordUnconfirmed && c.f.Finding != "" {
					t.Errorf("%s: %+v", c.question, c.f)
				}
			}
		})
	}
}

// Noise with wrong checksums is loss.
func TestBitErrors(t *testing.T) {
	w := newWorld(t, setup{server: ours, path: []string{"bit-errors:probability=0.2"}, config: Config{Hops: -1}})
	if r := w.probe(t.Context()); r.Plain.Finding != wordOpen || r.ENO.Finding.Finding != wordAnswered || r.Crypt.Finding.Finding == wordFailed {
		t.Errorf("%+v", r)
	}
}

// A server that says nothing: every hop up to it is found.
func TestSilentHost(t *testing.T) {
	w := newWorld(t, setup{closed: true, path: []string{"delay:time=1ms"}})
	w.to = netip.MustParseAddrPort("198.18.9.99:80")
	r := w.probe(t.Context())
	if r.Plain.Finding != wordSilent || r.Plain.Sent != DefaultTries || len(r.Hops.Path) != 3 || r.Hops.Distance != 0 || len(r.Hops.Changes) != 0 {
		t.Errorf("%+v", r)
	}
}

// Routers that quote eight octets, as RFC 792 has it, still tell where sequence numbers change, and that a payload got lost.
func TestShortQuotes(t *testing.T) {
	w := newWorld(t, setup{server: ours, quote: 8, path: []string{"rewrite-sequence", "strip-syn-data"}})
	r := w.probe(t.Context())
	got := summary(r)
	for _, want := range []string{" syn:sequence@1-2", " syn-data:length@1-2"} {
		if !strings.Contains(got, want) {
			t.Errorf("%s lacks %s", got, want)
		}
	}
}

// However early it is interrupted, nothing stays at the server, and the result says that it is not whole.
func TestInterrupted(t *testing.T) {
	for after := time.Duration(0); after < 1300*time.Millisecond; after += 90 * time.Millisecond {
		t.Run(after.String(), func(t *testing.T) {
			w := newWorld(t, setup{server: ours})
			ctx, cancel := context.WithCancel(t.Context())
			defer w.clock.AfterFunc(after, cancel).Stop()
			r := w.probe(ctx)
			if r.Error != context.Canceled.Error() {
				t.Errorf("error %q", r.Error)
			}
			if _, err := json.Marshal(r); err != nil {
				t.Error(err)
			}
		})
	}
}

// Questions of all targets together keep to the rate.
func TestRate(t *testing.T) {
	w := newWorld(t, setup{server: ours, config: Config{Rate: 4, Hops: -1}})
	start := w.clock.Now()
	r := w.probe(t.Context())
	syns := 0
	for _, c := range w.taps[lab.A].Packets() {
		if s, err := packet.Parse(c.Data); err == nil && c.To == lab.B && s.Flags == packet.SYN {
			syns++
		}
	}
	least := time.Duration(syns-1) * time.Second / 4
	if took := time.Duration(r.DurationMS * float64(time.Millisecond)); took < least || syns < 10 {
		t.Errorf("%d SYNs took %v (from %v)", syns, took, start)
	}
}
