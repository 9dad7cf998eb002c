package shim

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const (
	maxOptions = 40 // octets of options in a TCP header

	// reserve is what a NonSYN segment keeps free for the Handshake, in octets. The netstack is told an MSS smaller
	// by it, so that full-sized segments have the room.
	reserve = 4

	kindENO = 69 // RFC 8547, Section 4.1
)

// nextOption splits the first option off b. ok is false at the end, and for what cannot be an option.
func nextOption(b []byte) (option, rest []byte, ok bool) {
	for len(b) > 0 && b[0] == header.TCPOptionNOP {
		b = b[1:]
	}
	if len(b) < 2 || b[0] == header.TCPOptionEOL || b[1] < 2 || int(b[1]) > len(b) {
		return nil, nil, false
	}
	return b[:b[1]], b[b[1]:], true
}

// packOptions appends the options in b without their padding.
func packOptions(dst, b []byte) []byte {
	for o, rest, ok := nextOption(b); ok; o, rest, ok = nextOption(rest) {
		dst = append(dst, o...)
	}
	return dst
}

// padOptions fills up to a multiple of four octets.
func padOptions(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, header.TCPOptionNOP)
	}
	return b
}

func hasOption(b []byte, kind uint8) bool {
	for o, rest, ok := nextOption(b); ok; o, rest, ok = nextOption(rest) {
		if o[0] == kind {
			return true
		}
	}
	return false
}

// withoutTimestamps returns a copy of the options in b, which then stays the same from one SYN to its repetition.
func withoutTimestamps(b []byte) []byte {
	var out []byte
	for o, rest, ok := nextOption(b); ok; o, rest, ok = nextOption(rest) {
		if o[0] != header.TCPOptionTS {
			out = append(out, o...)
		}
	}
	return out
}

// windowScale returns the window scale in the options of a SYN, 0 if there is none. RFC 7323, Section 2.3.
func windowScale(b []byte) uint8 {
	for o, rest, ok := nextOption(b); ok; o, rest, ok = nextOption(rest) {
		if o[0] == header.TCPOptionWS && len(o) == header.TCPOptionWSLength {
			return min(o[2], header.MaxWndScale)
		}
	}
	return 0
}

// lowerMSS makes room for reserve in the segments that will be sent: it lowers the peer's MSS, or what the own MTU
// allows if that is less.
func lowerMSS(b []byte, own int) {
	for o, rest, ok := nextOption(b); ok; o, rest, ok = nextOption(rest) {
		if o[0] != header.TCPOptionMSS || len(o) != header.TCPOptionMSSLength {
			continue
		}
		mss := min(int(binary.BigEndian.Uint16(o[2:])), own)
		if mss > header.TCPMinimumMSS+reserve {
			binary.BigEndian.PutUint16(o[2:], uint16(mss-reserve))
		}
		return
	}
}

// plainOptions tells at a glance the options of nearly every segment after the handshake: none, or a timestamp.
func plainOptions(b []byte) bool {
	return len(b) == 0 || len(b) == 12 && binary.BigEndian.Uint32(b) == 0x0101080a
}
