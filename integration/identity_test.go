package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"innertun/integration/netlab"
)

// keyGen makes an identity by the command and returns its file and its public key.
func keyGen(t testing.TB, h *netlab.Host, name string) (file, public string) {
	t.Helper()
	file = filepath.Join(shortDir(t), name)
	public = strings.TrimSpace(h.MustRun(t, innertunBinary(t), "key", "gen", "-o", file))
	if shown := strings.TrimSpace(h.MustRun(t, innertunBinary(t), "key", "show", file)); shown != public {
		t.Fatalf("key show says %q, key gen %q", shown, public)
	}
	return file, public
}

// peer is one line of `peers --json`.
type peer struct {
	Kind         string   `json:"kind"`
	Destination  string   `json:"destination"`
	Name         string   `json:"name"`
	Key          string   `json:"key"`
	Auth         string   `json:"auth"`
	To           []string `json:"to"`
	Added        string   `json:"added"`
	RefusedAgoMS float64  `json:"refused_ago_ms"`
}

func (d *daemon) peers(t testing.TB) (all []peer) {
	t.Helper()
	out, err := d.command("peers", "--json")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(out) {
		var p peer
		dec := json.NewDecoder(bytes.NewReader(line))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&p); err != nil {
			t.Fatalf("peers --json: %v: %s", err, line)
		}
		all = append(all, p)
	}
	return all
}

// stop ends a daemon before the test does.
func (d *daemon) stop(t testing.TB) {
	t.Helper()
	if code, err := d.Stop(); err != nil || code != 0 {
		t.Fatalf("status %d, %v\n%s", code, err, tail(d.Log()))
	}
}

func identityConfig(key string, more ...string) string {
	return fmt.Sprintf("[egress]\ninterface = \"eth0\"\n[identity]\nkey = %q\n", key) + strings.Join(more, "")
}

// fails runs curl, which must be refused within a short time, and returns what it says.
func fails(t testing.TB, lab *netlab.Lab, extra []string, url string) string {
	t.Helper()
	args := append([]string{"curl", "-sS", "--max-time", "60", "-o", "/dev/null"}, extra...)
	watch := netlab.StartStopwatch()
	out := lab.Client.Run(context.Background(), append(args, url)...)
	if wall, own := watch.Took(); out.Err == nil || own > 15*time.Second {
		t.Errorf("curl %s: %v after %v, %v of it by itself; want a refusal: %s", url, out.Err, wall, own, out.Stderr)
	}
	return out.Stderr
}

