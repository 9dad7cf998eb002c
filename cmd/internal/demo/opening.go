package demo

import (
	"fmt"
	"strings"
	"time"

	"innertun/integration/lab"
	"innertun/tcpinc/innerspace"
)

// step is one packet of an opening, as the eavesdropper would note it down.
type step struct {
	at   time.Duration // since the SYN
	to   lab.End
	what string
}

// maxSteps bounds the packets shown of one connection.
const maxSteps = 8

// opening describes the packets of a conversation from the SYN to the first that passed after until. Packets that carry
// nothing but an acknowledgement without options of interest are left out.
func (c conversation) opening(until time.Time) []step {
	var steps []step
	for _, p := range c.packets {
		if p.At.After(until) || len(steps) == maxSteps {
			break
		}
		if what := describe(p); what != "" {
			steps = append(steps, step{p.At.Sub(c.syn), p.To, what})
		}
	}
	return steps
}

// describe names what a packet brings to the opening; "" for nothing.
func describe(p lab.Captured) string {
	s, ok := lab.ParseSegment(p.Data)
	if !ok {
		return ""
	}
	name := "ACK"
	switch {
	case s.IsSYN() && s.Flags()&lab.ACK != 0:
		name = "SYN-ACK"
	case s.IsSYN():
		name = "SYN"
	case s.Flags()&lab.RST != 0:
		name = "RST"
	case len(s.Payload()) > 0:
		name = fmt.Sprintf("%d octets", len(s.Payload()))
	}
	if s.IsSYN() && len(s.Payload()) > 0 {
		return name + inside(s.Payload())
	}
	eno := ""
	for kind, option := range s.EachOption() {
		if kind == kindENO {
			eno = fmt.Sprintf(" + ENO option % x", option)
		}
	}
	if name == "ACK" && eno == "" {
		return ""
	}
	return name + eno + message(s.Payload())
}

// inside names what an upgraded SYN or SYN-ACK carries in its data.
func inside(data []byte) string {
	s, o, err := innerspace.ParseSYN(data)
	if o != innerspace.Upgraded || err != nil {
		return message(data)
	}
	var has []string
	it := innerspace.NewIterator(s.Suffix)
	for o, ok := it.Next(); ok; o, ok = it.Next() {
		id, body, ok := o.ExID()
		switch {
		case o.Kind() == kindENO:
			has = append(has, "ENO")
		case ok && id == innerspace.ExIDInit:
			name, _, _ := strings.Cut(strings.TrimPrefix(message(body), ": "), ",")
			has = append(has, name)
		case ok && id == innerspace.ExIDEarlyData:
			has = append(has, "verdict on early data")
		}
	}
	if n := len(s.Payload); n > 0 {
		has = append(has, fmt.Sprintf("%d octets of early data", n))
	}
	return fmt.Sprintf(" + %d octets of data: %s", len(data), strings.Join(has, ", "))
}

// message names the handshake message a payload begins with (RFC 8548, Section 4.3).
func message(payload []byte) string {
	if len(payload) < 4 {
		return ""
	}
	switch [4]byte(payload) {
	case [4]byte{0x15, 0x10, 0x1a, 0x0e}:
		return ": Init1, tcpcrypt's ciphers and public key"
	case [4]byte{0x09, 0x71, 0x05, 0xe0}:
		return ": Init2, the chosen cipher and public key"
	}
	return ": " + quote(payload, 28)
}

// quote shows the beginning of some octets: as text if it is, else as hex.
func quote(b []byte, room int) string {
	text := true
	n := min(len(b), room)
	for _, c := range b[:n] {
		text = text && (printable(c) || c == '\r' || c == '\n')
	}
	if !text {
		return fmt.Sprintf("% x ...", b[:min(n, 8)])
	}
	q := fmt.Sprintf("%q", b[:n])
	if n < len(b) {
		q = q[:len(q)-1] + "...\""
	}
	return q
}

func printable(c byte) bool { return c >= ' ' && c <= '~' }
