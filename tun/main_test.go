package tun_test

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"go.uber.org/goleak"

	"innertun/internal/host"
	"innertun/tun"
)

const childControl = "INNERTUN_TUN_TEST_CONTROL"

// TestMain runs the tests, or, as a child of one of them, a process that opens the device and waits to be killed.
func TestMain(m *testing.M) {
	if control := os.Getenv(childControl); control != "" {
		j, err := host.Open(host.Config{Control: control})
		if err == nil {
			_, err = tun.Open(everything(j))
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("ready")
		select {}
	}
	goleak.VerifyTestMain(m)
}

// everything diverts all that would leave by eth0.
func everything(j *host.Journal) tun.Config {
	return tun.Config{
		Egress: "eth0", Journal: j,
		Routes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")},
	}
}