// TestIdentities has both ends prove who they are: known from the first use at the client, by name at the server. Then
// the server's key changes: refused, until it is accepted.
func TestIdentities(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	web := lab.Server.StartNginx(t, 1<<20, "127.0.0.1:8080")
	clientKey, clientPublic := keyGen(t, lab.Client, "client.key")
	serverKey, serverPublic := keyGen(t, lab.Server, "server.key")
	otherKey, otherPublic := keyGen(t, lab.Server, "other.key")

	laptop := "[[peer]]\nname = \"laptop\"\nkey = \"" + clientPublic + "\"\n"
	served := "[[serve]]\nlisten = \":80\"\nforward = \"127.0.0.1:8080\"\npeers = [\"laptop\"]\n"
	server := startRun(t, lab.Server, identityConfig(serverKey, laptop, served))
	known := filepath.Join(shortDir(t), "known_peers")
	client := startRun(t, lab.Client, identityConfig(clientKey,
		fmt.Sprintf("known_peers = %q\n[tun]\nname = \"inner0\"\n[socks]\nlisten = \"127.0.0.1:1080\"\n", known),
		"[[peer]]\nname = \"lab\"\nto = [\"198.18.0.0/15\", \"fd00::/8\"]\nauth = \"tofu\"\n"))

	for _, w := range ways(lab.Client) {
		for _, f := range families() {
			for _, resumed := range []bool{false, true} {
				// The second way has met the server before: its connections are resumed.
				resumed = resumed || w.name != "tun"
				fetch(t, lab, w.curl, "http://"+f.at(80)+"/file", web.SHA256)
				r := client.newest(t, to(f.at(80)))
				if r.Peer != "lab" || !r.Encrypted || !r.AppAware || r.Resumed != resumed {
					t.Errorf("%s %s: client: %+v, want resumed %v", w.name, f.name, r, resumed)
				}
				r = server.newest(t, func(r record) bool { return r.Role == "server" })
				if r.Peer != "laptop" || !r.Encrypted || r.Resumed != resumed {
					t.Errorf("%s %s: server: %+v, want resumed %v", w.name, f.name, r, resumed)
				}
			}
		}
	}
	text, err := os.ReadFile(known)
	if err != nil || strings.Count(string(text), serverPublic) != 2 || !strings.Contains(string(text), "198.18.2.2:80 ") {
		t.Errorf("known peers: %s, %v", text, err)
	}

	server.stop(t)
	server = startRun(t, lab.Server, identityConfig(otherKey, laptop, served))
	for _, w := range ways(lab.Client) {
		fails(t, lab, w.curl, "http://198.18.2.2:80/file")
		r := client.ended(t, to("198.18.2.2:80"))
		if r.State != "failed" || r.Peer != "" || r.BytesOut != 0 || !strings.Contains(r.Error, otherPublic) {
			t.Errorf("%s: %+v", w.name, r)
		}
	}
	accept := "innertun peers accept 198.18.2.2:80 " + otherPublic
	for _, want := range []string{accept + " -control " + client.control, serverPublic, "level=ERROR"} {
		if !strings.Contains(client.Log(), want) {
			t.Errorf("the log does not say %q:\n%s", want, tail(client.Log()))
		}
	}
	client.waitIdle(t)
	if s, err := client.status(); err != nil || s.Totals.Failed["identity"] != 2 {
		t.Errorf("%+v, %v", s.Totals, err)
	}
	refused := false
	for _, p := range client.peers(t) {
		refused = refused || p.Kind == "refused" && p.Destination == "198.18.2.2:80" && p.Key == otherPublic
	}
	if !refused {
		t.Errorf("peers: %+v", client.peers(t))
	}

	if _, err := client.command("peers", "accept", "198.18.2.2:80"); err != nil {
		t.Fatal(err)
	}
	fetch(t, lab, nil, "http://198.18.2.2:80/file", web.SHA256)
	// The other address is still known by the old key; the command from the log's words.
	fails(t, lab, nil, "http://[fd00:2::2]:80/file")
	if _, err := client.command("peers", "accept", "[fd00:2::2]:80", otherPublic); err != nil {
		t.Fatal(err)
	}
	fetch(t, lab, nil, "http://[fd00:2::2]:80/file", web.SHA256)
	if _, err := client.command("peers", "forget", "[fd00:2::2]:80"); err != nil {
		t.Fatal(err)
	}
	if all := client.peers(t); len(all) != 2 {
		t.Errorf("peers: %+v, want the configured one and the known one", all)
	}
	client.mustAlive(t)
	server.mustAlive(t)
}

// Where an upgraded SYN brings the keys, the server says who it is in its SYN-ACK, for the client alone to read.
func TestProofInSYNACK(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	web := lab.Server.StartNginx(t, 1000, "127.0.0.1:8080")
	clientKey, clientPublic := keyGen(t, lab.Client, "client.key")
	serverKey, serverPublic := keyGen(t, lab.Server, "server.key")
	const fresh = "[tcpinc]\nresume = false\npolicy = \"require\"\n"
	server := startRun(t, lab.Server, identityConfig(serverKey, fresh,
		"[[peer]]\nname = \"laptop\"\nkey = \""+clientPublic+"\"\n[[serve]]\nlisten = \":80\"\nforward = \"127.0.0.1:8080\"\npeers = [\"laptop\"]\n"))
	client := startRun(t, lab.Client, identityConfig(clientKey, fresh, "[tun]\nname = \"inner0\"\n[socks]\nlisten = \"127.0.0.1:1080\"\n",
		"[[peer]]\nname = \"lab\"\nkey = \""+serverPublic+"\"\nto = [\"198.18.0.0/15\"]\nauth = \"pinned\"\n"))
	w, f := ways(lab.Client)[0], families()[0]
	fetch(t, lab, w.curl, "http://"+f.at(80)+"/file", web.SHA256) // to know that the server takes upgraded SYNs
	client.waitIdle(t)
	capture := lab.Capture(t, "c0", 0, "tcp port 80")
	fetch(t, lab, w.curl, "http://"+f.at(80)+"/file", web.SHA256)
	client.waitIdle(t)
	server.waitIdle(t)
	segs := readCapture(t, capture)
	s := decrypt(t, segs, client, f)
	if !strings.HasPrefix(string(s.Proof), "ITH1") || len(s.Proof) < 6+3+96 {
		t.Errorf("in the SYN-ACK-U: %q", s.Proof)
	}
	checkClean(t, segs, s, [][]byte{[]byte("ITH1")})
	for _, d := range []*daemon{client, server} {
		if r := d.newest(t, func(r record) bool { return true }); r.Peer == "" || !r.InnerSpace || r.Resumed {
			t.Errorf("%+v", r)
		}
	}
}

