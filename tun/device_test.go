package tun_test

import (
	"bufio"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"innertun/internal/host"
	"innertun/internal/host/hosttest"
	"innertun/tun"
)

func osFile(fd int) *os.File { return os.NewFile(uintptr(fd), "socket") }

var whatChanges = []string{"nft list ruleset", "ip rule", "ip -6 rule", "ip route show table all", "ip addr", "sysctl -a --pattern ^net"}

func TestCloseLeavesNothing(t *testing.T) {
	hosttest.Pair(t)
	before := hosttest.Look(t)
	j := openJournal(t)
	for range 2 {
		d, err := tun.Open(everything(j))
		if err != nil {
			t.Fatal(err)
		}
		hosttest.Differs(t, before, whatChanges...)
		if d.Name() != "inner0" || d.MTU() != 1500 || d.ExemptMark() != 0x2000000 {
			t.Errorf("%s, %d, %#x", d.Name(), d.MTU(), d.ExemptMark())
		}
		packets := tap(d)
		for range 2 {
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		}
		for p := range packets { // and its end: reads end when the device is closed
			t.Errorf("this came out of the device:\n%s", p.text)
		}
		if err := d.SetRoutes(nil, nil); !errors.Is(err, os.ErrClosed) {
			t.Errorf("routes of a closed device were set: %v", err)
		}
		hosttest.Same(t, before)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	hosttest.Same(t, before)
}

// TestJournalClosesTheDevice: whoever closes the journal need not know of the device.
func TestJournalClosesTheDevice(t *testing.T) {
	hosttest.Pair(t)
	before := hosttest.Look(t)
	j := openJournal(t)
	d, err := tun.Open(everything(j))
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	hosttest.Same(t, before)
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// TestRemovedByOthers: the device is deleted under us.
func TestRemovedByOthers(t *testing.T) {
	hosttest.Pair(t)
	before := hosttest.Look(t)
	d, err := tun.Open(everything(openJournal(t)))
	if err != nil {
		t.Fatal(err)
	}
	packets := tap(d)
	hosttest.Run(t, "ip", "link", "del", "inner0")
	for range packets { // reads end
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	hosttest.Same(t, before)
}

// TestWithoutIPv6: switched off for all interfaces, it stays off for the others.
func TestWithoutIPv6(t *testing.T) {
	hosttest.Pair(t)
	hosttest.Run(t, "sysctl", "-w", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
	before := hosttest.Look(t)
	d, packets := openDevice(t, everything(openJournal(t)))
	pending := dial(t, "198.19.5.5:80")
	syn := next(t, packets)
	answer(t, d.File(), syn, 0, syn.tcp.Seq+1, "", "S")
	if conn := <-pending; conn != nil {
		conn.Close()
	}
	if off, err := host.Sysctl("net/ipv6/conf/eth0/disable_ipv6"); off != "1" || err != nil {
		t.Errorf("disable_ipv6 of eth0: %q, %v", off, err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	hosttest.Same(t, before)
}

// startChild starts this test binary as a process that holds the device, and returns what kills it.
func startChild(t *testing.T, control string) (kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childControl+"="+control)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() { cmd.Process.Kill(); cmd.Wait() }
	t.Cleanup(kill)
	if line, _ := bufio.NewReader(out).ReadString('\n'); strings.TrimSpace(line) != "ready" {
		t.Fatalf("child: %s", line)
	}
	return kill
}

func TestKilled(t *testing.T) {
	hosttest.Pair(t)
	before := hosttest.Look(t)
	control := filepath.Join(t.TempDir(), "run", "control.sock")
	kill := startChild(t, control)
	hosttest.Differs(t, before, whatChanges...)
	kill()
	after := hosttest.Look(t)
	for part, was := range before {
		// Only the rules are left, which match nothing, and the guard's table.
		if stays := part == "ip rule" || part == "ip -6 rule" || part == "nft list ruleset"; stays == (after[part] == was) {
			t.Errorf("after kill -9, %s:\n%s", part, after[part])
		}
	}
	if _, err := host.Clean(host.Config{Control: control}); err != nil {
		t.Fatal(err)
	}
	hosttest.Same(t, before)
}

func TestRefused(t *testing.T) {
	hosttest.Pair(t)
	hosttest.Run(t, "ip", "link", "add", "taken", "type", "veth", "peer", "name", "taken2")
	hosttest.Run(t, "ip", "-6", "route", "add", "fd98::/64", "dev", "lo", "table", "1234")
	before := hosttest.Look(t)
	j := openJournal(t)
	for says, spoil := range map[string]func(*tun.Config){
		"no journal":                func(c *tun.Config) { c.Journal = nil },
		`interface "nosuch"`:        func(c *tun.Config) { c.Egress = "nosuch" },
		`egress interface ""`:       func(c *tun.Config) { c.Egress = "" },
		"both the device":           func(c *tun.Config) { c.Name = "eth0" },
		`interface "taken" already`: func(c *tun.Config) { c.Name = "taken" },
		"1 to 15 octets":            func(c *tun.Config) { c.Name = "sixteen-octets-x" },
		"per cent":                  func(c *tun.Config) { c.Name = "inner%d" },
		"MTU 1279":                  func(c *tun.Config) { c.MTU = 1279 },
		"MTU 65536":                 func(c *tun.Config) { c.MTU = 65536 },
		"leave a bit of it":         func(c *tun.Config) { c.Mark, c.MarkMask = 1, 1 },
		"within its mask 0x1":       func(c *tun.Config) { c.Mark, c.MarkMask = 2, 1 },
		"routing table 1234":        func(c *tun.Config) { c.Table = 1234 },
		`"invalid Prefix"`:          func(c *tun.Config) { c.Routes = append(c.Routes, netip.Prefix{}) },
		`"::ffff:10.0.0.0/104"`:     func(c *tun.Config) { c.Excludes = []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")} },
	} {
		cfg := everything(j)
		spoil(&cfg)
		if _, err := tun.Open(cfg); !errors.Is(err, tun.ErrConfig) || !strings.Contains(err.Error(), says) {
			t.Errorf("want %q: %v", says, err)
		}
		hosttest.Same(t, before)
	}
	// Further on: nothing half done stays.
	cfg := everything(j)
	cfg.Priority = 40000
	if _, err := tun.Open(cfg); err == nil || !strings.Contains(err.Error(), "priority 40000") {
		t.Errorf("priority: %v", err)
	}
	hosttest.Same(t, before)
	hosttest.Run(t, "nft", "add table inet innertun")
	withTable := hosttest.Look(t)
	var taken *host.TableError
	if _, err := tun.Open(everything(j)); !errors.As(err, &taken) {
		t.Errorf("table: %v", err)
	}
	hosttest.Same(t, withTable)
}
