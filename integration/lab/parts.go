package lab

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"slices"
)

const (
	protocolTCP    = 6
	ipv4HeaderLen  = 20
	ipv6HeaderLen  = 40
	tcpHeaderLen   = 20
	maxOptions     = 40
	maxIPv4Packet  = 65535
	defaultHops    = 64
	tcpChecksum    = 16 // its offset in the TCP header
	dontFragment   = 0x40
	ecnAndReserved = 0x0f // low half of octet 12 of the TCP header
)

// parts is a TCP segment taken apart, to be changed and put together again. A checksum that was wrong is wrong by the same
// amount afterwards: a path must not mend what something else broke.
type parts struct {
	source, destination netip.AddrPort
	seq, ack            uint32
	flags               uint8
	window, urgent      uint16
	options             []byte // padded to a multiple of 4 when put together
	payload             []byte

	ip       []byte // the IP header as it came
	reserved byte
	partial  bool
	off      uint16 // what the checksum's verification sum is; 0xffff: right
	offIP    uint16 // the same of an IPv4 header
}

// takeApart copies nothing: the slices lie within the packet. ok is false for what ParseSegment does not take.
func takeApart(p Packet) (t parts, ok bool) {
	s, ok := ParseSegment(p.Data)
	if !ok {
		return t, false
	}
	t = parts{
		source: s.Source, destination: s.Destination,
		seq: s.Seq(), ack: s.Ack(), flags: s.Flags(), window: s.Window(), urgent: binary.BigEndian.Uint16(s.TCP[18:]),
		options: s.Options(), payload: s.Payload(),
		reserved: s.TCP[12] & ecnAndReserved, partial: p.Partial,
	}
	t.ip = p.Data[:ipv6HeaderLen]
	if p.Data[0]>>4 == 4 {
		t.ip = p.Data[:int(p.Data[0]&15)*4]
		t.offIP = fold(add(0, t.ip))
	}
	if !p.Partial {
		t.off = fold(add(pseudo(s.Source.Addr(), s.Destination.Addr(), protocolTCP, len(s.TCP)), s.TCP))
	}
	return t, true
}

// fresh is a segment that an element makes up: no options, no data, right checksums.
func fresh(from, to netip.AddrPort, seq, ack uint32, flags uint8) parts {
	t := parts{source: from, destination: to, seq: seq, ack: ack, flags: flags, off: 0xffff, offIP: 0xffff}
	t.ip = ipHeader(from.Addr(), to.Addr(), protocolTCP)
	return t
}

// ipHeader is an IP header without length and checksum.
func ipHeader(from, to netip.Addr, protocol uint8) []byte {
	if from.Is4() {
		ip := make([]byte, ipv4HeaderLen)
		ip[0], ip[6], ip[8], ip[9] = 0x45, dontFragment, defaultHops, protocol
		return ip
	}
	ip := make([]byte, ipv6HeaderLen)
	ip[0], ip[6], ip[7] = 0x60, protocol, defaultHops
	return ip
}

// end is the sequence number behind the segment.
func (t parts) end() uint32 {
	end := t.seq + uint32(len(t.payload))
	if t.flags&SYN != 0 {
		end++
	}
	if t.flags&FIN != 0 {
		end++
	}
	return end
}

func (t parts) isSYN() bool { return t.flags&SYN != 0 }

// room is how many octets of options can be added.
func (t parts) room() int { return maxOptions - len(t.options) }

// packet puts the segment together as a new packet for the same side, or for the side given.
func (t parts) packet(to End) Packet {
	options := t.options
	padded := (len(options) + 3) &^ 3
	size := len(t.ip) + tcpHeaderLen + padded + len(t.payload)
	b := make([]byte, 0, size)
	b = append(b, t.ip...)
	from, dst := t.source.Addr().AsSlice(), t.destination.Addr().AsSlice()
	if b[0]>>4 == 4 {
		binary.BigEndian.PutUint16(b[2:], uint16(size))
		copy(b[12:], from)
		copy(b[16:], dst)
		setSum(b[10:], t.offIP, add(0, zeroed(b, 10)))
	} else {
		binary.BigEndian.PutUint16(b[4:], uint16(size-ipv6HeaderLen))
		copy(b[8:], from)
		copy(b[24:], dst)
	}
	b = binary.BigEndian.AppendUint16(b, t.source.Port())
	b = binary.BigEndian.AppendUint16(b, t.destination.Port())
	b = binary.BigEndian.AppendUint32(b, t.seq)
	b = binary.BigEndian.AppendUint32(b, t.ack)
	b = append(b, byte((tcpHeaderLen+padded)/4)<<4|t.reserved, t.flags)
	b = binary.BigEndian.AppendUint16(b, t.window)
	b = append(b, 0, 0)
	b = binary.BigEndian.AppendUint16(b, t.urgent)
	b = append(b, options...)
	b = append(b, make([]byte, padded-len(options))...)
	b = append(b, t.payload...)
	tcp := b[len(t.ip):]
	sum := pseudo(t.source.Addr(), t.destination.Addr(), protocolTCP, len(tcp))
	if t.partial {
		binary.BigEndian.PutUint16(tcp[tcpChecksum:], fold(sum))
	} else {
		setSum(tcp[tcpChecksum:], t.off, add(sum, tcp))
	}
	return Packet{Data: b, To: to, Partial: t.partial}
}

