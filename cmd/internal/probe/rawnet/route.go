package rawnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	neighbourTime = 2 * time.Second
	neighbourPoll = 10 * time.Millisecond
)

var (
	// ErrThisHost is the error for an address of this host: there is no path to it.
	ErrThisHost = errors.New("is an address of this host: there is no path to be probed")
	// ErrNeighbour is the error when the next hop does not tell its link-layer address.
	ErrNeighbour = errors.New("does not answer on the link")
)

// way is how packets get to an address.
type way struct {
	source netip.Addr
	to     unix.SockaddrLinklayer
	err    error
}

// found is a way that is looked for once; errors are remembered too, as each costs time.
type found struct {
	once sync.Once
	way  way
}

// find asks the kernel, without holding up those who ask about another address.
func (n *Network) find(to netip.Addr) way {
	n.mu.Lock()
	f := n.ways[to]
	if f == nil {
		f = new(found)
		n.ways[to] = f
	}
	n.mu.Unlock()
	f.once.Do(func() {
		var err error
		f.way, err = n.look(to)
		f.way.err = err
	})
	return f.way
}

func (n *Network) look(to netip.Addr) (way, error) {
	if to.IsLoopback() || to.IsUnspecified() {
		return way{}, fmt.Errorf("%s %w", to, ErrThisHost)
	}
	if to.IsMulticast() || to.Is6() && to.IsLinkLocalUnicast() {
		return way{}, fmt.Errorf("%s cannot be probed: expected a global unicast address", to)
	}
	var options *netlink.RouteGetOptions
	if n.interfaceIndex != 0 {
		options = &netlink.RouteGetOptions{OifIndex: n.interfaceIndex}
	}
	routes, err := n.routes.RouteGetWithOptions(to.AsSlice(), options)
	if err != nil || len(routes) == 0 {
		return way{}, fmt.Errorf("no route to %s: %w", to, errors.Join(err))
	}
	r := routes[0]
	if r.Type == unix.RTN_LOCAL {
		return way{}, fmt.Errorf("%s %w", to, ErrThisHost)
	}
	source, ok := netip.AddrFromSlice(r.Src)
	if !ok {
		return way{}, fmt.Errorf("no route to %s: the interface has no address of its family", to)
	}
	link, err := n.routes.LinkByIndex(r.LinkIndex)
	if err != nil {
		return way{}, err
	}
	w := way{source: source.Unmap(), to: unix.SockaddrLinklayer{Ifindex: r.LinkIndex, Protocol: network16(unix.ETH_P_IP)}}
	if to.Is6() {
		w.to.Protocol = network16(unix.ETH_P_IPV6)
	}
	hardware := link.Attrs().HardwareAddr
	if len(hardware) == 0 || link.Attrs().RawFlags&unix.IFF_NOARP != 0 {
		return w, nil
	}
	next := to
	if gateway, ok := netip.AddrFromSlice(r.Gw); ok {
		next = gateway.Unmap()
	}
	mac, err := n.neighbour(r.LinkIndex, next)
	if err != nil {
		return way{}, err
	}
	w.to.Halen = uint8(copy(w.to.Addr[:], mac))
	return w, nil
}

// neighbour returns the link-layer address of a host on the link; the kernel asks for it if it does not know it.
func (n *Network) neighbour(index int, a netip.Addr) (net.HardwareAddr, error) {
	family := netlink.FAMILY_V4
	if a.Is6() {
		family = netlink.FAMILY_V6
	}
	for end := time.Now().Add(neighbourTime); ; time.Sleep(neighbourPoll) {
		late := time.Now().After(end) // before the look: it may have come while this program could not run
		all, err := n.routes.NeighList(index, family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, err
		}
		failed := false
		for _, e := range all {
			if at, _ := netip.AddrFromSlice(e.IP); at.Unmap() != a {
				continue
			}
			if len(e.HardwareAddr) > 0 && e.State&(unix.NUD_INCOMPLETE|unix.NUD_FAILED) == 0 {
				return e.HardwareAddr, nil
			}
			failed = e.State&unix.NUD_FAILED != 0
		}
		if late {
			return nil, fmt.Errorf("next hop %s %w", a, ErrNeighbour)
		}
		if len(all) == 0 || failed || !known(all, a) {
			// An entry to be used makes the kernel look for it.
			_ = n.routes.NeighSet(&netlink.Neigh{LinkIndex: index, Family: family, IP: a.AsSlice(), Flags: netlink.NTF_USE, State: unix.NUD_NONE})
		}
	}
}

func known(all []netlink.Neigh, a netip.Addr) bool {
	for _, e := range all {
		if at, _ := netip.AddrFromSlice(e.IP); at.Unmap() == a {
			return true
		}
	}
	return false
}
