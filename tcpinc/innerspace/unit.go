package innerspace

import (
	"encoding/binary"
	"fmt"
)

// HeaderLen is how many octets stand before the options and the payload of a unit.
const HeaderLen = 4

// Header is the InSpace option of a unit, of which the stream consists after the SYN data.
type Header struct {
	Payload int // octets: SPS
	Options int // octets, whole words, padding included: InOO
}

// Empty reports whether the unit holds nothing. It is legal, and ignored.
func (h Header) Empty() bool { return h == Header{} }

// AppendHeader appends the 4 octets of a header. On error, which wraps ErrEncode, dst is returned unchanged.
func AppendHeader(dst []byte, h Header) ([]byte, error) {
	if h.Payload < 0 || h.Payload > MaxPayload {
		return dst, fmt.Errorf("%w: %d octets of payload in a unit, at most %d", ErrEncode, h.Payload, MaxPayload)
	}
	if h.Options < 0 || h.Options > MaxOptions || h.Options%wordLen != 0 {
		return dst, fmt.Errorf("%w: %d octets of options in a unit, whole words of 4 and at most %d", ErrEncode, h.Options, MaxOptions)
	}
	return binary.BigEndian.AppendUint32(dst, h.bits()), nil
}

// ParseHeader returns the header at the start of b and the octets it took. Errors: ErrTruncated, ErrUnit.
func ParseHeader(b []byte) (Header, int, error) {
	if len(b) < HeaderLen {
		return Header{}, 0, fmt.Errorf("%w: %d octets of a unit's header", ErrTruncated, len(b))
	}
	h, ok := headerOf(binary.BigEndian.Uint32(b))
	if !ok {
		return Header{}, 0, fmt.Errorf("%w: header %#08x", ErrUnit, b[:HeaderLen])
	}
	return h, HeaderLen, nil
}

func (h Header) bits() uint32 {
	return uint32(h.Payload)<<16 | uint32(h.Options/wordLen)<<lenBits | lenUnit
}

func headerOf(bits uint32) (Header, bool) {
	return Header{Payload: int(bits >> 16), Options: int(bits>>lenBits&wordsMax) * wordLen}, bits&lenMask == lenUnit
}

// AppendUnit appends a whole unit; the options, a list, are padded to whole words with NOP. On error, which wraps ErrEncode,
// dst is returned unchanged. An Encoder does the same without copying the payload.
func AppendUnit(dst, options, payload []byte) ([]byte, error) {
	if err := CheckOptions(options); err != nil {
		return dst, fmt.Errorf("%w: %w", ErrEncode, err)
	}
	out, err := AppendHeader(dst, Header{Payload: len(payload), Options: len(options) + Padding(len(options))})
	if err != nil {
		return dst, err
	}
	start := len(out)
	out = appendPadding(append(out, options...), start)
	return append(out, payload...), nil
}
