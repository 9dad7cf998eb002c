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

// maxGateways bounds the gateways that are asked; others are known by their addresses only.
const maxGateways = 8

// network names what leads to an address by the interface: interface, prefix, gateway and the gateway's link-layer address,
// which tells apart the many networks that number their hosts alike. What is on the link has no gateway, and a name of
// its own: it does not pass what a gateway's packets pass.
type network struct {
	nl   *netlink.Handle
	ways atomic.Pointer[[]way] // the longest prefix first
}

// way is one route with the name of what it leads to.
type way struct {
	prefix netip.Prefix
	name   string
}

// leadingTo returns the name of the network by which an address is reached, "" if there is no route.
func (n *network) leadingTo(to netip.Addr) string {
	if ways := n.ways.Load(); ways != nil {
		for _, w := range *ways {
			if w.prefix.Contains(to.WithZone("")) {
				return w.name
			}
		}
	}
	return ""
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// look finds out where the interface is now. It waits for the gateways for a while; the name changes but once.
func (n *network) look(i egress.Interface) {
	macs := make(map[netip.Addr]net.HardwareAddr)
	for _, r := range slices.Backward(i.Routes) { // the default route first
		if r.Gateway.IsValid() && len(macs) < maxGateways {
			macs[r.Gateway] = nil
		}
	}
	n.resolve(i.Index, macs)
	ways := make([]way, len(i.Routes))
	for at, r := range i.Routes {
		ways[at] = way{r.Prefix, networkName(i, family(r.Prefix.Addr()), r.Gateway, macs[r.Gateway])}
	}
	n.ways.Store(&ways)
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

// resolve fills in the gateways' link-layer addresses, as far as they can be had in time. The kernel is asked: it sends a
// neighbour request if it must.
func (n *network) resolve(index int, macs map[netip.Addr]net.HardwareAddr) {
	for end := time.Now().Add(gatewayTime); ; time.Sleep(10 * time.Millisecond) {
		missing := false
		for g, mac := range macs {
			if mac == nil {
				macs[g] = n.neighbour(index, g)
				missing = missing || macs[g] == nil
			}
		}
		if !missing || time.Now().After(end) {
			return
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
