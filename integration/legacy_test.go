package integration

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"innertun/integration/decode"
	"innertun/integration/netlab"
)

// TestLegacyServer has a server that knows nothing of all this: plain TCP works as ever.
func TestLegacyServer(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	web := lab.Server.StartNginx(t, 4<<20, "198.18.2.2:8081", "[fd00:2::2]:8081")
	client := startRun(t, lab.Client, clientConfig)
	for _, w := range ways(lab.Client) {
		for _, f := range families() {
			t.Run(w.name+"/"+f.name, func(t *testing.T) {
				capture := lab.Capture(t, "c0", 0, "tcp")
				fetch(t, lab, w.curl, "http://"+f.at(8081)+"/file", web.SHA256)
				client.waitIdle(t)
				r := client.newest(t, to(f.at(8081)))
				if r.Encrypted || r.FallbackReason != "peer-no-eno" && r.FallbackReason != "remembered" || r.State != "closed" {
					t.Errorf("record: %+v", r)
				}
				flows, _ := keptFlows(readCapture(t, capture))
				if len(flows) != 1 {
					t.Fatalf("%d connections on the wire, want 1", len(flows))
				}
				n := flows[0].Negotiate()
				if len(n.Violations) > 0 || n.OptionB != nil || n.Enabled {
					t.Errorf("%+v", n)
				}
				st, err := flows[0].Reassemble(decode.BtoA)
				if err != nil || !bytes.HasSuffix(st.Data, web.Data) || !st.FIN {
					t.Errorf("the wire's octets are not the file, or do not end with FIN: %v", err)
				}
			})
		}
	}
}

// TestLegacyClient connects to `serve` with the kernel's own TCP.
func TestLegacyClient(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	web := lab.Server.StartNginx(t, 16<<20, "127.0.0.1:8080")
	server := startServe(t, lab.Server, "80", "127.0.0.1:8080")
	plain := way{name: "kernel", dial: ways(lab.Client)[0].dial}
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			fetch(t, lab, nil, "http://"+f.at(80)+"/file", web.SHA256)
			if err := putAndCheck(t.Context(), plain, web, f.at(80), f.name, pattern(1, 1<<20)); err != nil {
				t.Error(err)
			}
			r := server.newest(t, func(r record) bool { return r.Local == f.at(80) })
			if r.Encrypted || r.FallbackReason != "peer-no-eno" || r.Role != "server" {
				t.Errorf("record: %+v", r)
			}
		})
	}
	many(t, 100, func(ctx context.Context, i int) error {
		_, err := get(ctx, plain, families()[i%2].at(80), i*1000, i*1000+50_000)
		return err
	})
	server.waitIdle(t)
}

// TestRequire wants encryption of a server that has none: the application's connect fails, nothing of its data
// leaves.
func TestRequire(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	web := lab.Server.StartNginx(t, 1<<20, "127.0.0.1:8080", "198.18.2.2:8081", "[fd00:2::2]:8081")
	startServe(t, lab.Server, "80", "127.0.0.1:8080")
	client := startRun(t, lab.Client, clientConfig+"[tcpinc]\npolicy = \"require\"\n")
	for _, w := range ways(lab.Client) {
		for _, f := range families() {
			t.Run(w.name+"/"+f.name, func(t *testing.T) {
				capture := lab.Capture(t, "c0", 0, "tcp port 8081")
				ctx, cancel := context.WithTimeout(t.Context(), netlab.Patience)
				defer cancel()
				if _, err := get(ctx, w, f.at(8081), 0, 10); err == nil || !strings.HasPrefix(err.Error(), "connect:") {
					t.Errorf("got %v, want the connect to fail", err)
				}
				client.waitIdle(t)
				r := client.newest(t, to(f.at(8081)))
				if r.State != "failed" || r.FallbackReason != "peer-no-eno" || r.Error == "" || r.Encrypted {
					t.Errorf("record: %+v", r)
				}
				for _, s := range readCapture(t, capture) {
					if s.Length > 0 {
						t.Errorf("data on the wire: %v", &s)
					}
				}
				// The same daemon encrypts where it can.
				if got, err := get(ctx, w, f.at(80), 0, 1000); err != nil || !bytes.Equal(got, web.Data[:1000]) {
					t.Errorf("encrypted: %v", err)
				}
			})
		}
	}
	log := client.Log()
	if !strings.Contains(log, "peer-no-eno") || !strings.Contains(log, "198.18.2.2:8081") {
		t.Errorf("no log line with the destination and peer-no-eno:\n%s", tail(log))
	}
}

// TestPolicyOff is plain TCP by configuration, and for the ports that are encrypted already.
func TestPolicyOff(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	web := lab.Server.StartNginx(t, 1<<20, "127.0.0.1:8080")
	server := startRun(t, lab.Server, `
[egress]
interface = "eth0"
[[serve]]
listen = ":80"
forward = "127.0.0.1:8080"
[[serve]]
listen = ":443"
forward = "127.0.0.1:8080"
[[serve]]
listen = ":81"
forward = "127.0.0.1:8080"
`)
	client := startRun(t, lab.Client, clientConfig+`
[[rule]]
to = ["198.18.0.0/15"]
port = [81]
policy = "off"
`)
	for port, want := range map[uint16]record{
		80:  {Encrypted: true},
		81:  {FallbackReason: "policy-off"},
		443: {FallbackReason: "skip-port"},
	} {
		capture := lab.Capture(t, "c0", 0, "tcp")
		f := families()[0]
		fetch(t, lab, nil, "http://"+f.at(port)+"/file", web.SHA256)
		r := client.newest(t, to(f.at(port)))
		if r.Encrypted != want.Encrypted || r.FallbackReason != want.FallbackReason {
			t.Errorf("port %d: %+v", port, r)
		}
		flows, _ := keptFlows(readCapture(t, capture))
		if len(flows) != 1 {
			t.Fatalf("port %d: %d connections", port, len(flows))
		}
		if n := flows[0].Negotiate(); len(n.Violations) > 0 || (n.OptionA != nil) != want.Encrypted {
			t.Errorf("port %d: ENO in the SYN: % x; violations %q", port, n.OptionA, n.Violations)
		}
	}
	client.waitIdle(t)
	server.waitIdle(t)
}
