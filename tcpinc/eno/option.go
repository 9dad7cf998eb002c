package eno

import (
	"errors"
	"fmt"
)

const (
	maxOptionSize  = 40   // all options of a TCP header; RFC 9293, Section 3.1
	maxLengthGiven = 32   // suboption data with a length byte; RFC 8547, Section 4.4
	lengthMask     = 0x1f // "nnnnn" of a length byte
	headerSize     = 2    // kind and length octets
)

// What can be wrong with an ENO option. All but ErrEncode wrap ErrMalformed.
var (
	ErrMalformed = errors.New("eno: ill-formed option")
	// ErrTruncated: the octets end before the option does.
	ErrTruncated = fmt.Errorf("%w: cut short", ErrMalformed)
	// ErrKind: not an option of kind 69.
	ErrKind = fmt.Errorf("%w: not kind 69", ErrMalformed)
	// ErrLength: the option's length octet is below two.
	ErrLength = fmt.Errorf("%w: length below 2", ErrMalformed)
	// ErrDataBeyondEnd: a length byte reaches past the end. RFC 8547, Section 4.4, rule 1.
	ErrDataBeyondEnd = fmt.Errorf("%w: suboption data extends beyond the end", ErrMalformed)
	// ErrLengthTarget: a length byte is followed by 0x00-0x9f. RFC 8547, Section 4.4, rule 2.
	ErrLengthTarget = fmt.Errorf("%w: length byte not followed by a TEP with v = 1", ErrMalformed)
	// ErrRepeated: a SYN segment with several ENO options. RFC 8547, Section 4.1.
	ErrRepeated = fmt.Errorf("%w: several in one SYN", ErrMalformed)
	// ErrEncode: the option has no encoding; the text says why.
	ErrEncode = errors.New("eno: option cannot be encoded")
)

// AppendOption appends the SYN-form option, from its kind octet on: at most 40
// octets, as that is what a TCP header can hold. On error, which wraps
// ErrEncode, dst is returned unchanged. RFC 8547, Section 4.1.
func AppendOption(dst []byte, o Option) ([]byte, error) {
	out := append(dst, Kind, 0)
	if o.Global != 0 && !o.ExplicitGlobal || o.Global > lengthMask {
		return dst, fmt.Errorf("%w: global suboption %#02x must be explicit and below 0x20", ErrEncode, uint8(o.Global))
	}
	if o.ExplicitGlobal {
		out = append(out, byte(o.Global))
	}
	for i, s := range o.Suboptions {
		last := i == len(o.Suboptions)-1
		switch {
		case s.TEP < minTEP || s.TEP > maxTEP:
			return dst, fmt.Errorf("%w: TEP %s is not in 0x20-0x7f", ErrEncode, s.TEP)
		case !s.V && len(s.Data) > 0:
			return dst, fmt.Errorf("%w: TEP %s has data but v = 0", ErrEncode, s.TEP)
		case s.V && !last && (len(s.Data) == 0 || len(s.Data) > maxLengthGiven):
			return dst, fmt.Errorf("%w: TEP %s is not last and has %d octets of data, want 1 to 32", ErrEncode, s.TEP, len(s.Data))
		case s.V && !last:
			out = append(out, bitV|byte(len(s.Data)-1))
		}
		out = append(out, s.Byte())
		out = append(out, s.Data...)
	}
	n := len(out) - len(dst)
	if n > maxOptionSize {
		return dst, fmt.Errorf("%w: %d octets, more than 40", ErrEncode, n)
	}
	out[len(dst)+1] = byte(n)
	return out, nil
}

// ParseOption parses the SYN-form option at the start of b, which begins with
// the kind octet, and returns the octets it took. The suboptions' data alias b.
// Errors wrap ErrMalformed. RFC 8547, Sections 4.1, 4.2 and 4.4.
func ParseOption(b []byte) (Option, int, error) {
	contents, n, err := parseHeader(b)
	if err != nil {
		return Option{}, 0, err
	}
	var o Option
	for at := 0; at < len(contents); {
		first := contents[at]
		at++
		glt, v := first&^bitV, first&bitV != 0
		switch {
		case TEP(glt) < minTEP && !v: // all but the first are ignored: RFC 8547, Section 4.2
			if !o.ExplicitGlobal {
				o.Global, o.ExplicitGlobal = Global(glt), true
			}
		case TEP(glt) < minTEP: // a length byte
			s, taken, err := parseWithLength(contents[at:], int(glt)+1)
			if err != nil {
				return Option{}, 0, err
			}
			o.Suboptions = append(o.Suboptions, s)
			at += taken
		case v: // data to the end of the option
			o.Suboptions = append(o.Suboptions, Suboption{TEP: TEP(glt), V: true, Data: contents[at:]})
			at = len(contents)
		default:
			o.Suboptions = append(o.Suboptions, Suboption{TEP: TEP(glt)})
		}
	}
	return o, n, nil
}

// parseWithLength parses a TEP identifier and n octets of data.
func parseWithLength(b []byte, n int) (Suboption, int, error) {
	if len(b) == 0 {
		return Suboption{}, 0, ErrDataBeyondEnd
	}
	tep := TEP(b[0] &^ bitV)
	if b[0]&bitV == 0 || tep < minTEP {
		return Suboption{}, 0, ErrLengthTarget
	}
	if n > len(b)-1 {
		return Suboption{}, 0, ErrDataBeyondEnd
	}
	return Suboption{TEP: tep, V: true, Data: b[1 : 1+n : 1+n]}, 1 + n, nil
}

// AppendNonSYN appends the non-SYN-form option, two octets: no TEP known here
// gives its contents a meaning. RFC 8547, Section 4.1.
func AppendNonSYN(dst []byte) []byte { return append(dst, Kind, headerSize) }

// ParseNonSYN parses the non-SYN-form option at the start of b. The contents,
// which alias b, are ENO's to ignore. RFC 8547, Section 4.1.
func ParseNonSYN(b []byte) (contents []byte, n int, err error) { return parseHeader(b) }

func parseHeader(b []byte) (contents []byte, n int, err error) {
	switch {
	case len(b) == 0:
		return nil, 0, ErrTruncated
	case b[0] != Kind:
		return nil, 0, ErrKind
	case len(b) < headerSize:
		return nil, 0, ErrTruncated
	case b[1] < headerSize:
		return nil, 0, ErrLength
	case int(b[1]) > len(b):
		return nil, 0, ErrTruncated
	}
	n = int(b[1])
	return b[headerSize:n:n], n, nil
}
