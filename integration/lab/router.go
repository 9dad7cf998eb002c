package lab

import (
	"encoding/binary"
	"net/netip"
)

// Router is one hop: it takes one from the time to live, or hop limit, and answers what has none left with ICMP time exceeded
// (RFC 1812, Section 5.3.1; RFC 4443, Section 3.3). It quotes the packet as it came in.
type Router struct {
	cfg RouterConfig
	acted
}

// RouterConfig describes a Router. It says nothing to packets of a family it has no address of.
type RouterConfig struct {
	IPv4, IPv6 netip.Addr
	Quote      int // octets at most of a quote behind the IP header; 0: as long as RFC 1812 and RFC 4443 allow
}

// NewRouter returns a router.
func NewRouter(cfg RouterConfig) *Router { return &Router{cfg: cfg} }

// Packet implements Element.
func (e *Router) Packet(p Packet, at Place) {
	is4 := len(p.Data) >= ipv4HeaderLen && p.Data[0]>>4 == 4
	hops, from, header := 7, e.cfg.IPv6, ipv6HeaderLen
	if is4 {
		hops, from, header = 8, e.cfg.IPv4, int(p.Data[0]&15)*4
	}
	if !is4 && (len(p.Data) < ipv6HeaderLen || p.Data[0]>>4 != 6) {
		at.Send(p)
		return
	}
	if p.Data[hops] > 1 {
		p.Data[hops]--
		if is4 { // RFC 1624: the sum grows by what the field lost
			sum := uint32(binary.BigEndian.Uint16(p.Data[10:])) + 0x100
			binary.BigEndian.PutUint16(p.Data[10:], fold(sum))
		}
		at.Send(p)
		return
	}
	e.act()
	if !from.IsValid() {
		return
	}
	if e.cfg.Quote > 0 {
		p = Packet{Data: Complete(copyOf(p)).Data, To: p.To}
		p.Data = p.Data[:min(len(p.Data), header+e.cfg.Quote)]
	}
	if reply, ok := icmpErrorFrom(from, p, TimeExceeded, 0); ok {
		at.Send(reply)
	}
}
