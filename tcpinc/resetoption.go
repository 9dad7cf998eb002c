package tcpinc

import (
	"encoding/binary"

	"innertun/tcpinc/tcpcrypt"
)

// The option that signs a RST: kind 253 (RFC 4727), length, an ExID of this project's (RFC 6994), and the MAC.
const (
	experimentKind = 253
	resetExID      = 0x4954 // "IT"
	resetOptionLen = 4 + tcpcrypt.ResetMACLen
)

// AppendResetOptions signs an outgoing RST, if both ends are for that.
func (h *Handshake) AppendResetOptions(dst []byte, seg Header, room int) []byte {
	g := h.resets.Load()
	if g == nil || g.mode != AuthenticateResets || !g.peerSigns.Load() || seg.Offset == 0 || room < resetOptionLen {
		return dst
	}
	start := len(dst)
	dst = append(dst, experimentKind, resetOptionLen)
	dst = binary.BigEndian.AppendUint16(dst, resetExID)
	dst = g.crypt.AppendResetMAC(dst, seg.Offset, seg.Flags)
	if len(dst)-start != resetOptionLen {
		return dst[:start] // the keys are gone
	}
	return dst
}

// authentic reports whether an incoming RST is signed by the peer.
func (g *resetGuard) authentic(seg Header) bool {
	if g.mode != AuthenticateResets || !g.peerSigns.Load() || seg.Offset == 0 {
		return false
	}
	mac := resetMAC(seg.Options)
	return mac != nil && g.crypt.VerifyResetMAC(mac, seg.Offset, seg.Flags)
}

// resetMAC finds the MAC in the options of a segment; nil: there is none.
func resetMAC(options []byte) []byte {
	for b := options; len(b) > 0 && b[0] != 0; {
		if b[0] == 1 {
			b = b[1:]
			continue
		}
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			return nil
		}
		o := b[:b[1]]
		b = b[b[1]:]
		if o[0] == experimentKind && len(o) == resetOptionLen && binary.BigEndian.Uint16(o[2:]) == resetExID {
			return o[4:]
		}
	}
	return nil
}
