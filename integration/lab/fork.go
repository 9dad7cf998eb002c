package lab

import "net/netip"

// ByDestination is an end with several hosts behind it: it hands each packet to the host that has its destination address.
// Packets for anyone else are lost.
func ByDestination(hosts map[netip.Addr]func(pkt []byte)) func(pkt []byte) {
	return func(pkt []byte) {
		if deliver := hosts[destination(pkt)]; deliver != nil {
			deliver(pkt)
		}
	}
}

// destination returns the address in an IP header, or the zero Addr.
func destination(pkt []byte) netip.Addr {
	switch {
	case len(pkt) >= 20 && pkt[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(pkt[16:]))
	case len(pkt) >= 40 && pkt[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(pkt[24:]))
	}
	return netip.Addr{}
}