// zeroed sets two octets to zero and returns b.
func zeroed(b []byte, at int) []byte {
	b[at], b[at+1] = 0, 0
	return b
}

// setSum writes a checksum, off by what it was off before.
func setSum(field []byte, off uint16, sum uint32) {
	c := ^fold(sum)
	if off != 0xffff {
		c = fold(uint32(c) + uint32(off))
	}
	binary.BigEndian.PutUint16(field, c)
}

// pseudo is the sum of the pseudo-header (RFC 9293, Section 3.1; RFC 8200, Section 8.1).
func pseudo(from, to netip.Addr, protocol uint8, length int) uint32 {
	sum := uint32(protocol) + uint32(length>>16) + uint32(length&0xffff)
	return add(add(sum, from.AsSlice()), to.AsSlice())
}

// Complete fills in the TCP or UDP checksum of a packet that has only the pseudo-header's sum in its place.
func Complete(p Packet) Packet {
	if !p.Partial {
		return p
	}
	p.Partial = false
	body, at := transport(p.Data)
	if at == 0 || len(body) < at+2 {
		return p
	}
	binary.BigEndian.PutUint16(body[at:], ^fold(add(0, body)))
	return p
}

// transport returns what is behind the IP header, and where in it the checksum of TCP or UDP is; 0: neither.
func transport(pkt []byte) (body []byte, checksumAt int) {
	var protocol byte
	switch {
	case len(pkt) >= ipv4HeaderLen && pkt[0]>>4 == 4:
		header, total := int(pkt[0]&15)*4, int(binary.BigEndian.Uint16(pkt[2:]))
		if header < ipv4HeaderLen || total < header || total > len(pkt) {
			return nil, 0
		}
		protocol, body = pkt[9], pkt[header:total]
	case len(pkt) >= ipv6HeaderLen && pkt[0]>>4 == 6:
		length := int(binary.BigEndian.Uint16(pkt[4:]))
		if ipv6HeaderLen+length > len(pkt) {
			return nil, 0
		}
		protocol, body = pkt[6], pkt[ipv6HeaderLen:ipv6HeaderLen+length]
	}
	switch protocol {
	case protocolTCP:
		return body, tcpChecksum
	case protocolUDP:
		return body, udpChecksum
	}
	return body, 0
}

const (
	protocolUDP = 17
	udpChecksum = 6
)

// eachOption yields the kind and the whole octets of each option, NOPs left out, until one whose length does not fit.
func eachOption(b []byte) iter.Seq2[uint8, []byte] {
	return func(yield func(uint8, []byte) bool) {
		for len(b) > 0 && b[0] != 0 {
			if b[0] == 1 {
				b = b[1:]
				continue
			}
			if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
				return
			}
			option := b[:b[1]]
			b = b[b[1]:] // before yield, which may overwrite the option
			if !yield(option[0], option) {
				return
			}
		}
	}
}

// without returns the options that are not in kinds, packed without NOPs, and how many were left out.
func without(options []byte, kinds Kinds) (rest []byte, removed int) {
	for kind, o := range eachOption(options) {
		if kinds.Has(kind) {
			removed++
		} else {
			rest = append(rest, o...)
		}
	}
	if removed == 0 {
		return options, 0
	}
	return rest, removed
}

// pick returns the options that are in kinds, packed.
func pick(options []byte, kinds Kinds) (picked []byte) {
	for kind, o := range eachOption(options) {
		if kinds.Has(kind) {
			picked = append(picked, o...)
		}
	}
	return picked
}

// packed returns the options without NOPs and padding.
func packed(options []byte) []byte { return pick(options, everyKind()) }

// mapOption calls f with the content of the first option of a kind, in a copy of the options that it returns.
func mapOption(options []byte, kind uint8, f func(content []byte)) []byte {
	changed := slices.Clone(options)
	for k, o := range eachOption(changed) {
		if k == kind {
			f(o[2:])
			break
		}
	}
	return changed
}
