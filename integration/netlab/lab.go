package netlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Addresses of the hosts; RFC 2544 and RFC 4193 ranges, used nowhere else.
var (
	ClientIP4 = netip.MustParseAddr("198.18.1.2")
	ClientIP6 = netip.MustParseAddr("fd00:1::2")
	ServerIP4 = netip.MustParseAddr("198.18.2.2")
	ServerIP6 = netip.MustParseAddr("fd00:2::2")
	// SilentIP4 and SilentIP6 are routed to the far link, but the router drops all that goes there.
	SilentIP4 = netip.MustParseAddr("198.18.3.3")
	SilentIP6 = netip.MustParseAddr("fd00:3::3")
	// UnreachableIP4 and UnreachableIP6 are answered by the router with ICMP host (address) unreachable.
	UnreachableIP4 = netip.MustParseAddr("198.18.4.4")
	UnreachableIP6 = netip.MustParseAddr("fd00:4::4")
)

const prefix = "itlab"

// Options changes the topology from the one drawn in the package comment.
type Options struct {
	PathMTU  int  // octets; 0: as wide as the interfaces (1500)
	RPFilter int  // net.ipv4.conf.*.rp_filter of client and server: 0 or 1
	Wire     bool // insert the wire namespace in the far link
}

// Lab is one topology. It is removed when the test that made it ends.
type Lab struct {
	Client, Router, Server *Host
	Wire                   *Host // nil without Options.Wire; its interfaces are "left" and "right"

	name string
}

// RequireRoot skips the test unless it runs as root, which namespaces need.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root on Linux for network namespaces; run it as root")
	}
}

// New builds a topology and arranges for its removal. A failure to build ends the test.
func New(t testing.TB, o Options) *Lab {
	t.Helper()
	RequireRoot(t)
	name, err := reserveName()
	if err != nil {
		t.Fatalf("netlab: %v", err)
	}
	l := &Lab{name: name}
	t.Cleanup(l.remove)
	l.Client, l.Router, l.Server = l.host("client"), l.host("router"), l.host("server")
	if o.Wire {
		l.Wire = l.host("wire")
	}
	if err := l.build(o); err != nil {
		t.Fatalf("netlab: build %s: %v", name, err)
	}
	return l
}

func (l *Lab) host(role string) *Host { return &Host{Name: l.name + "-" + role, Role: role} }

func (l *Lab) hosts() []*Host {
	hosts := []*Host{l.Client, l.Router, l.Server}
	if l.Wire != nil {
		hosts = append(hosts, l.Wire)
	}
	return hosts
}

// reserveName picks a name no other lab on this machine uses; the process's id is in it, so that leftovers of a
// process that died can be told apart.
func reserveName() (string, error) {
	for n := range 10000 {
		name := fmt.Sprintf("%s-%d-%d", prefix, os.Getpid(), n)
		err := exec.Command("ip", "netns", "add", name+"-client").Run()
		if err == nil {
			return name, nil
		}
		if _, statErr := os.Stat(filepath.Join(netnsDir, name+"-client")); statErr != nil {
			return "", fmt.Errorf("ip netns add %s-client: %w", name, err)
		}
	}
	return "", errors.New("no free name")
}

func (l *Lab) build(o Options) error {
	for _, h := range l.hosts() {
		if h != l.Client {
			if err := run("ip", "netns", "add", h.Name); err != nil {
				return err
			}
		}
		if err := h.script(prepare); err != nil {
			return err
		}
	}
	if err := l.link(l.Client, "eth0", l.Router, "c0"); err != nil {
		return err
	}
	if l.Wire == nil {
		if err := l.link(l.Router, "s0", l.Server, "eth0"); err != nil {
			return err
		}
	} else if err := l.buildWire(); err != nil {
		return err
	}
	if err := l.Client.script(endHost("198.18.1", "fd00:1:", o.RPFilter)); err != nil {
		return err
	}
	if err := l.Server.script(endHost("198.18.2", "fd00:2:", o.RPFilter)); err != nil {
		return err
	}
	if err := l.Router.script(router + pathMTU(o.PathMTU)); err != nil {
		return err
	}
	return errors.Join(settled(l.Client), settled(l.Server))
}

// settled waits until the kernel has taken note that a host's link is up, which it does in its own time: routes and the
// interface say so, and the link-local address is there.
func settled(h *Host) error {
	return h.Do(func() error {
		for end := time.Now().Add(Patience); ; time.Sleep(5 * time.Millisecond) {
			i, err := net.InterfaceByName("eth0")
			if err != nil {
				return fmt.Errorf("in %s: %w", h.Role, err)
			}
			addresses, err := os.ReadFile("/proc/thread-self/net/if_inet6")
			if err != nil {
				return fmt.Errorf("in %s: %w", h.Role, err)
			}
			if i.Flags&net.FlagRunning != 0 && hasLinkLocal(addresses) {
				return nil
			}
			if time.Now().After(end) {
				return fmt.Errorf("in %s: waited %v for eth0 to be up: %v\n%s", h.Role, Patience, i.Flags, addresses)
			}
		}
	})
}

// hasLinkLocal tells whether eth0 has an address of scope link that is not tentative, by /proc/net/if_inet6: address, index,
// length of the prefix, scope, flags, name.
func hasLinkLocal(addresses []byte) bool {
	const scopeLink, tentative = "20", 0x40 // include/net/ipv6.h, linux/if_addr.h
	for line := range strings.Lines(string(addresses)) {
		if f := strings.Fields(line); len(f) == 6 && f[3] == scopeLink && f[5] == "eth0" {
			flags, err := strconv.ParseUint(f[4], 16, 32)
			return err == nil && flags&tentative == 0
		}
	}
	return false
}

