// Package egress is the way out: it looks up the physical interface in the kernel, follows its changes, chooses ports
// the kernel does not use, and opens the link a netstack sends through.
package egress

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	// ErrNoDefaultRoute is the error if no interface was named and the main table has no default route.
	ErrNoDefaultRoute = errors.New("egress: no default route: name the physical interface")
	// ErrNoPorts is the error for a way out without a port to leave by.
	ErrNoPorts = errors.New("egress: no local port is free: sockets of the kernel hold the whole range")
)

// Route is a route of an interface. An invalid Gateway means that the prefix is on the link.
type Route struct {
	Prefix  netip.Prefix
	Gateway netip.Addr
}

// Interface is what the kernel says of an interface at one time.
type Interface struct {
	Name      string
	Index     int
	MTU       int // octets
	MAC       net.HardwareAddr
	Up        bool
	Addresses []netip.Prefix // usable ones; link-local IPv6 addresses are left out
	Routes    []Route        // of the main table, the longest prefix first, for each prefix the one of least metric
}

func (i Interface) equal(o Interface) bool {
	return i.Name == o.Name && i.Index == o.Index && i.MTU == o.MTU && i.Up == o.Up &&
		slices.Equal(i.MAC, o.MAC) && slices.Equal(i.Addresses, o.Addresses) && slices.Equal(i.Routes, o.Routes)
}

// Host asks the kernel about one network namespace: the one that was current in OpenHost, whatever thread asks.
type Host struct{ nl *netlink.Handle }

// OpenHost opens the sockets to ask with.
func OpenHost() (*Host, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("egress: netlink: %w", err)
	}
	return &Host{nl: nl}, nil
}

// Close closes the sockets.
func (h *Host) Close() { h.nl.Close() }

// retries is how often a listing is asked for again that changed while it was read.
const retries = 10

// list calls f until its answer is consistent.
func list[T any](f func() ([]T, error)) ([]T, error) {
	var err error
	for range retries {
		var v []T
		if v, err = f(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return v, err
		}
	}
	return nil, err
}

func (h *Host) mainRoutes(family int) ([]netlink.Route, error) {
	routes, err := list(func() ([]netlink.Route, error) {
		return h.nl.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("egress: routes: %w", err)
	}
	return slices.DeleteFunc(routes, func(r netlink.Route) bool {
		return r.Type != unix.RTN_UNICAST || r.Flags&(unix.RTNH_F_DEAD|unix.RTNH_F_LINKDOWN) != 0
	}), nil
}

// DefaultInterface returns the name of the interface of the default route of least metric; IPv4 comes first.
func (h *Host) DefaultInterface() (string, error) {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := h.mainRoutes(family)
		if err != nil {
			return "", err
		}
		best := -1
		for i, r := range routes {
			if prefixOf(r.Dst, family).Bits() == 0 && outIndex(r) != 0 && (best < 0 || r.Priority < routes[best].Priority) {
				best = i
			}
		}
		if best < 0 {
			continue
		}
		l, err := h.nl.LinkByIndex(outIndex(routes[best]))
		if err != nil {
			return "", fmt.Errorf("egress: interface of the default route: %w", err)
		}
		return l.Attrs().Name, nil
	}
	return "", ErrNoDefaultRoute
}

// outIndex is the interface a route leads to, 0 if none.
func outIndex(r netlink.Route) int {
	if len(r.MultiPath) > 0 {
		return r.MultiPath[0].LinkIndex
	}
	return r.LinkIndex
}

// Interface returns what the kernel says of the interface now.
func (h *Host) Interface(name string) (Interface, error) {
	l, err := h.nl.LinkByName(name)
	if err != nil {
		return Interface{}, fmt.Errorf("egress: interface %q: %w", name, err)
	}
	a := l.Attrs()
	i := Interface{Name: a.Name, Index: a.Index, MTU: a.MTU, MAC: a.HardwareAddr, Up: a.Flags&net.FlagUp != 0}
	if i.Addresses, err = h.addresses(l); err != nil {
		return Interface{}, err
	}
	if i.Routes, err = h.routes(a.Index); err != nil {
		return Interface{}, err
	}
	return i, nil
}

func (h *Host) addresses(l netlink.Link) ([]netip.Prefix, error) {
	all, err := list(func() ([]netlink.Addr, error) { return h.nl.AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("egress: addresses of %q: %w", l.Attrs().Name, err)
	}
	// Those the kernel prefers not to use come last.
	slices.SortStableFunc(all, func(a, b netlink.Addr) int {
		return cmp.Compare(a.Flags&unix.IFA_F_DEPRECATED, b.Flags&unix.IFA_F_DEPRECATED)
	})
	var out []netip.Prefix
	for _, a := range all {
		p := prefixOf(a.IPNet, 0)
		unusable := a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 && a.Flags&unix.IFA_F_OPTIMISTIC == 0
		if p.IsValid() && !unusable && !(p.Addr().Is6() && p.Addr().IsLinkLocalUnicast()) {
			out = append(out, p)
		}
	}
	return out, nil
}

// routes returns the routes that lead to the interface. Those by way of a router of the other family are left out.
func (h *Host) routes(index int) ([]Route, error) {
	type metricRoute struct {
		Route
		metric int
	}
	var found []metricRoute
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		all, err := h.mainRoutes(family)
		if err != nil {
			return nil, err
		}
		for _, r := range all {
			gw, ok := gatewayTo(r, index)
			p := prefixOf(r.Dst, family).Masked()
			if ok && p.IsValid() {
				found = append(found, metricRoute{Route{p, gw}, r.Priority})
			}
		}
	}
	slices.SortStableFunc(found, func(a, b metricRoute) int {
		return cmp.Or(
			cmp.Compare(a.Prefix.Addr().BitLen(), b.Prefix.Addr().BitLen()),
			cmp.Compare(b.Prefix.Bits(), a.Prefix.Bits()),
			a.Prefix.Addr().Compare(b.Prefix.Addr()),
			cmp.Compare(a.metric, b.metric),
		)
	})
	var out []Route
	for _, f := range found {
		if n := len(out); n == 0 || out[n-1].Prefix != f.Prefix {
			out = append(out, f.Route)
		}
	}
	return out, nil
}

// gatewayTo returns the next hop of r over the interface, and whether r leads there at all.
func gatewayTo(r netlink.Route, index int) (netip.Addr, bool) {
	if len(r.MultiPath) > 0 {
		for _, hop := range r.MultiPath {
			if hop.LinkIndex == index && hop.Via == nil {
				return addrOf(hop.Gw), true
			}
		}
		return netip.Addr{}, false
	}
	return addrOf(r.Gw), r.LinkIndex == index && r.Via == nil
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// prefixOf converts n; nil is the whole family.
func prefixOf(n *net.IPNet, family int) netip.Prefix {
	switch {
	case n != nil:
		ones, _ := n.Mask.Size()
		return netip.PrefixFrom(addrOf(n.IP), ones)
	case family == unix.AF_INET:
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	case family == unix.AF_INET6:
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.Prefix{}
}
