package tun

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"innertun/internal/host"
)

// families returns those that get a rule and a route: both, as far as the kernel has them, for routes may be set later.
func (d *Device) families() []host.Family {
	if host.HasIPv6() {
		return []host.Family{host.IPv4, host.IPv6}
	}
	return []host.Family{host.IPv4}
}

// checkHost refuses what is in use already.
func (d *Device) checkHost() error {
	if _, err := netlink.LinkByName(d.cfg.Egress); err != nil {
		return fmt.Errorf("%w: no interface %q to leave by: %w", ErrConfig, d.cfg.Egress, err)
	}
	_, err := netlink.LinkByName(d.cfg.Name)
	if err == nil {
		return fmt.Errorf("%w: there is an interface %q already: choose another name for the TUN device", ErrConfig, d.cfg.Name)
	}
	if !errors.As(err, &netlink.LinkNotFoundError{}) {
		return fmt.Errorf("look for interface %q: %w", d.cfg.Name, err)
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: int(d.cfg.Table)}, netlink.RT_FILTER_TABLE)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return fmt.Errorf("list routing table %d: %w", d.cfg.Table, err)
		}
		if len(routes) > 0 {
			return fmt.Errorf("%w: routing table %d is in use: choose another", ErrConfig, d.cfg.Table)
		}
	}
	return nil
}

// bringUp gives the device its parameters, then its routes. All of these go when it goes.
func (d *Device) bringUp() error {
	if err := d.setParameters(); err != nil {
		return err
	}
	link, err := netlink.LinkByName(d.cfg.Name)
	if err != nil {
		return fmt.Errorf("tun %s: %w", d.cfg.Name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("tun %s: bring up: %w", d.cfg.Name, err)
	}
	for _, family := range d.families() {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Table: int(d.cfg.Table), Dst: everything(family)}
		if family == host.IPv4 {
			route.Scope = netlink.SCOPE_LINK
		}
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("tun %s: %s route in table %d: %w", d.cfg.Name, family, d.cfg.Table, err)
		}
	}
	return nil
}

func everything(family host.Family) *net.IPNet {
	if family == host.IPv4 {
		return &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	}
	return &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
}

// setParameters is called while the device is down, so that IPv6 makes no address and sends nothing on it.
func (d *Device) setParameters() error {
	parameters := [][2]string{
		// A strict reverse-path filter looks replies up with the mark they get on arrival, and so finds the device.
		{"net/ipv4/conf/" + d.cfg.Name + "/src_valid_mark", "1"},
	}
	if host.HasIPv6() {
		ipv6 := "net/ipv6/conf/" + d.cfg.Name + "/"
		parameters = append(parameters,
			[2]string{ipv6 + "addr_gen_mode", "1"}, // IN6_ADDR_GEN_MODE_NONE, linux/if_link.h
			[2]string{ipv6 + "accept_ra", "0"},
			[2]string{ipv6 + "router_solicitations", "0"},
			[2]string{ipv6 + "disable_ipv6", "0"},
		)
	}
	for _, p := range parameters {
		if err := host.WriteSysctl(p[0], p[1]); err != nil {
			return fmt.Errorf("tun: %w", err)
		}
	}
	return nil
}
