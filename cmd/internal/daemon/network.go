package daemon

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"innertun/stack/egress"
)

// gatewayTime is how long the gateways have to tell their link-layer addresses.
const gatewayTime = 500 * time.Millisecond

// network names the network that the interface is on, for each family: interface, prefix, gateway and the gateway's
// link-layer address, which tells apart the many networks that number their hosts alike.
type network struct {
	nl    *netlink.Handle
	names atomic.Pointer[[2]string] // IPv4, IPv6
}

// leadingTo returns the name of the network by which an address is reached.
func (n *network) leadingTo(to netip.Addr) string {
	names := n.names.Load()
	if names == nil {
		return ""
	}
	return names[family(to)]
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// look finds out where the interface is now. It waits for the gateways for a while; the name changes but once.
func (n *network) look(i egress.Interface) {
	var gateways [2]netip.Addr
	for _, r := range i.Routes {
		if r.Prefix.Bits() == 0 && r.Gateway.IsValid() {
			gateways[family(r.Gateway)] = r.Gateway
		}
	}
	macs := n.resolve(i.Index, gateways)
	var names [2]string
	for f := range names {
		names[f] = networkName(i, f, gateways[f], macs[f])
	}
	n.names.Store(&names)
}

// networkName puts a name together from what is known.
func networkName(i egress.Interface, f int, gateway netip.Addr, mac net.HardwareAddr) string {
	parts := []string{i.Name}
	at := slices.IndexFunc(i.Addresses, func(p netip.Prefix) bool { return family(p.Addr()) == f })
	if at >= 0 {
		parts = append(parts, i.Addresses[at].Masked().String())
	}
	if gateway.IsValid() {
		parts = append(parts, "via", gateway.String())
	}
	if len(mac) > 0 {
		parts = append(parts, "at", mac.String())
	}
	return strings.Join(parts, " ")
}

// resolve returns the gateways' link-layer addresses, as far as they can be had in time. The kernel is asked: it sends a
// neighbour request if it must.
func (n *network) resolve(index int, gateways [2]netip.Addr) (macs [2]net.HardwareAddr) {
	for end := time.Now().Add(gatewayTime); ; time.Sleep(10 * time.Millisecond) {
		missing := false
		for f, g := range gateways {
			if !g.IsValid() || macs[f] != nil {
				continue
			}
			if macs[f] = n.neighbour(index, g); macs[f] == nil {
				missing = true
			}
		}
		if !missing || time.Now().After(end) {
			return macs
		}
	}
}

// neighbour returns an address from the kernel's neighbour table, and makes the kernel look for it if it is not there.
func (n *network) neighbour(index int, a netip.Addr) net.HardwareAddr {
	f := []int{unix.AF_INET, unix.AF_INET6}[family(a)]
	all, err := n.nl.NeighList(index, f)
	if err != nil {
		return nil
	}
	for _, e := range all {
		if a.Compare(addrOf(e.IP)) == 0 && len(e.HardwareAddr) > 0 && e.State&(unix.NUD_INCOMPLETE|unix.NUD_FAILED) == 0 {
			return e.HardwareAddr
		}
	}
	// Without an answer there is a name without it.
	_ = n.nl.NeighSet(&netlink.Neigh{LinkIndex: index, Family: f, IP: a.AsSlice(), Flags: netlink.NTF_USE, State: unix.NUD_NONE})
	return nil
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
