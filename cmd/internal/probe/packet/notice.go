package packet

import (
	"encoding/binary"
	"net/netip"
)

// Cause is what an ICMP error is about.
type Cause uint8

const (
	TimeExceeded Cause = iota + 1 // the time to live ended
	Unreachable                   // any code of destination unreachable
	Prohibited                    // forbidden by an administrator
	TooBig                        // larger than the next link takes
	Problem                       // parameter problem: somebody cannot read the header
)

func (c Cause) String() string {
	switch c {
	case TimeExceeded:
		return "time-exceeded"
	case Unreachable:
		return "unreachable"
	case Prohibited:
		return "prohibited"
	case TooBig:
		return "too-big"
	case Problem:
		return "parameter-problem"
	}
	return "unknown"
}

// Notice is an ICMP error about a TCP segment. RFC 792, RFC 4443.
type Notice struct {
	By    netip.Addr // who sent it
	Cause Cause
	Quote Quote
}

// Quote is what an ICMP error repeats of a packet, from the IP header on, as the sender of the error received it.
type Quote struct {
	From, To netip.AddrPort
	Seq      uint32
	ID       uint16 // identification; IPv4 only
	Class    uint8  // type of service, or traffic class
	Length   int    // octets of TCP as the quoted IP header says
	TCP      []byte // as much of the segment as was quoted, at least 8 octets; aliases the packet
}

const (
	icmpHeader = 8
	minQuote   = 8 // octets behind the IP header. RFC 792
)

// ParseNotice reads an ICMP error that quotes a TCP segment. The error is ErrPacket.
func ParseNotice(pkt []byte) (Notice, error) {
	h, body, err := parseIP(pkt)
	if err != nil || len(body) < icmpHeader || h.length < icmpHeader {
		return Notice{}, ErrPacket
	}
	body = body[:min(len(body), h.length)]
	var cause Cause
	words, wordLen := int(body[5]), 4 // RFC 4884, Section 4: the length of the quote, before extensions; 0: to the end
	switch {
	case h.protocol == protocolICMP && h.from.Is4():
		cause = causeV4(body[0], body[1])
	case h.protocol == protocolICMPv6 && !h.from.Is4():
		cause = causeV6(body[0], body[1])
		words, wordLen = int(body[4]), 8
		if cause == TooBig || cause == Problem {
			words = 0 // the field holds something else
		}
	}
	if cause == 0 {
		return Notice{}, ErrPacket
	}
	quoted := body[icmpHeader:]
	if n := words * wordLen; n > 0 && n < len(quoted) {
		quoted = quoted[:n]
	}
	q, err := parseQuote(quoted)
	return Notice{By: h.from, Cause: cause, Quote: q}, err
}

func parseQuote(quoted []byte) (Quote, error) {
	h, tcp, err := parseIP(quoted)
	if err != nil || h.protocol != protocolTCP {
		return Quote{}, ErrPacket
	}
	tcp = tcp[:min(len(tcp), h.length)]
	if len(tcp) < minQuote {
		return Quote{}, ErrPacket
	}
	return Quote{
		From: netip.AddrPortFrom(h.from, binary.BigEndian.Uint16(tcp)),
		To:   netip.AddrPortFrom(h.to, binary.BigEndian.Uint16(tcp[2:])),
		Seq:  binary.BigEndian.Uint32(tcp[4:]),
		ID:   h.id, Class: h.class, Length: h.length, TCP: tcp,
	}, nil
}

// Window is the quoted window field, if the quote goes that far.
func (q Quote) Window() (uint16, bool) {
	if len(q.TCP) < 16 {
		return 0, false
	}
	return binary.BigEndian.Uint16(q.TCP[14:]), true
}

// causeV4 names type and code. RFC 792, RFC 1812, Section 5.2.7.
func causeV4(kind, code byte) Cause {
	switch kind {
	case 11:
		return TimeExceeded
	case 12:
		return Problem
	case 3:
		switch code {
		case 4:
			return TooBig
		case 9, 10, 13:
			return Prohibited
		}
		return Unreachable
	}
	return 0
}

// causeV6 names type and code. RFC 4443, Section 3.
func causeV6(kind, code byte) Cause {
	switch kind {
	case 1:
		if code == 1 || code == 5 || code == 6 {
			return Prohibited
		}
		return Unreachable
	case 2:
		return TooBig
	case 3:
		return TimeExceeded
	case 4:
		return Problem
	}
	return 0
}
