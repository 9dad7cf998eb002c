package innerspace

import (
	"encoding/binary"
	"fmt"
)

// Magic numbers of an upgraded SYN or SYN-ACK.
const (
	MagicA uint32 = 0x1E5A9C71
	MagicB uint16 = 0xC3A7
)

// SYNHeaderLen is how many octets stand before the options of an upgraded SYN or SYN-ACK.
const SYNHeaderLen = 12

// Limits of the fields, in octets.
const (
	MaxPayload = 1<<16 - 1             // SPS
	MaxOptions = wordLen * (1<<14 - 1) // InOO, in words of 4 octets
)

// The InSpace option and the word after it hold a length of 14 bits in words and two more bits.
const (
	lenSYN   = 2 // Len of an upgraded SYN or SYN-ACK
	lenUnit  = 1 // Len of a unit
	lenBits  = 2
	lenMask  = 1<<lenBits - 1
	wordsMax = 1<<14 - 1
)

// Opening says what the data of a SYN or SYN-ACK is.
type Opening uint8

const (
	Ordinary Opening = iota // none, or data for the application
	Upgraded                // Inner Space
)

func (o Opening) String() string {
	switch o {
	case Ordinary:
		return "ordinary"
	case Upgraded:
		return "upgraded"
	}
	return fmt.Sprintf("opening(%d)", uint8(o))
}

// SYN is what the data of an upgraded SYN or SYN-ACK holds. Prefix options come before those of the TCP header in the
// order of processing, suffix options after them. Both are lists of options of at most MaxOptions octets together.
type SYN struct {
	Prefix, Suffix []byte
	Payload        []byte // at most MaxPayload octets
}

// Len returns how many octets AppendSYN appends.
func (s SYN) Len() int {
	return SYNHeaderLen + len(s.Prefix) + Padding(len(s.Prefix)) + len(s.Suffix) + Padding(len(s.Suffix)) + len(s.Payload)
}

// AppendSYN appends the data of an upgraded SYN or SYN-ACK; each list of options is padded to whole words with NOP. On error,
// which wraps ErrEncode, dst is returned unchanged.
func AppendSYN(dst []byte, s SYN) ([]byte, error) {
	prefix := len(s.Prefix) + Padding(len(s.Prefix))
	all := prefix + len(s.Suffix) + Padding(len(s.Suffix))
	switch {
	case len(s.Payload) > MaxPayload:
		return dst, fmt.Errorf("%w: %d octets of payload in a SYN, at most %d", ErrEncode, len(s.Payload), MaxPayload)
	case all > MaxOptions:
		return dst, fmt.Errorf("%w: %d octets of options in a SYN, at most %d", ErrEncode, all, MaxOptions)
	}
	for _, list := range [][]byte{s.Prefix, s.Suffix} {
		if err := CheckOptions(list); err != nil {
			return dst, fmt.Errorf("%w: %w", ErrEncode, err)
		}
	}
	dst = binary.BigEndian.AppendUint32(dst, MagicA)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(s.Payload)))
	dst = binary.BigEndian.AppendUint16(dst, uint16(all/wordLen)<<lenBits|lenSYN)
	dst = binary.BigEndian.AppendUint16(dst, MagicB)
	dst = binary.BigEndian.AppendUint16(dst, uint16(prefix/wordLen)<<lenBits) // CU is sent as zero
	for _, list := range [][]byte{s.Prefix, s.Suffix} {
		start := len(dst)
		dst = appendPadding(append(dst, list...), start)
	}
	return append(dst, s.Payload...), nil
}

// ParseSYN looks at the whole data of a SYN or SYN-ACK, as one segment brought it. It is Upgraded if both magic numbers,
// Len and the lengths are right, and Ordinary otherwise: then it is the application's, or nothing. The parts of s alias
// data, padding included.
//
// An error comes with Upgraded only: the options do not parse, and it wraps ErrOptions. Such data is nobody's: the
// connection is to be reset.
func ParseSYN(data []byte) (s SYN, o Opening, err error) {
	if len(data) < SYNHeaderLen || binary.BigEndian.Uint32(data) != MagicA || binary.BigEndian.Uint16(data[8:]) != MagicB {
		return SYN{}, Ordinary, nil
	}
	sps := int(binary.BigEndian.Uint16(data[4:]))
	space := binary.BigEndian.Uint16(data[6:])
	all := int(space>>lenBits) * wordLen
	prefix := int(binary.BigEndian.Uint16(data[10:])>>lenBits) * wordLen // CU is ignored
	if space&lenMask != lenSYN || len(data) != SYNHeaderLen+all+sps || prefix > all {
		return SYN{}, Ordinary, nil
	}
	options, payload := data[SYNHeaderLen:SYNHeaderLen+all], data[SYNHeaderLen+all:]
	s = SYN{Prefix: options[:prefix:prefix], Suffix: options[prefix:all:all], Payload: payload}
	if err := CheckOptions(s.Prefix); err != nil {
		return SYN{}, Upgraded, fmt.Errorf("prefix: %w", err)
	}
	if err := CheckOptions(s.Suffix); err != nil {
		return SYN{}, Upgraded, fmt.Errorf("suffix: %w", err)
	}
	return s, Upgraded, nil
}
