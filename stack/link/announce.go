package link

import (
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// OnAnnounce makes the link call tell with what gratuitous ARP says: that addr is at mac from now on. Anyone can send
// that, so it is a reason to ask anew and no more. The reader calls tell and reads nothing meanwhile. It is to be set
// before a netstack attaches. Neighbour advertisements, which the netstack follows by itself, are not told.
func (p *Packet) OnAnnounce(tell func(addr netip.Addr, mac net.HardwareAddr)) { p.e.announced = tell }

// admitARP tells whether an ARP packet is for the netstack. That would answer requests, which is for the kernel alone
// to do, and would believe in announcements, so that it gets neither.
func (e *endpoint) admitARP(b []byte) bool {
	arp := header.ARP(b)
	if !arp.IsValid() {
		e.stats.malformed.Add(1)
		return false
	}
	sender := netip.AddrFrom4([4]byte(arp.ProtocolAddressSender()))
	if sender != netip.AddrFrom4([4]byte(arp.ProtocolAddressTarget())) {
		return arp.Op() == header.ARPReply
	}
	if e.announced != nil {
		// The packet's memory is the reader's.
		e.announced(sender, append(net.HardwareAddr(nil), arp.HardwareAddressSender()...))
	}
	return false
}
