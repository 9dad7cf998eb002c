package integration

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"innertun/integration/netlab"
)

// An interface that is not usable is named at the start, with what is missing.
func TestUnusableInterface(t *testing.T) {
	for _, c := range []struct{ name, change, want string }{
		{"no address", "ip addr flush dev eth0", "interface eth0 has no address: give it one first"},
		{"down", "ip link set eth0 down", "interface eth0 is down: bring it up first"},
		{"not there", "ip link del eth0", "eth0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			lab := netlab.New(t, netlab.Options{})
			lab.Client.MustRun(t, "sh", "-c", c.change)
			before := snapshot(t, lab.Client)
			o := lab.Client.Run(t.Context(), innertunBinary(t), "run", "-i", "eth0", "--control", filepath.Join(shortDir(t), "c.sock"))
			if o.Code != 1 || !strings.Contains(o.Stderr, c.want) {
				t.Errorf("status %d, %s", o.Code, o.Stderr)
			}
			compare(t, "after a start in vain", before, snapshot(t, lab.Client))
		})
	}
}

// What becomes of the interface while innertun runs is in its status.
func TestInterfaceStatus(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	d := startRun(t, lab.Client, clientConfig)
	is := func(want string) {
		t.Helper()
		netlab.WaitFor(t, netlab.Patience, "the interface to be "+want, func() error {
			s, err := d.status()
			if err == nil && (s.Link != want || s.Interface != "eth0") {
				err = fmt.Errorf("interface %s is %s", s.Interface, s.Link)
			}
			return err
		})
	}
	is("up")
	lab.Client.MustRun(t, "ip", "link", "set", "eth0", "down")
	is("down")
	lab.Client.MustRun(t, "ip", "link", "set", "eth0", "up")
	is("up")
	lab.Client.MustRun(t, "ip", "addr", "flush", "dev", "eth0")
	lab.Client.MustRun(t, "sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6") // the link-local one
	is("no-address")
	lab.Client.MustRun(t, "ip", "addr", "add", "198.18.1.2/24", "dev", "eth0")
	is("up")
	lab.Client.MustRun(t, "ip", "link", "del", "eth0")
	is("gone")
	text, err := d.command("status")
	if err != nil || !strings.Contains(string(text), "eth0 (packet), gone: no connection can be made") {
		t.Errorf("%s, %v", text, err)
	}
}
