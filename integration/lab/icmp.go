package lab

import (
	"encoding/binary"
	"net/netip"
)

// Message is an ICMP error in the words of both versions (RFC 792, RFC 4443).
type Message uint8

const (
	NetUnreachable Message = iota
	HostUnreachable
	PortUnreachable
	AdminProhibited
	TooBig
	TimeExceeded
)

// codes are type and code of each Message, in IPv4 and in IPv6.
var codes = [...][4]byte{
	NetUnreachable:  {3, 0, 1, 0},
	HostUnreachable: {3, 1, 1, 3},
	PortUnreachable: {3, 3, 1, 4},
	AdminProhibited: {3, 13, 1, 1},
	TooBig:          {3, 4, 2, 0},
	TimeExceeded:    {11, 0, 3, 0},
}

const (
	protocolICMP   = 1
	protocolICMPv6 = 58

	// A quote as long as the whole message stays within what every link carries (RFC 1812, Section 4.3.2.3; RFC 4443,
	// Section 2.4).
	maxICMPv4 = 576
	maxICMPv6 = 1280
)

// Routers on the path speak from these addresses, RFC 2544 and RFC 4193.
var (
	router4 = netip.AddrFrom4([4]byte{198, 18, 255, 254})
	router6 = netip.AddrFrom16([16]byte{0xfd, 15: 0xfe})
)

// icmpError is a router's message to the sender of p about it; mtu counts for TooBig only. ok is false for packets that
// must not be answered so: ICMP messages, fragments behind the first, what is no IP packet.
func icmpError(p Packet, m Message, mtu int) (reply Packet, ok bool) {
	from := router6
	if len(p.Data) > 0 && p.Data[0]>>4 == 4 {
		from = router4
	}
	return icmpErrorFrom(from, p, m, mtu)
}

// icmpErrorFrom is icmpError by a router of this address, which is of the packet's family.
func icmpErrorFrom(from netip.Addr, p Packet, m Message, mtu int) (reply Packet, ok bool) {
	d := Complete(copyOf(p)).Data
	var to netip.Addr
	switch {
	case len(d) >= ipv4HeaderLen && d[0]>>4 == 4:
		if d[9] == protocolICMP || binary.BigEndian.Uint16(d[6:])&0x1fff != 0 {
			return reply, false
		}
		to = netip.AddrFrom4([4]byte(d[12:]))
		d = d[:min(len(d), maxICMPv4-ipv4HeaderLen-8)]
	case len(d) >= ipv6HeaderLen && d[0]>>4 == 6:
		if d[6] == protocolICMPv6 {
			return reply, false
		}
		to = netip.AddrFrom16([16]byte(d[8:]))
		d = d[:min(len(d), maxICMPv6-ipv6HeaderLen-8)]
	default:
		return reply, false
	}
	return Packet{Data: icmpPacket(from, to, m, mtu, d), To: p.To.Other()}, true
}

func icmpPacket(from, to netip.Addr, m Message, mtu int, quote []byte) []byte {
	body := make([]byte, 8, 8+len(quote))
	body = append(body, quote...)
	c := codes[m]
	if m == TooBig && to.Is4() {
		binary.BigEndian.PutUint16(body[6:], uint16(mtu))
	} else if m == TooBig {
		binary.BigEndian.PutUint32(body[4:], uint32(mtu))
	}
	var ip []byte
	if to.Is4() {
		body[0], body[1] = c[0], c[1]
		binary.BigEndian.PutUint16(body[2:], ^fold(add(0, body)))
		ip = ipHeader(from, to, protocolICMP)
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(body)))
		copy(ip[12:], from.AsSlice())
		copy(ip[16:], to.AsSlice())
		binary.BigEndian.PutUint16(ip[10:], ^fold(add(0, ip)))
	} else {
		body[0], body[1] = c[2], c[3]
		binary.BigEndian.PutUint16(body[2:], ^fold(add(pseudo(from, to, protocolICMPv6, len(body)), body)))
		ip = ipHeader(from, to, protocolICMPv6)
		binary.BigEndian.PutUint16(ip[4:], uint16(len(body)))
		copy(ip[8:], from.AsSlice())
		copy(ip[24:], to.AsSlice())
	}
	return append(ip, body...)
}

// BlackHole is a link with a smaller MTU than its neighbours believe: a tunnel. With icmp its router says so (RFC 1191,
// RFC 8201); without, it is the black hole of RFC 2923, Section 2.1, behind a firewall that drops all ICMP. IPv4 packets
// that may be fragmented are treated the same: our stacks set DF.
type BlackHole struct {
	mtu  int
	icmp bool
	acted
}

// NewBlackHole drops packets longer than mtu octets.
func NewBlackHole(mtu int, icmp bool) *BlackHole { return &BlackHole{mtu: mtu, icmp: icmp} }

// Packet implements Element.
func (e *BlackHole) Packet(p Packet, at Place) {
	if len(p.Data) <= e.mtu {
		at.Send(p)
		return
	}
	e.act()
	if !e.icmp {
		return
	}
	if reply, ok := icmpError(p, TooBig, e.mtu); ok {
		at.Send(reply)
	}
}

// InjectICMP sends ICMP errors to the senders of TCP segments: a router that lost its way for a while, or an attacker who
// forges them (RFC 5927). TCP must take them as hints once a connection is open (RFC 1122, Section 4.2.3.9).
type InjectICMP struct {
	cfg  InjectICMPConfig
	seen int
	acted
}

// InjectICMPConfig says which segments are answered.
type InjectICMPConfig struct {
	Message Message
	MTU     int  // octets, in TooBig
	To      End  // segments that travel towards this side
	After   int  // let so many of them pass first
	Count   int  // answer so many; 0: all that follow
	Drop    bool // and drop them; else the message is a lie
}

// NewInjectICMP returns such a router.
func NewInjectICMP(cfg InjectICMPConfig) *InjectICMP { return &InjectICMP{cfg: cfg} }

// Packet implements Element.
func (e *InjectICMP) Packet(p Packet, at Place) {
	if _, ok := ParseSegment(p.Data); !ok || p.To != e.cfg.To {
		at.Send(p)
		return
	}
	e.seen++
	n := e.seen - e.cfg.After
	if n <= 0 || e.cfg.Count > 0 && n > e.cfg.Count {
		at.Send(p)
		return
	}
	reply, ok := icmpError(p, e.cfg.Message, e.cfg.MTU)
	if !ok {
		at.Send(p)
		return
	}
	e.act()
	if !e.cfg.Drop {
		at.Send(p)
	}
	at.Send(reply)
}
