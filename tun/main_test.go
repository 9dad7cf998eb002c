package tun_test

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"innertun/internal/leak"

	"innertun/internal/host"
	"innertun/tun"
)

const childControl = "INNERTUN_TUN_TEST_CONTROL"

// TestMain runs the tests, or, as a child of one of them, a process that opens the device and waits to be killed.
func TestMain(m *testing.M) {
	if control := os.Getenv(childControl); control != "" {
		if err := child(control); err != nil {
			fmt.Println(err)
		}
		os.Exit(1)
	}
	leak.VerifyTestMain(m)
}

// child opens every connection to port 80 that comes in, then says no more.
func child(control string) error {
	j, err := host.Open(host.Config{Control: control})
	if err != nil {
		return err
	}
	device, err := tun.Open(everything(j))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for p := range tap(device) {
		if p.tcp != nil && p.tcp.SYN && p.dst.Port() == 80 {
			if err := reply(device.File(), p, 1000, p.tcp.Seq+1, "", "S"); err != nil {
				return err
			}
		}
	}
	return nil
}

// everything diverts all that would leave by eth0.
func everything(j *host.Journal) tun.Config {
	return tun.Config{
		Egress: "eth0", Journal: j,
		Routes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")},
	}
}
