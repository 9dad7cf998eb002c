package integration

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"innertun/integration/netlab"
)

// startPath runs `innertun lab path` in the wire namespace and waits until it is up.
func startPath(t *testing.T, l *netlab.Lab, a, b string, elements ...string) *netlab.Process {
	t.Helper()
	p := l.Wire.Start(t, shortDir(t), "path", append([]string{innertunBinary(t), "lab", "path", "-a", a, "-b", b}, elements...)...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("lab path: %s", tail(p.Log()))
		}
	})
	netlab.WaitFor(t, netlab.Patience, "the path", func() error {
		if p.Exited() {
			t.Fatalf("lab path ended: %s", p.Log())
		}
		if !strings.Contains(p.Log(), "is up") {
			return fmt.Errorf("it says %q", p.Log())
		}
		return nil
	})
	return p
}

// endPath ends it and returns what it counted.
func endPath(t *testing.T, p *netlab.Process) string {
	t.Helper()
	if code, err := p.Stop(); err != nil || code != 0 {
		t.Errorf("lab path on SIGINT: status %d, %v\n%s", code, err, p.Log())
	}
	return p.Log()
}

// programs pings, and runs curl and iperf3 from the client to a server, as many as there are addresses. It returns the speed
// of what iperf3 has transferred, and what that is of the time in which nothing waited for a processor.
func programs(t *testing.T, l *netlab.Lab, rtt time.Duration, addrs ...string) (mbits, unhindered float64) {
	t.Helper()
	var listen []string
	for _, a := range addrs {
		listen = append(listen, net.JoinHostPort(a, "80"))
	}
	nginx := l.Server.StartNginx(t, 1<<20, listen...)
	for _, a := range addrs {
		watch := netlab.StartStopwatch()
		took := ping(t, l.Client, netip.MustParseAddr(a))
		if wall, own := watch.Took(); took < rtt || took-(wall-own) > rtt+100*time.Millisecond {
			t.Errorf("ping %s: %v, the path has %v", a, took, rtt)
		}
		sum := l.Client.MustRun(t, "sh", "-c", "curl -sSf --max-time 300 http://"+net.JoinHostPort(a, "80")+"/file | sha256sum")
		if !strings.HasPrefix(sum, nginx.SHA256) {
			t.Errorf("curl %s: got another file", a)
		}
	}
	iperf := l.Server.Start(t, shortDir(t), "iperf3", "iperf3", "-s", "-1")
	netlab.WaitFor(t, netlab.Patience, "iperf3 to listen", func() error {
		if l.Server.MustRun(t, "ss", "-Hltn", "sport", "=", ":5201") == "" {
			return errors.New("nobody listens")
		}
		return nil
	})
	var report struct {
		End struct {
			SumReceived struct {
				Bytes float64
			} `json:"sum_received"`
		}
	}
	watch := netlab.StartStopwatch()
	out := l.Client.MustRun(t, "iperf3", "-J", "-t", "2", "-c", addrs[0])
	wall, own := watch.Took()
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("iperf3: %v\n%s", err, out)
	}
	iperf.Wait(netlab.Patience)
	mbits = report.End.SumReceived.Bytes * 8 / 1e6
	return mbits / wall.Seconds(), mbits / max(own.Seconds(), 0.001)
}

