package tcpcrypt

import (
	"encoding/binary"
	"fmt"
)

// An encryption frame is control (1), clen (2) and the ciphertext. The first three octets are its associated data as
// well. RFC 8548, Sections 4.2 and 4.2.2.
const (
	frameHeaderLen = 3
	flagsLen       = 1
	urgentLen      = 2
	frameOverhead  = frameHeaderLen + flagsLen + tagLen // around the data of a frame without an urgent field

	// MaxFrameLen is the longest frame in octets, header included. RFC 8548, Section 3.6.
	MaxFrameLen = frameHeaderLen + 1<<16 - 1
	// MinFrameLen is the shortest frame that is well-formed: no data.
	MinFrameLen = frameOverhead

	dataStart = frameHeaderLen + flagsLen
)

const (
	controlRekey = 1 << 0 // RFC 8548, Section 4.2
	flagFIN      = 1 << 0 // FINp. RFC 8548, Section 4.2.1
	flagUrgent   = 1 << 1 // URGp
)

// frameHeader is what a frame tells in the clear. Its reserved bits are ignored, but authenticated.
type frameHeader struct {
	rekey bool
	clen  int // octets of ciphertext
}

func putFrameHeader(b []byte, h frameHeader) {
	b[0] = 0
	if h.rekey {
		b[0] = controlRekey
	}
	binary.BigEndian.PutUint16(b[1:], uint16(h.clen))
}

// parseFrameHeader needs frameHeaderLen octets. A ciphertext that has no room for flags and tag is ErrMalformedFrame.
func parseFrameHeader(b []byte) (frameHeader, error) {
	h := frameHeader{rekey: b[0]&controlRekey != 0, clen: int(binary.BigEndian.Uint16(b[1:]))}
	if h.clen < flagsLen+tagLen {
		return frameHeader{}, fmt.Errorf("%w: clen %d, at least %d", ErrMalformedFrame, h.clen, flagsLen+tagLen)
	}
	return h, nil
}

// plaintext is the decrypted content of a frame. RFC 8548, Section 4.2.1.
type plaintext struct {
	fin    bool
	urgent bool
	offset uint16 // the urgent field, from the beginning of the frame: RFC 8548, Section 3.7
	data   []byte
}

// parsePlaintext refers to b. Reserved bits are ignored.
func parsePlaintext(b []byte) (plaintext, error) {
	if len(b) < flagsLen {
		return plaintext{}, fmt.Errorf("%w: no flags", ErrMalformedFrame)
	}
	p := plaintext{fin: b[0]&flagFIN != 0, urgent: b[0]&flagUrgent != 0, data: b[flagsLen:]}
	if p.urgent {
		if len(p.data) < urgentLen {
			return plaintext{}, fmt.Errorf("%w: URGp without an urgent field", ErrMalformedFrame)
		}
		p.offset, p.data = binary.BigEndian.Uint16(p.data), p.data[urgentLen:]
	}
	return p, nil
}
