package integration

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"innertun/integration/netlab"
)

// probed is what a test looks at of a probe's JSON.
type probed struct {
	Target, Address, Error string
	Plain                  probeFinding
	ENO                    struct {
		probeFinding
		TEP  string
		TEPs []string
	}
	Later    probeFinding `json:"later_segments"`
	Tcpcrypt struct {
		probeFinding
		Cipher string
	}
	Unknown    probeFinding `json:"unknown_option"`
	Data       probeFinding `json:"syn_data"`
	TFO        struct{ probeFinding }
	InnerSpace struct {
		probeFinding
		Mark bool
	} `json:"inner_space"`
	Hops struct {
		Distance int
		Path     []struct {
			Hop     int
			Address string
		}
		Changes []struct {
			Segment, What string
			After         int    `json:"after_hop"`
			By            int    `json:"by_hop"`
			ByAddress     string `json:"by_address"`
		}
	}
}

type probeFinding struct {
	Finding    string
	Confidence float64
	Sent       int
}

func (p probed) String() string {
	s := fmt.Sprintf("plain=%s eno=%s later=%s tcpcrypt=%s unknown=%s data=%s tfo=%s inner=%s", p.Plain.Finding, p.ENO.Finding, p.Later.Finding,
		p.Tcpcrypt.Finding, p.Unknown.Finding, p.Data.Finding, p.TFO.Finding, p.InnerSpace.Finding)
	if p.InnerSpace.Mark {
		s += " mark"
	}
	return s
}

