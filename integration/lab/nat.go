package lab

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

// NAT is a home router or a carrier's: what A sends over TCP gets the router's address and a port of its own, and what
// comes back is sent on to A. Behind it stands A. A mapping goes when it has not been used for a time, and segments that
// come for none are dropped: there is no way in from B. The ports in ICMP errors are put right as RFC 5508 wants it. Other
// protocols pass as they are. For IPv6 it is NAT66, which exists though nobody recommends it.
type NAT struct {
	cfg   NATConfig
	byIn  map[inside]*mapping
	byOut map[netip.AddrPort]*mapping
	next  [2]int // by family
	acted
}

// NATConfig says how a NAT behaves.
type NATConfig struct {
	External4, External6 netip.Addr    // the router's; zero: 198.18.255.1, fd00::ffff:1
	Ports                [2]uint16     // the first and the last it gives out; zero: 1024, 65535
	Idle                 time.Duration // of open connections; 0: 2 h 4 min (RFC 5382, REQ-5)
	Opening              time.Duration // of those half open or closed; 0: 4 min
}

// inside is what has a mapping: endpoint-independent mapping (RFC 5382, REQ-1) would leave out the destination, but most
// routers with Linux inside keep one for each connection, port kept if it is free.
type inside struct{ source, destination netip.AddrPort }

type mapping struct {
	in       inside
	external netip.AddrPort
	used     time.Time
	open     bool // both sides have sent, and none has ended it
}

// NewNAT returns a NAT.
func NewNAT(cfg NATConfig) *NAT {
	if !cfg.External4.IsValid() {
		cfg.External4 = netip.AddrFrom4([4]byte{198, 18, 255, 1})
	}
	if !cfg.External6.IsValid() {
		cfg.External6 = netip.AddrFrom16([16]byte{0xfd, 12: 0xff, 13: 0xff, 15: 1})
	}
	if cfg.Ports == [2]uint16{} {
		cfg.Ports = [2]uint16{1024, 65535}
	}
	if cfg.Idle == 0 {
		cfg.Idle = 2*time.Hour + 4*time.Minute
	}
	if cfg.Opening == 0 {
		cfg.Opening = 4 * time.Minute
	}
	return &NAT{cfg: cfg, byIn: make(map[inside]*mapping), byOut: make(map[netip.AddrPort]*mapping)}
}

// Packet implements Element.
func (n *NAT) Packet(p Packet, at Place) {
	t, ok := takeApart(p)
	if !ok {
		n.other(p, at)
		return
	}
	if p.To == B {
		m := n.outgoing(t, at.Now())
		if m == nil {
			return
		}
		m.note(t, at.Now())
		t.source = m.external
	} else {
		m := n.lookup(t.destination, t.source, at.Now())
		if m == nil {
			return
		}
		m.open = m.open || t.flags&SYN == 0
		m.note(t, at.Now())
		t.destination = m.in.source
	}
	n.act()
	at.Send(t.packet(p.To))
}

func (m *mapping) note(t parts, now time.Time) {
	m.used = now
	if t.flags&(RST|FIN) != 0 {
		m.open = false
	}
}

func (n *NAT) expired(m *mapping, now time.Time) bool {
	limit := n.cfg.Opening
	if m.open {
		limit = n.cfg.Idle
	}
	return now.Sub(m.used) > limit
}

// lookup finds the mapping for a segment from remote to an external address.
func (n *NAT) lookup(external, remote netip.AddrPort, now time.Time) *mapping {
	m := n.byOut[external]
	if m == nil || m.in.destination != remote {
		return nil
	}
	if n.expired(m, now) {
		n.forget(m)
		return nil
	}
	return m
}

// outgoing finds or makes the mapping of a segment from A; nil: none is free.
func (n *NAT) outgoing(t parts, now time.Time) *mapping {
	key := inside{t.source, t.destination}
	if m := n.byIn[key]; m != nil && !n.expired(m, now) {
		return m
	} else if m != nil {
		n.forget(m)
	}
	if t.flags&(SYN|ACK|RST) != SYN {
		return nil // the middle of what it does not know
	}
	address, family := n.cfg.External4, 0
	if t.source.Addr().Is6() {
		address, family = n.cfg.External6, 1
	}
	first, count := int(n.cfg.Ports[0]), int(n.cfg.Ports[1])-int(n.cfg.Ports[0])+1
	for i := range count {
		external := netip.AddrPortFrom(address, uint16(first+(n.next[family]+i)%count))
		if m := n.byOut[external]; m != nil {
			if !n.expired(m, now) {
				continue
			}
			n.forget(m)
		}
		n.next[family] = (n.next[family] + i + 1) % count
		m := &mapping{in: key, external: external, used: now}
		n.byIn[key], n.byOut[external] = m, m
		return m
	}
	return nil
}

