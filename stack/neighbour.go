package stack

import (
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	tcpipstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// announcer is a Link that tells when a neighbour claims to be at a MAC address (stack/link's Packet).
type announcer interface {
	OnAnnounce(tell func(addr netip.Addr, mac net.HardwareAddr))
}

// reachability are the times of neighbour unreachability detection, for IPv4 as for IPv6 (RFC 4861, Section 10). The
// host has only a router or two to ask, so they are shorter than there. A router replaced in silence is noticed at
// the first packet after 4.2 to 6 s without progress, and 3 s after that packet the link is asked who has its address.
//
// The retransmissions of TCP are those packets, and they come ever more rarely: with a minimal timeout of 0.2 s, 6.2,
// 12.6 and 25.4 s after the last progress. With these times the one at 12.6 s gets through. A neighbour that only
// sends is asked every 5 to 7 s, by 42 octets (IPv6: 86); TCP's progress makes it unnecessary, and silence ends it.
func reachability() tcpipstack.NUDConfigurations {
	c := tcpipstack.DefaultNUDConfigurations()
	c.BaseReachableTime = 6 * time.Second
	c.MinRandomFactor, c.MaxRandomFactor = 0.7, 1
	c.DelayFirstProbeTime = time.Second
	c.MaxUnicastProbes = 2 // 1 s each
	return c
}

// ForgetNeighbors makes the stack ask again for the MAC addresses of all neighbours. It is for a link that may lead
// to other neighbours than before. Connections go on.
func (s *Stack) ForgetNeighbors() {
	s.forgetNeighbors(header.IPv4ProtocolNumber, func(tcpipstack.NeighborEntry) bool { return true })
	s.forgetNeighbors(header.IPv6ProtocolNumber, func(tcpipstack.NeighborEntry) bool { return true })
}

// neighborAnnounced is told by the link that addr claims to be at mac. It is not believed: the next packet asks.
func (s *Stack) neighborAnnounced(addr netip.Addr, mac net.HardwareAddr) {
	at := toAddress(addr)
	s.forgetNeighbors(protocolOf(addr), func(n tcpipstack.NeighborEntry) bool {
		return n.Addr == at && n.LinkAddr != tcpip.LinkAddress(mac)
	})
}

// forgetNeighbors leaves alone those that are being asked for just now: to remove them would fail the packets that wait.
func (s *Stack) forgetNeighbors(proto tcpip.NetworkProtocolNumber, which func(tcpipstack.NeighborEntry) bool) {
	neighbors, err := s.ns.Neighbors(nicID, proto)
	if err != nil {
		return // a link without MAC addresses, or closed
	}
	for _, n := range neighbors {
		switch n.State {
		case tcpipstack.Reachable, tcpipstack.Stale, tcpipstack.Delay, tcpipstack.Probe:
			if which(n) {
				_ = s.ns.RemoveNeighbor(nicID, proto, n.Addr) // gone already: as well
			}
		}
	}
}
