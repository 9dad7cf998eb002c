package integration

import (
	"bytes"
	"encoding/json"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"innertun/integration/netlab"
)

// memory is one line of `paths --json`.
type memory struct {
	Kind         string  `json:"kind"`
	Network      string  `json:"network"`
	Destination  string  `json:"destination"`
	Fault        string  `json:"fault"`
	Failures     int     `json:"failures"`
	FailedAgoMS  float64 `json:"failed_ago_ms"`
	RetryInMS    float64 `json:"retry_in_ms"`
	Encrypted    bool    `json:"encrypted"`
	EncryptedAgo float64 `json:"encrypted_ago_ms"`
	Ratcheted    bool    `json:"ratcheted"`
	Inner        string  `json:"inner"`
	InnerAgoMS   float64 `json:"inner_ago_ms"`
	InnerForMS   float64 `json:"inner_for_ms"`
}

func (d *daemon) paths(t testing.TB) (all []memory) {
	t.Helper()
	out, err := d.command("paths", "--json")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(out) {
		var m memory
		dec := json.NewDecoder(bytes.NewReader(line))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&m); err != nil {
			t.Fatalf("paths --json: %v: %s", err, line)
		}
		all = append(all, m)
	}
	return all
}

func (d *daemon) flush(t testing.TB, args ...string) {
	t.Helper()
	if _, err := d.command(append([]string{"paths", "flush"}, args...)...); err != nil {
		t.Fatal(err)
	}
}

// dialled makes a connection and returns its record.
func dialled(t *testing.T, d *daemon, w way, address string, quick bool) record {
	t.Helper()
	watch := netlab.StartStopwatch()
	if err := exchange(t, w, address); err != nil {
		t.Fatalf("%s: %v", address, err)
	}
	const slow = 2500 * time.Millisecond
	if wall, own := watch.Took(); quick && own > slow || !quick && wall < slow {
		t.Errorf("%s took %v, %v of it by itself; quick should be %v: %+v", address, wall, own, quick, d.newest(t, to(address)))
	}
	return d.newest(t, to(address))
}

// TestNetworkFault has the client behind a firewall that drops SYNs with option 69: the first two addresses cost a wait,
// all others on this network nothing.
func TestNetworkFault(t *testing.T) {
	t.Parallel() // most of it is waiting
	lab := netlab.New(t, netlab.Options{})
	lab.Server.Script(t, `
		for n in 3 4 5; do
			ip addr add 198.18.2.$n/24 dev eth0
			ip addr add fd00:2::$n/64 dev eth0 nodad
		done`)
	lab.Server.Serve(t, "127.0.0.1:9001", answerSum)
	startRun(t, lab.Server, "[egress]\ninterface = \"eth0\"\n[[serve]]\nlisten = \":2001\"\nforward = \"127.0.0.1:9001\"\n")
	client := startRun(t, lab.Client, clientConfig+"[tcpinc]\ninner_space = \"off\"\n")
	w := ways(lab.Client)[0]
	at := func(f, n int) string {
		base := []string{"198.18.2.", "fd00:2::"}[f]
		return netip.AddrPortFrom(netip.MustParseAddr(base+string(rune('0'+n))), 2001).String()
	}
	want := func(r record, encrypted bool, reason string) {
		t.Helper()
		if r.Encrypted != encrypted || r.FallbackReason != reason {
			t.Errorf("want encrypted %v, %q: %+v", encrypted, reason, r)
		}
	}
	want(dialled(t, client, w, at(0, 5), true), true, "") // known to encrypt from here on
	lab.DropENO(t, netlab.SYN, netlab.ToServer)
	for f := range 2 {
		want(dialled(t, client, w, at(f, 2), false), false, "syn-eno-dropped")
		want(dialled(t, client, w, at(f, 3), false), false, "syn-eno-dropped")
		want(dialled(t, client, w, at(f, 4), true), false, "remembered")
	}
	if r := dialled(t, client, w, at(0, 5), false); !r.Downgraded { // tried nevertheless
		t.Errorf("not marked as a downgrade: %+v", r)
	} else {
		want(r, false, "syn-eno-dropped")
	}
	var networks []memory
	for _, m := range client.paths(t) {
		if m.Kind == "network" {
			networks = append(networks, m)
		}
	}
	if len(networks) != 2 {
		t.Fatalf("%+v", networks)
	}
	for i, prefix := range []string{"eth0 198.18.1.0/24 via 198.18.1.1 at ", "eth0 fd00:1::/64 via fd00:1::1 at "} {
		m := networks[0]
		if !strings.HasPrefix(m.Network, prefix) {
			m = networks[1]
		}
		if !strings.HasPrefix(m.Network, prefix) || m.Fault != "syn-eno-dropped" || m.Failures != 1 || math.Abs(m.FailedAgoMS+m.RetryInMS-10*60_000) > 1000 {
			t.Errorf("network %d: %+v", i, m)
		}
	}
	if s, err := client.status(); err != nil || s.Downgrades != 1 {
		t.Errorf("%d downgrades, %v", s.Downgrades, err)
	}

	// Another address on the interface is another network: nothing is known of it.
	lab.Client.Script(t, "ip addr add 198.18.1.77/25 dev eth0; ip addr del 198.18.1.2/24 dev eth0; ip addr add 198.18.1.2/25 dev eth0; ip route replace default via 198.18.1.1")
	netlab.WaitFor(t, netlab.Patience, "the client to notice its new network", func() error {
		if !strings.Contains(client.Log(), "198.18.1.0/25 via 198.18.1.1") {
			return errUnexpected
		}
		return nil
	})
	want(dialled(t, client, w, at(0, 4), false), false, "syn-eno-dropped")

	// The firewall has been put right; the operator does not want to wait.
	lab.ClearMiddlebox(t)
	want(dialled(t, client, w, at(1, 4), true), false, "remembered")
	client.flush(t)
	for f := range 2 {
		for n := 2; n <= 5; n++ {
			want(dialled(t, client, w, at(f, n), true), true, "")
		}
	}
	for _, m := range client.paths(t) {
		if m.Kind == "network" || m.Fault != "" || !m.Encrypted || m.Ratcheted {
			t.Errorf("%+v", m)
		}
	}
}