func (n *NAT) forget(m *mapping) {
	delete(n.byIn, m.in)
	delete(n.byOut, m.external)
}

// other passes what is not TCP; an ICMP error about a mapping gets the inner address.
func (n *NAT) other(p Packet, at Place) {
	if p.To == A {
		if q, quote, ok := quoted(p.Data); ok {
			if m := n.lookup(q.source, q.destination, at.Now()); m != nil {
				n.act()
				at.Send(Packet{Data: redirect(p.Data, quote, m.in.source), To: A})
				return
			}
		}
	}
	at.Send(p)
}

// quote is the TCP packet that an ICMP error is about.
type quote struct{ source, destination netip.AddrPort }

// quoted finds it, and where in the message it begins.
func quoted(pkt []byte) (q quote, at int, ok bool) {
	switch {
	case len(pkt) >= ipv4HeaderLen && pkt[0]>>4 == 4 && pkt[9] == protocolICMP:
		at = int(pkt[0]&15)*4 + 8
		if at < ipv4HeaderLen+8 || len(pkt) < at+ipv4HeaderLen || pkt[at-8] == 0 || pkt[at-8] == 8 || pkt[at]>>4 != 4 || pkt[at+9] != protocolTCP {
			return q, 0, false
		}
		header := int(pkt[at]&15) * 4
		if header < ipv4HeaderLen || len(pkt) < at+header+4 {
			return q, 0, false
		}
		q.source = addrPort(pkt[at+12:at+16], pkt[at+header:])
		q.destination = addrPort(pkt[at+16:at+20], pkt[at+header+2:])
	case len(pkt) >= ipv6HeaderLen+8 && pkt[0]>>4 == 6 && pkt[6] == protocolICMPv6 && pkt[ipv6HeaderLen] < 128:
		at = ipv6HeaderLen + 8
		if len(pkt) < at+ipv6HeaderLen+4 || pkt[at]>>4 != 6 || pkt[at+6] != protocolTCP {
			return q, 0, false
		}
		q.source = addrPort(pkt[at+8:at+24], pkt[at+ipv6HeaderLen:])
		q.destination = addrPort(pkt[at+24:at+40], pkt[at+ipv6HeaderLen+2:])
	default:
		return q, 0, false
	}
	return q, at, true
}

func addrPort(addr, port []byte) netip.AddrPort {
	a, _ := netip.AddrFromSlice(addr)
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(port))
}

// redirect sends an ICMP error to another address, which becomes the source of what it quotes too. Checksums of the
// quote are left: nobody verifies what may be cut off.
func redirect(pkt []byte, at int, to netip.AddrPort) []byte {
	b := slices.Clone(pkt)
	body := b[at-8:]
	if b[0]>>4 == 4 {
		header := int(b[at]&15) * 4
		copy(b[at+12:], to.Addr().AsSlice())
		binary.BigEndian.PutUint16(b[at+header:], to.Port())
		copy(b[16:], to.Addr().AsSlice())
		binary.BigEndian.PutUint16(b[at+10:], ^fold(add(0, zeroed(b[at:at+header], 10))))
		binary.BigEndian.PutUint16(b[10:], ^fold(add(0, zeroed(b[:at-8], 10))))
		binary.BigEndian.PutUint16(body[2:], ^fold(add(0, zeroed(body, 2))))
		return b
	}
	copy(b[at+8:], to.Addr().AsSlice())
	binary.BigEndian.PutUint16(b[at+ipv6HeaderLen:], to.Port())
	copy(b[24:], to.Addr().AsSlice())
	from := netip.AddrFrom16([16]byte(b[8:]))
	binary.BigEndian.PutUint16(body[2:], ^fold(add(pseudo(from, to.Addr(), protocolICMPv6, len(body)), zeroed(body, 2))))
	return b
}
