package daemon

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"innertun/stack/egress"
)

func TestAdvised(t *testing.T) {
	open, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	_, inUse := net.Listen("tcp", open.Addr().String())
	_, notHere := net.Listen("tcp", "198.18.255.254:0")
	_, noLink := netlink.LinkByName("no-such-link")
	for _, c := range []struct {
		err  error
		want string
	}{
		{inUse, "name another port with -listen"},
		{notHere, "this host has no such address"},
		{fmt.Errorf("egress: %w", noLink), "ip link"},
		{egress.ErrNoDefaultRoute, "(-i, or interface in [egress])"},
	} {
		if got := advised(c.err); !strings.Contains(got.Error(), c.want) || !errors.Is(got, c.err) && !strings.Contains(got.Error(), c.err.Error()) {
			t.Errorf("%v: want %q", got, c.want)
		}
	}
	if other := errors.New("other"); advised(other) != other {
		t.Error("an error without advice was changed")
	}
}