// TestRatchet has a path that begins to strip the option once the destination has had encryption: from then on no
// connection to it is plain, while others may be.
func TestRatchet(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t, netlab.Options{})
	lab.Server.Serve(t, "127.0.0.1:9001", answerSum)
	lab.Server.Serve(t, "198.18.2.2:2002", answerSum)
	startRun(t, lab.Server, "[egress]\ninterface = \"eth0\"\n[[serve]]\nlisten = \":2001\"\nforward = \"127.0.0.1:9001\"\n")
	client := startRun(t, lab.Client, clientConfig+"[tcpinc]\npolicy = \"ratchet\"\ninner_space = \"off\"\n")
	const server, legacy = "198.18.2.2:2001", "198.18.2.2:2002"
	lab.StripENO(t, netlab.SYN, netlab.Both)
	for _, w := range ways(lab.Client) {
		if r := dialled(t, client, w, server, true); r.Encrypted || r.Downgraded || r.FallbackReason != "peer-no-eno" {
			t.Errorf("%s: before the first success: %+v", w.name, r)
		}
	}
	lab.ClearMiddlebox(t)
	if r := dialled(t, client, ways(lab.Client)[0], server, true); !r.Encrypted {
		t.Errorf("%+v", r)
	}
	lab.StripENO(t, netlab.SYN, netlab.Both)
	client.waitIdle(t)
	before := client.conns(t)
	capture := lab.Capture(t, "c0", 0, "tcp port 2001")
	for _, w := range ways(lab.Client) {
		if err := exchange(t, w, server); err == nil {
			t.Errorf("%s: a plain connection was made", w.name)
		}
		client.waitIdle(t)
		if r := client.newest(t, to(server)); r.State != "failed" || r.FallbackReason != "peer-no-eno" || !r.Downgraded || r.Error == "" {
			t.Errorf("%s: %+v", w.name, r)
		}
		if r := dialled(t, client, w, legacy, true); r.Encrypted || r.Downgraded {
			t.Errorf("%s: a server without encryption: %+v", w.name, r)
		}
	}
	client.flush(t) // faults only
	if err := exchange(t, ways(lab.Client)[1], server); err == nil {
		t.Error("flushing faults has undone the ratchet")
	}
	for _, s := range readCapture(t, capture) {
		if s.Length > 0 && !ofAny(&s, before) {
			t.Errorf("data on the wire: %v", &s)
		}
	}
	if s, err := client.status(); err != nil || s.Downgrades != 3 || strings.Count(client.Log(), "downgrade: destination had") != 1 {
		t.Errorf("%d downgrades, %v", s.Downgrades, err)
	}
	if all := client.paths(t); len(all) != 1 || all[0].Destination != server || !all[0].Ratcheted || !all[0].Encrypted {
		t.Errorf("%+v", all)
	}

	// Nor in plain by an interface that innertun does not use.
	lab.Client.Script(t, "ip link add away type veth peer name away1; ip link set away up; ip link set away1 up; ip route add 198.18.2.2/32 dev away")
	if err := exchange(t, ways(lab.Client)[1], server); err == nil {
		t.Error("a plain connection by another interface")
	}
	if r := client.ended(t, to(server)); r.State != "failed" || r.FallbackReason != "local" {
		t.Errorf("by another interface: %+v", r)
	}
	lab.Client.Script(t, "ip link del away")

	client.flush(t, "198.18.2.2")
	if r := dialled(t, client, ways(lab.Client)[1], server, true); r.Encrypted || r.Downgraded {
		t.Errorf("after the operator's word: %+v", r)
	}
}