// changes are those of the hops, each once whatever the kind of segment.
func (p probed) changes() string {
	var all []string
	for _, c := range p.Hops.Changes {
		all = append(all, fmt.Sprintf("%s %s@%d-%d", c.Segment, c.What, c.After, c.By))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// runProbe probes one target from the client and sees to it that the server has nothing half open then.
func runProbe(t *testing.T, client, server *netlab.Host, args ...string) probed {
	t.Helper()
	argv := append([]string{innertunBinary(t), "probe", "--json", "--timeout", "1200ms"}, args...)
	out := client.Run(t.Context(), argv...)
	if out.Code != 0 {
		t.Fatalf("probe %v: status %d\n%s%s", args, out.Code, out.Stdout, out.Stderr)
	}
	var p probed
	if err := json.Unmarshal([]byte(out.Stdout), &p); err != nil {
		t.Fatalf("%v\n%s", err, out.Stdout)
	}
	noneOpen(t, server, p.Address)
	if tables := client.MustRun(t, "nft", "list", "tables"); strings.Contains(tables, "probe") {
		t.Errorf("left behind: %s", tables)
	}
	return p
}

// noneOpen waits, for a moment, until the server's kernel has no connection at an address in any state but TIME-WAIT.
func noneOpen(t *testing.T, server *netlab.Host, address string) {
	t.Helper()
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		t.Fatal(err)
	}
	netlab.WaitFor(t, netlab.Patience, "the server to have nothing open", func() error {
		out := server.MustRun(t, "ss", "-Htan", "exclude", "listening", "exclude", "time-wait", "sport", "=", fmt.Sprintf(":%d", at.Port()))
		if strings.TrimSpace(out) != "" {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
}

const legacyProbe = "plain=open eno=absent later=accepted tcpcrypt= unknown=ignored data=ignored tfo=none inner=ignored"

// Three routers, each of which changes something: what the probe says where, for both families.
func TestProbeNamesTheHop(t *testing.T) {
	for name, c := range map[string]struct {
		rules   string // nft, for the second router
		changes string
		finds   string
	}{
		"nothing": {"", "", legacyProbe},
		"strips options": {"add rule inet m f tcp flags syn tcp option 69 exists reset tcp option 69",
			"syn option 69 removed@2-3", legacyProbe},
		"strips options behind the SYN": {"add rule inet m f tcp flags & syn == 0 reset tcp option 253",
			"ack option 253 removed@2-3", legacyProbe},
		"clamps the MSS": {"add rule inet m f tcp flags syn tcp option maxseg size set 1000",
			"plain mss@2-3, syn mss@2-3, syn-data mss@2-3", legacyProbe},
		"resets SYNs with an option": {"add rule inet m f tcp flags syn tcp option 253 exists reject with tcp reset",
			"syn answered@2-3", strings.Replace(legacyProbe, "unknown=ignored", "unknown=reset", 1)},
		"drops data in SYNs": {"add rule inet m f tcp flags & (syn|ack) == syn meta length > 65 tcp option 69 missing tcp option 253 missing tcp option 34 missing drop",
			"syn-data lost@2-3", strings.NewReplacer("data=ignored", "data=dropped", "inner=ignored", "inner=dropped").Replace(legacyProbe)},
	} {
		t.Run(name, func(t *testing.T) {
			l := netlab.NewChain(t, 3)
			l.Server.StartNginx(t, 1<<10, l.ServerAddr(false).String()+":80", "["+l.ServerAddr(true).String()+"]:80")
			if c.rules != "" {
				l.Routers[1].Script(t, "nft add table inet m; nft add chain inet m f '{ type filter hook forward priority 0; }'; nft '"+c.rules+"'")
			}
			for _, ipv6 := range []bool{false, true} {
				if ipv6 && strings.Contains(name, "drops") {
					continue // the rule is by lengths of IPv4
				}
				p := runProbe(t, l.Client, l.Server, netip.AddrPortFrom(l.ServerAddr(ipv6), 80).String())
				if p.String() != c.finds || p.changes() != c.changes {
					t.Errorf("IPv6 %v: %s; %s\nwant %s; %s", ipv6, p, p.changes(), c.finds, c.changes)
				}
				if p.Hops.Distance != 4 || len(p.Hops.Path) != 3 {
					t.Fatalf("hops: %+v", p.Hops)
				}
				for i, hop := range p.Hops.Path {
					if want := l.HostAddr(i, 2, ipv6).String(); hop.Address != want {
						t.Errorf("hop %d is %s, want %s", i+1, hop.Address, want)
					}
				}
			}
		})
	}
}

// Servers of all kinds.
func TestProbeServers(t *testing.T) {
	l := netlab.New(t, netlab.Options{})
	l.Server.StartNginx(t, 1<<10, "198.18.2.2:81", "[fd00:2::2]:81", "127.0.0.1:8080")
	probe := func(port uint16) map[string]probed {
		out := make(map[string]probed)
		for _, f := range families() {
			out[f.name] = runProbe(t, l.Client, l.Server, f.at(port))
		}
		return out
	}
	t.Run("kernel", func(t *testing.T) {
		for f, p := range probe(81) {
			if p.String() != legacyProbe || p.changes() != "" {
				t.Errorf("%s: %s; %s", f, p, p.changes())
			}
		}
	})
	t.Run("closed", func(t *testing.T) {
		for f, p := range probe(82) {
			if p.Plain.Finding != "closed" || p.ENO.Finding != "" || p.Hops.Distance != 2 {
				t.Errorf("%s: %s %+v", f, p, p.Hops)
			}
		}
	})
	t.Run("silent", func(t *testing.T) {
		for _, at := range []string{"198.18.3.3:80", "[fd00:3::3]:80"} {
			p := runProbe(t, l.Client, l.Server, "--tries", "2", "--hops", "3", at)
			if p.Plain.Finding != "silent" || len(p.Hops.Path) != 1 || p.Hops.Distance != 0 {
				t.Errorf("%s %+v", p, p.Hops)
			}
		}
	})
	t.Run("unreachable", func(t *testing.T) {
		for _, at := range []string{"198.18.4.4:80", "[fd00:4::4]:80"} {
			if p := runProbe(t, l.Client, l.Server, at); p.Plain.Finding != "icmp" {
				t.Errorf("%s %+v", p, p.Hops)
			}
		}
	})
	t.Run("kernel, Fast Open with cookies", func(t *testing.T) {
		l.Server.Script(t, "sysctl -qw net.ipv4.tcp_fastopen=0x3")
		fastOpenListener(t, l.Server, 83)
		for f, p := range probe(83) {
			if want := strings.Replace(legacyProbe, "tfo=none", "tfo=cookie", 1); p.String() != want {
				t.Errorf("%s: %s\nwant %s", f, p, want)
			}
		}
	})
	t.Run("kernel, Fast Open without cookies", func(t *testing.T) {
		l.Server.Script(t, "sysctl -qw net.ipv4.tcp_fastopen=0x203")
		fastOpenListener(t, l.Server, 84)
		for f, p := range probe(84) {
			if p.Data.Finding != "taken" || p.InnerSpace.Finding != "" {
				t.Errorf("%s: %s", f, p)
			}
		}
	})
	for mode, want := range map[string]string{"auto": "inner=upgraded mark", "off": "inner=ignored"} {
		t.Run("serve, Inner Space "+mode, func(t *testing.T) {
			s := startServe(t, l.Server, "80", "127.0.0.1:8080", "--inner-space", mode)
			for f, p := range probe(80) {
				want := "plain=open eno=answered later=kept tcpcrypt=completed unknown=ignored data=ignored tfo=none " + want
				if p.String() != want || len(p.ENO.TEPs) != 4 || p.ENO.TEP != "curve25519" || p.Tcpcrypt.Cipher == "" {
					t.Errorf("%s: %+v\nwant %s", f, p, want)
				}
			}
			s.waitIdle(t)
			for _, r := range s.conns(t) {
				if r.State != "closed" && r.State != "failed" {
					t.Errorf("half open: %+v", r)
				}
			}
			s.Stop()
		})
	}
}

// fastOpenListener listens with a queue for TCP Fast Open.
func fastOpenListener(t *testing.T, h *netlab.Host, port int) {
	t.Helper()
	var l net.Listener
	err := h.Do(func() (err error) {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			var set error
			err := c.Control(func(fd uintptr) { set = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, 23, 16) }) // TCP_FASTOPEN
			if err == nil {
				err = set
			}
			return err
		}}
		l, err = lc.Listen(t.Context(), "tcp", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.SetReadDeadline(time.Now().Add(10 * time.Second))
			for b := make([]byte, 100); ; {
				if _, err := c.Read(b); err != nil {
					break
				}
			}
			c.Close()
		}
	}()
}

// Interrupted at any time, it ends well and leaves nothing half open, beside a daemon that diverts the host's connections.
func TestProbeInterrupted(t *testing.T) {
	l := netlab.New(t, netlab.Options{})
	l.Server.StartNginx(t, 1<<10, "127.0.0.1:8080", "198.18.2.2:81")
	startServe(t, l.Server, "80", "127.0.0.1:8080")
	startRun(t, l.Client, clientConfig)
	capture := l.Capture(t, "c0", 0, "tcp")
	for i := range 6 {
		// The last target does not answer: it keeps the probe from ending by itself.
		p := l.Client.Start(t, shortDir(t), "probe", innertunBinary(t), "probe", "198.18.2.2:81", "198.18.2.2:80",
			netip.AddrPortFrom(netlab.SilentIP4, 80).String(), "--tries", "100", "--rate", "20")
		netlab.WaitFor(t, netlab.Patience, "the probe to begin", func() error {
			if tables := l.Client.MustRun(t, "nft", "list", "tables"); !strings.Contains(tables, "probe") && !p.Exited() {
				return fmt.Errorf("tables: %s", tables)
			}
			return nil
		})
		time.Sleep(time.Duration(200*i) * time.Millisecond)
		if err := p.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if code, err := p.Wait(netlab.Patience); err != nil || code != 0 {
			t.Errorf("status %d, %v: %s", code, err, p.Log())
		}
		noneOpen(t, l.Server, "198.18.2.2:81")
	}
	// From the ports of the probe alone: the daemon's are higher.
	const fin, syn, rst, ack = 1, 2, 4, 16
	type flow struct{ from, to netip.AddrPort }
	open := make(map[flow]string)
	syns := 0
	for _, s := range readCapture(t, capture) {
		f := flow{s.Src, s.Dst}
		back := flow{s.Dst, s.Src}
		switch {
		case s.Flags&(syn|ack) == syn:
			syns++
		case s.Flags&syn != 0:
			open[back] = "SYN-ACK"
		case s.Flags&(rst|fin) != 0:
			delete(open, f)
			delete(open, back)
		}
	}
	if syns < 10 {
		t.Errorf("%d SYNs captured", syns)
	}
	for f, state := range open {
		t.Errorf("%v: %s, and nothing ended it", f, state)
	}
}

func TestProbeErrors(t *testing.T) {
	l := netlab.New(t, netlab.Options{})
	bin := innertunBinary(t)
	file := t.TempDir() + "/targets"
	if err := os.WriteFile(file, []byte("# hosts\n198.18.2.2:81 # closed\n\nfd00:2::2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		says string
		code int
		args []string
	}{
		{"expected HOST:PORT, or -f FILE", 2, nil},
		{`"host" is no target`, 2, []string{"host"}},
		{"targets:4: ", 2, []string{"-f", file}},
		{"expected more than 0", 2, []string{"--rate", "0", "198.18.2.2:80"}},
		{"no such file", 1, []string{"-f", "/nonexistent"}},
		{`interface "eth9"`, 1, []string{"-i", "eth9", "198.18.2.2:80"}},
	} {
		out := l.Client.Run(t.Context(), append([]string{bin, "probe"}, c.args...)...)
		if out.Code != c.code || !strings.Contains(out.Stderr, c.says) {
			t.Errorf("%v: status %d, %q, should say %q", c.args, out.Code, out.Stderr, c.says)
		}
	}
	for at, says := range map[string]string{"127.0.0.1:80": "address of this host", "198.18.1.2:80": "address of this host", "198.18.1.77:80": "does not answer on the link"} {
		out := l.Client.Run(t.Context(), bin, "probe", "--json", at)
		if out.Code != 1 || !strings.Contains(out.Stdout, says) {
			t.Errorf("%s: status %d, %s %s", at, out.Code, out.Stdout, out.Stderr)
		}
	}
	out := l.Client.Run(t.Context(), "setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--reuid", "65534", "--clear-groups", bin, "probe", "198.18.2.2:80")
	if out.Code != 1 || !strings.Contains(out.Stderr, "needs root, or CAP_NET_ADMIN and CAP_NET_RAW") {
		t.Errorf("without privileges: status %d, %q", out.Code, out.Stderr)
	}
}

// Many targets from a file, to the rate: results come in the file's order, and one that fails does not keep the others from theirs.
func TestProbeFile(t *testing.T) {
	l := netlab.New(t, netlab.Options{})
	l.Server.StartNginx(t, 1<<10, "198.18.2.2:81", "[fd00:2::2]:81")
	var targets []string
	for range 5 {
		targets = append(targets, "198.18.2.2:81", "[fd00:2::2]:81", "198.18.2.2:82")
	}
	targets = append(targets, "127.0.0.1:80")
	file := t.TempDir() + "/targets"
	if err := os.WriteFile(file, []byte(strings.Join(targets, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	out := l.Client.Run(t.Context(), innertunBinary(t), "probe", "--json", "--rate", "100", "-f", file)
	took := time.Since(start)
	lines := strings.Split(strings.TrimSpace(out.Stdout), "\n")
	if out.Code != 1 || len(lines) != len(targets) {
		t.Fatalf("status %d, %d lines: %s", out.Code, len(lines), out.Stderr)
	}
	sent := 0
	for i, line := range lines {
		var p probed
		if err := json.Unmarshal([]byte(line), &p); err != nil {
			t.Fatal(err)
		}
		if p.Target != targets[i] {
			t.Errorf("line %d is %s, want %s", i, p.Target, targets[i])
		}
		want := map[bool]string{true: "open", false: "closed"}[strings.HasSuffix(p.Target, ":81")]
		if p.Target == "127.0.0.1:80" {
			want = ""
		}
		if p.Plain.Finding != want || (p.Error != "") != (want == "") {
			t.Errorf("%s: %s (%s)", p.Target, p, p.Error)
		}
		for _, f := range []probeFinding{p.Plain, p.ENO.probeFinding, p.Unknown, p.Data, p.TFO.probeFinding, p.Later, p.InnerSpace.probeFinding} {
			sent += f.Sent
		}
	}
	if least := time.Duration(sent-1) * time.Second / 100; took < least {
		t.Errorf("%d questions took %v, at 100 a second", sent, took)
	}
	noneOpen(t, l.Server, "198.18.2.2:81")
}