func (l *Lab) buildWire() error {
	if err := l.link(l.Router, "s0", l.Wire, "left"); err != nil {
		return err
	}
	if err := l.link(l.Wire, "right", l.Server, "eth0"); err != nil {
		return err
	}
	for _, end := range []struct {
		h    *Host
		name string
	}{{l.Router, "s0"}, {l.Wire, "left"}, {l.Wire, "right"}, {l.Server, "eth0"}} {
		// What leaves must be whole packets with whole checksums: the wire carries octets, not offload flags.
		if err := end.h.script("ethtool -K " + end.name + " tso off gso off gro off tx off >/dev/null"); err != nil {
			return err
		}
	}
	return l.Wire.script(`
		sysctl -qw net.ipv6.conf.all.disable_ipv6=1
		ip link set left arp off promisc on
		ip link set right arp off promisc on`)
}

func (l *Lab) link(a *Host, nameA string, b *Host, nameB string) error {
	if err := run("ip", "link", "add", "netns", a.Name, "name", nameA, "type", "veth",
		"peer", "name", nameB, "netns", b.Name); err != nil {
		return err
	}
	if err := run("ip", "-n", a.Name, "link", "set", nameA, "up"); err != nil {
		return err
	}
	return run("ip", "-n", b.Name, "link", "set", nameB, "up")
}

// A new namespace inherits the machine's congestion control, which may be bbr: that would not be comparable. cubic
// may be reserved for the machine itself; reno never is.
const prepare = `
	sysctl -qw net.ipv4.tcp_congestion_control=cubic 2>/dev/null || sysctl -qw net.ipv4.tcp_congestion_control=reno
	sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
	sysctl -qw net.ipv6.conf.all.accept_ra=0 net.ipv6.conf.default.accept_ra=0
	ip link set lo up`

func endHost(net4, net6 string, rpFilter int) string {
	rp := strconv.Itoa(rpFilter)
	return `
		sysctl -qw net.ipv4.conf.all.rp_filter=` + rp + ` net.ipv4.conf.default.rp_filter=` + rp + ` net.ipv4.conf.eth0.rp_filter=` + rp + `
		ip addr add ` + net4 + `.2/24 dev eth0
		ip addr add ` + net6 + `:2/64 dev eth0 nodad
		ip route add default via ` + net4 + `.1
		ip -6 route add default via ` + net6 + `:1`
}

const router = `
	sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
	sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
	sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0
	ip addr add 198.18.1.1/24 dev c0
	ip addr add 198.18.2.1/24 dev s0
	ip addr add fd00:1::1/64 dev c0 nodad
	ip addr add fd00:2::1/64 dev s0 nodad
	ip route add 198.18.3.0/24 via 198.18.2.2
	ip route add 198.18.4.0/24 via 198.18.2.2
	ip -6 route add fd00:3::/64 via fd00:2::2
	ip -6 route add fd00:4::/64 via fd00:2::2
	iptables -A FORWARD -d 198.18.3.0/24 -j DROP
	ip6tables -A FORWARD -d fd00:3::/64 -j DROP
	iptables -A FORWARD -d 198.18.4.0/24 -j REJECT --reject-with icmp-host-unreachable
	ip6tables -A FORWARD -d fd00:4::/64 -j REJECT --reject-with icmp6-addr-unreachable
`

// pathMTU locks the MTU of the router's routes: a forwarded packet that is larger is answered with ICMP.
func pathMTU(mtu int) string {
	if mtu == 0 {
		return ""
	}
	m := strconv.Itoa(mtu)
	return `
		ip route replace 198.18.1.0/24 dev c0 src 198.18.1.1 mtu lock ` + m + `
		ip route replace 198.18.2.0/24 dev s0 src 198.18.2.1 mtu lock ` + m + `
		ip -6 route replace fd00:1::/64 dev c0 proto kernel metric 256 mtu lock ` + m + `
		ip -6 route replace fd00:2::/64 dev s0 proto kernel metric 256 mtu lock ` + m
}

func (l *Lab) remove() {
	for _, h := range l.hosts() {
		if h != nil {
			h.endAll()
			removeNamespace(h.Name)
		}
	}
}

func removeNamespace(name string) {
	// Its veth ends go with it, and their peers with them.
	_ = exec.Command("ip", "netns", "del", name).Run()
}

// RemoveStale removes what labs of processes that are no longer alive have left behind.
func RemoveStale() error {
	entries, err := os.ReadDir(netnsDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		pid, ok := ownerOf(e.Name())
		if !ok {
			continue
		}
		if _, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid))); errors.Is(err, os.ErrNotExist) {
			endProcessesIn(e.Name())
			removeNamespace(e.Name())
		}
	}
	return nil
}

// endProcessesIn kills what still runs in a namespace whose lab is gone.
func endProcessesIn(name string) {
	out, err := exec.Command("ip", "netns", "pids", name).Output()
	if err != nil {
		return
	}
	for _, field := range strings.Fields(string(out)) {
		if pid, err := strconv.Atoi(field); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
		}
	}
}

func ownerOf(name string) (pid int, ok bool) {
	parts := strings.Split(name, "-")
	if len(parts) != 4 || parts[0] != prefix {
		return 0, false
	}
	pid, err := strconv.Atoi(parts[1])
	return pid, err == nil && pid > 0
}

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