// ping sends ICMP echo requests until one is answered and returns how long that took, asked again once the neighbours
// know each other.
func ping(t *testing.T, h *netlab.Host, to netip.Addr) (took time.Duration) {
	t.Helper()
	network, request, answer := "ip4:icmp", byte(8), byte(0)
	if to.Is6() {
		network, request, answer = "ip6:ipv6-icmp", 128, 129
	}
	var c net.PacketConn
	err := h.Do(func() (err error) {
		c, err = net.ListenPacket(network, "")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for seq := range byte(10) {
		m := []byte{request, 0, 0, 0, 'l', 'b', 0, seq}
		sum := uint32(request)<<8 + 'l'<<8 + 'b' + uint32(seq) // of IPv6 the kernel reckons it
		binary.BigEndian.PutUint16(m[2:], ^uint16(sum+sum>>16))
		sent := time.Now()
		if _, err := c.WriteTo(m, &net.IPAddr{IP: to.AsSlice()}); err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(sent.Add(5 * time.Second))
		for buf := make([]byte, 1500); ; {
			n, _, err := c.ReadFrom(buf)
			if err != nil {
				break
			}
			if n >= 8 && buf[0] == answer && buf[7] == seq {
				took = time.Since(sent)
				break
			}
		}
		if took > 0 && seq > 0 {
			return took
		}
	}
	t.Fatalf("%s does not answer", to)
	return 0
}

// Programs that know nothing of it over a path between two TUN devices, which are made, moved into the hosts' namespaces,
// and gone at the end.
func TestLabPathBetweenTUNs(t *testing.T) {
	l := netlab.New(t, netlab.Options{Wire: true})
	p := startPath(t, l, "tunA", "tunB", "delay:time=10ms", "loss:probability=0.001", "clamp-mss:to=1300", "nat:external4=198.18.9.1,external6=fd00:9::1")
	for name, h := range map[string]*netlab.Host{"tunA": l.Client, "tunB": l.Server} {
		l.Wire.Script(t, "ip link set "+name+" netns "+h.Name)
	}
	l.Client.Script(t, `ip addr add 198.18.7.1/32 dev tunA; ip -6 addr add fd00:7::1/128 dev tunA nodad; ip link set tunA up
		ip route add 198.18.8.0/24 dev tunA; ip -6 route add fd00:8::/64 dev tunA`)
	l.Server.Script(t, `ip addr add 198.18.8.1/32 dev tunB; ip -6 addr add fd00:8::1/128 dev tunB nodad; ip link set tunB up
		ip route add 198.18.7.0/24 dev tunB; ip -6 route add fd00:7::/64 dev tunB
		ip route add 198.18.9.0/24 dev tunB; ip -6 route add fd00:9::/64 dev tunB`)
	mbits, unhindered := programs(t, l, 20*time.Millisecond, "198.18.8.1", "fd00:8::1")
	t.Logf("%.0f Mbit/s", mbits)
	if unhindered < 5 {
		t.Errorf("%.1f Mbit/s", mbits)
	}
	counts := endPath(t, p)
	for _, e := range []string{"loss:", "clamp-mss:", "nat:"} {
		_, after, ok := strings.Cut(counts, "\n"+e)
		_, after, _ = strings.Cut(after, "acted on ")
		if !ok || strings.HasPrefix(after, "0\n") {
			t.Errorf("%s did nothing:\n%s", e, counts)
		}
	}
	if out := l.Client.Run(t.Context(), "ip", "link", "show", "tunA"); out.Code == 0 {
		t.Error("the TUN device is still there")
	}
}

// The same between two Ethernet interfaces, as a bridge, with the offloads of the hosts on: large segments and partial
// checksums come in.
func TestLabPathBetweenInterfaces(t *testing.T) {
	for name, offload := range map[string]string{"whole packets": "off", "offloads": "on"} {
		t.Run(name, func(t *testing.T) {
			l := netlab.New(t, netlab.Options{Wire: true})
			for _, end := range []struct {
				h    *netlab.Host
				name string
			}{{l.Router, "s0"}, {l.Server, "eth0"}} {
				end.h.Script(t, "ethtool -K "+end.name+" tx "+offload+" tso "+offload+" gso "+offload+" >/dev/null")
			}
			p := startPath(t, l, "left", "right", "delay:time=5ms", "rate:bits=200Mbit,queue=1MiB", "strip-options:kinds=8,from=syn")
			mbits, unhindered := programs(t, l, 10*time.Millisecond, netlab.ServerIP4.String(), netlab.ServerIP6.String())
			t.Logf("%.0f Mbit/s", mbits)
			if unhindered < 10 || mbits > 200 {
				t.Errorf("%.1f Mbit/s over 200", mbits)
			}
			if counts := endPath(t, p); strings.Contains(counts, "strip-options:from=syn,kinds=8: acted on 0") {
				t.Errorf("no timestamps were stripped:\n%s", counts)
			}
		})
	}
}

// tcpcrypt between two hosts with the daemon, over a path that strips ENO from non-SYN segments: encryption is given up,
// and the transfer is whole.
func TestLabPathUnderDaemon(t *testing.T) {
	l := netlab.New(t, netlab.Options{Wire: true})
	p := startPath(t, l, "left", "right", "strip-options:kinds=69,from=non-syn")
	nginx := l.Server.StartNginx(t, 1<<20, "127.0.0.1:80")
	startServe(t, l.Server, "80", "127.0.0.1:80")
	startRun(t, l.Client, clientConfig)
	sum := l.Client.MustRun(t, "sh", "-c", "curl -sSf --max-time 300 http://"+netlab.ServerIP4.String()+"/file | sha256sum")
	if !strings.HasPrefix(sum, nginx.SHA256) {
		t.Error("curl got another file")
	}
	if counts := endPath(t, p); strings.Contains(counts, "acted on 0") {
		t.Errorf("no option was stripped:\n%s", counts)
	}
}

func TestLabPathErrors(t *testing.T) {
	l := netlab.New(t, netlab.Options{Wire: true})
	for says, args := range map[string][]string{
		"expected two interfaces":  {"-a", "left", "-b", "left"},
		"expected two TUN devices": {"-a", "left", "-b", "tunX"},
		"no such element":          {"-a", "left", "-b", "right", "los"},
		"probability is missing":   {"-a", "left", "-b", "right", "loss"},
		"-a and -b name":           {"loss:probability=0"},
		"expected 576 to 65535":    {"-a", "x", "-b", "y", "--mtu", "5"},
		"TUN device ab/cd: ":       {"-a", "ab/cd", "-b", "tunX"},
		"not defined: -x":          {"-x"},
	} {
		out := l.Wire.Run(t.Context(), append([]string{innertunBinary(t), "lab", "path"}, args...)...)
		if out.Code == 0 || !strings.Contains(out.Stderr, says) {
			t.Errorf("%v: status %d, %q, should say %q", args, out.Code, out.Stderr, says)
		}
	}
}