// TestPinned has a client that insists on one key, and a server that admits one client.
func TestPinned(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	web := lab.Server.StartNginx(t, 1<<20, "127.0.0.1:8080")
	clientKey, clientPublic := keyGen(t, lab.Client, "client.key")
	serverKey, serverPublic := keyGen(t, lab.Server, "server.key")
	_, strangerPublic := keyGen(t, lab.Server, "stranger.key")
	socks := "[socks]\nlisten = \"127.0.0.1:1080\"\n"
	through := []string{"--socks5", "127.0.0.1:1080"}
	pinned := func(name, key string) string {
		return fmt.Sprintf("[[peer]]\nname = %q\nkey = %q\nto = [\"198.18.2.2\"]\n", name, key)
	}
	serve := func(port int, more string) string {
		return fmt.Sprintf("[[serve]]\nlisten = \":%d\"\nforward = \"127.0.0.1:8080\"\n", port) + more
	}
	server := startRun(t, lab.Server, identityConfig(serverKey,
		"[[peer]]\nname = \"stranger\"\nkey = \""+strangerPublic+"\"\n",
		serve(80, ""), serve(81, "auth = \"pinned\"\n")))

	client := startRun(t, lab.Client, identityConfig(clientKey, socks, pinned("web", serverPublic)))
	fetch(t, lab, through, "http://198.18.2.2:80/file", web.SHA256)
	if r := client.newest(t, to("198.18.2.2:80")); r.Peer != "web" {
		t.Errorf("client: %+v", r)
	}
	server.waitIdle(t)
	if r := server.newest(t, func(r record) bool { return r.State == "closed" }); r.Peer != clientPublic {
		t.Errorf("server: peer %q, want the client's key, as it has no name: %+v", r.Peer, r)
	}
	fails(t, lab, through, "http://198.18.2.2:81/file") // a client that is not admitted
	// The server notes it once the client has gone.
	netlab.WaitFor(t, netlab.Patience, "the server to count who was refused", func() error {
		s, err := server.status()
		if err == nil && s.Totals.Failed["identity"] == 0 {
			err = fmt.Errorf("%+v", s.Totals)
		}
		return err
	})
	server.waitIdle(t)
	if s, err := server.status(); err != nil || s.Totals.Failed["identity"] != 1 {
		t.Errorf("server: %+v, %v", s.Totals, err)
	}
	server.stop(t)

	// In place of the server: nothing but a plain one on port 80, a port that is skipped otherwise included.
	lab.Server.StartNginx(t, 1<<10, "198.18.2.2:80", "198.18.2.2:443")
	for _, port := range []string{"80", "443"} {
		fails(t, lab, through, "http://198.18.2.2:"+port+"/file")
		if r := client.ended(t, to("198.18.2.2:"+port)); r.State != "failed" || r.FallbackReason != "peer-no-eno" || r.BytesOut != 0 {
			t.Errorf("a plain server on port %s: %+v", port, r)
		}
	}
	client.stop(t)

	// Another key is pinned.
	server = startRun(t, lab.Server, identityConfig(serverKey, serve(82, "")))
	client = startRun(t, lab.Client, identityConfig(clientKey, socks, pinned("web", strangerPublic)))
	fails(t, lab, through, "http://198.18.2.2:82/file")
	if r := client.ended(t, to("198.18.2.2:82")); r.State != "failed" || !strings.Contains(r.Error, serverPublic) || !strings.Contains(r.Error, strangerPublic) {
		t.Errorf("another key: %+v", r)
	}
	served := func(r record) bool { return r.Role == "server" }
	netlab.WaitFor(t, netlab.Patience, "the server to note the connection", func() error {
		if all := server.conns(t); !slices.ContainsFunc(all, served) {
			return fmt.Errorf("%+v", all)
		}
		return nil
	})
	if r := server.ended(t, served); r.BytesIn != 0 {
		t.Errorf("the server was sent %d octets", r.BytesIn)
	}
}
