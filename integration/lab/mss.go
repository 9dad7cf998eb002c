package lab

import "encoding/binary"

const kindMSS = 2

// ClampMSS is a router in front of a tunnel or PPPoE that lowers the MSS option of SYNs passing by (iptables' TCPMSS), so
// that no path MTU discovery is needed.
type ClampMSS struct {
	to uint16
	acted
}

// NewClampMSS lowers MSS options to at most this many octets.
func NewClampMSS(to uint16) *ClampMSS { return &ClampMSS{to: to} }

// Packet implements Element.
func (e *ClampMSS) Packet(p Packet, at Place) {
	if s, ok := ParseSegment(p.Data); ok && s.IsSYN() {
		s.change(s.Options(), p.Partial, func() {
			for kind, o := range s.EachOption() {
				if kind == kindMSS && len(o) == 4 && binary.BigEndian.Uint16(o[2:]) > e.to {
					e.act()
					binary.BigEndian.PutUint16(o[2:], e.to)
				}
			}
		})
	}
	at.Send(p)
}
