package host_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"innertun/internal/host"
	"innertun/internal/host/hosttest"
)

// attempt reports how a connect from the peer ends within that time: "open", "refused" or "silence".
func attempt(t *testing.T, to string, within time.Duration) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", to)
	switch {
	case err == nil:
		conn.Close()
		return "open"
	case errors.Is(err, unix.ECONNREFUSED):
		return "refused"
	case errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "i/o timeout"):
		return "silence"
	}
	t.Fatalf("connect to %s: %v", to, err)
	return ""
}

func expect(t *testing.T, peer *hosttest.Peer, want map[string]string) {
	t.Helper()
	peer.Do(func() {
		for to, outcome := range want {
			within := 30 * time.Second
			if outcome == "silence" {
				within = 300 * time.Millisecond
			}
			if got := attempt(t, to, within); got != outcome {
				t.Errorf("%s: %s, want %s", to, got, outcome)
			}
		}
	})
}

func listen(t *testing.T, at string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestDropTable(t *testing.T) {
	peer := hosttest.Pair(t)
	hosttest.Run(t, "ip", "addr", "add", "198.18.77.3/24", "dev", "eth0")
	listen(t, ":80")
	listen(t, ":81")
	before := hosttest.Look(t)
	table, err := host.NewDropTable("eth0")
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()

	expect(t, peer, map[string]string{"198.18.77.1:61000": "refused", "198.18.77.1:80": "open"})
	ports := host.Ports{{First: 61000, Last: 61999}, {First: 62001, Last: 65535}}
	if err := table.Set(ports, []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:80"), netip.MustParseAddrPort("[fd77::1]:81")}); err != nil {
		t.Fatal(err)
	}
	expect(t, peer, map[string]string{
		"198.18.77.1:60999": "refused", "[fd77::1]:60999": "refused",
		"198.18.77.1:61000": "silence", "[fd77::1]:61000": "silence", "198.18.77.3:65535": "silence", "[fd77::1]:65535": "silence",
		"198.18.77.1:62000": "refused", "[fd77::1]:62000": "refused",
		"198.18.77.1:80": "silence", "198.18.77.3:80": "silence", "[fd77::1]:80": "open",
		"198.18.77.1:81": "open", "[fd77::1]:81": "silence",
	})
	if attempt(t, "127.0.0.1:80", 30*time.Second) != "open" || attempt(t, "198.18.77.1:61000", 30*time.Second) != "refused" {
		t.Error("connections of the host with itself are cut")
	}

	text := hosttest.Run(t, "nft", "list", "table", "netdev", "innertun")
	for _, want := range []string{"61000-61999, 62001-65535", "tcp dport @ports fib daddr type local drop", `device "eth0"`, "flags owner"} {
		if !strings.Contains(text, want) {
			t.Errorf("the table, as nft prints it, lacks %q:\n%s", want, text)
		}
	}
	// A new set takes the place of the old one.
	if err := table.Set(host.NewPorts(host.PortRange{First: 2000, Last: 2000}), nil); err != nil {
		t.Fatal(err)
	}
	expect(t, peer, map[string]string{"198.18.77.1:61000": "refused", "198.18.77.1:80": "open", "198.18.77.1:2000": "silence"})
	if err := table.Set(nil, nil); err != nil {
		t.Fatal(err)
	}
	expect(t, peer, map[string]string{"198.18.77.1:2000": "refused"})
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	hosttest.Same(t, before)
	if err := table.Set(nil, nil); err == nil {
		t.Error("a closed table was changed")
	}
	hosttest.Same(t, before)
}

// TestDropTableSparesForwarded: a router between two hosts loses nothing that goes through it.
func TestDropTableSparesForwarded(t *testing.T) {
	peer := hosttest.Pair(t)
	hosttest.Run(t, "sysctl", "-w", "net.ipv4.ip_forward=1")
	behind := hosttest.NewPeer(t)
	hosttest.Run(t, "ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth9")
	behind.Adopt("eth9")
	hosttest.Run(t, "ip", "addr", "add", "198.18.78.1/24", "dev", "eth1")
	hosttest.Run(t, "ip", "link", "set", "eth1", "up")
	behind.Do(func() {
		hosttest.Run(t, "ip", "addr", "add", "198.18.78.2/24", "dev", "eth9")
		hosttest.Run(t, "ip", "link", "set", "eth9", "up")
		hosttest.Run(t, "ip", "route", "add", "default", "via", "198.18.78.1")
		listen(t, "198.18.78.2:61000")
	})
	peer.Do(func() { hosttest.Run(t, "ip", "route", "add", "198.18.78.0/24", "via", hosttest.App4) })
	table, err := host.NewDropTable("eth0")
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	if err := table.Set(host.Ports{{First: 61000, Last: 65535}}, []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:61000")}); err != nil {
		t.Fatal(err)
	}
	expect(t, peer, map[string]string{"198.18.78.2:61000": "open", "198.18.77.1:61000": "silence", "198.18.78.1:61000": "silence"})
}

func TestDropTableWithoutInterface(t *testing.T) {
	hosttest.Enter(t)
	before := hosttest.Look(t)
	if _, err := host.NewDropTable("eth0"); !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "eth0") {
		t.Errorf("error: %v", err)
	}
	hosttest.Same(t, before)
}

func TestHeldPorts(t *testing.T) {
	peer := hosttest.Pair(t)
	l := listen(t, "127.0.0.1:61001")
	listen(t, "[::1]:61002")
	bound := func(family int, at unix.Sockaddr) {
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		if err := unix.Bind(fd, at); err != nil {
			t.Fatal(err)
		}
	}
	bound(unix.AF_INET, &unix.SockaddrInet4{Port: 61003})
	bound(unix.AF_INET6, &unix.SockaddrInet6{Port: 61004})
	peer.Do(func() { listen(t, "198.18.77.2:61009") })
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(hosttest.App4), Port: 61005}}
	conn, err := d.Dial("tcp", "198.18.77.2:61009")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	loop, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer loop.Close()
	held, err := host.HeldPorts(host.Ports{{First: 61000, Last: 65535}})
	if err != nil || held.String() != "61001-61005" {
		t.Errorf("held: %v, %v", held, err)
	}
	if held, err := host.HeldPorts(host.Ports{{First: 61002, Last: 61002}}); err != nil || held.String() != "61002" {
		t.Errorf("held: %v, %v", held, err)
	}
	for at, want := range map[string]host.PortUse{
		"0.0.0.0:61005": {Connections: 1}, "198.18.77.1:61005": {Connections: 1}, "198.18.77.2:61005": {}, "[::]:61005": {},
		"0.0.0.0:61001": {}, // over loopback only
		"0.0.0.0:61003": {},
	} {
		if use, err := host.KernelUse(netip.MustParseAddrPort(at)); use != want || err != nil {
			t.Errorf("use of %s: %+v, %v, want %+v", at, use, err, want)
		}
	}
	listen(t, "[::]:61007")
	listen(t, hosttest.App4+":61008")
	for at, want := range map[string]bool{
		"0.0.0.0:61007": true, "198.18.77.1:61007": true, "[::]:61007": true,
		"0.0.0.0:61008": true, "198.18.77.1:61008": true, "198.18.77.9:61008": false, "[::]:61008": false,
	} {
		if use, err := host.KernelUse(netip.MustParseAddrPort(at)); use.Listening != want || err != nil {
			t.Errorf("use of %s: %+v, %v", at, use, err)
		}
	}
}
