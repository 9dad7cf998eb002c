package daemon

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/vishvananda/netlink"

	"innertun/stack/egress"
)

// advised adds to an error what to do about it, where the parts that it comes from know nothing of flags and files.
func advised(err error) error {
	advice := ""
	switch {
	case errors.Is(err, os.ErrPermission) && os.Geteuid() != 0:
		advice = "needs root, or CAP_NET_ADMIN and CAP_NET_RAW"
	case errors.Is(err, egress.ErrNoDefaultRoute):
		advice = "-i, or interface in [egress]"
	case errors.As(err, new(netlink.LinkNotFoundError)):
		advice = "ip link lists the interfaces there are"
	case errors.Is(err, syscall.EADDRINUSE):
		advice = "by another program: name another port with -listen, or listen in [socks]"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		advice = "this host has no such address"
	default:
		return err
	}
	return fmt.Errorf("%w (%s)", err, advice)
}
