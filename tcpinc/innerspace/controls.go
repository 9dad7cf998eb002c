package innerspace

import (
	"encoding/binary"
	"fmt"
)

// AppendRekey appends the request that the peer's sending keys reach at least this generation (RFC 8548, Section 3.8). It may
// be repeated without effect, and what fulfils it is a rekey, not an option.
func AppendRekey(dst []byte, generation uint32) []byte {
	return binary.BigEndian.AppendUint32(appendExIDHeader(dst, ExIDRekey, 4), generation)
}

// ParseRekey returns the generation asked for and the octets that the option took. Errors: ErrTruncated, ErrOptions,
// ErrNotOption, ErrBody.
func ParseRekey(b []byte) (generation uint32, n int, err error) {
	body, n, err := parseFixed(b, ExIDRekey, 4)
	if err != nil {
		return 0, 0, err
	}
	return binary.BigEndian.Uint32(body), n, nil
}

// MinMTU is the least that a hint may say, in octets: what every host takes. RFC 791, Section 3.1.
const MinMTU = 68

// AppendMTU appends the hint that packets of up to this many octets, IP header included, reach the sender. It binds nobody.
// Below MinMTU it is an error that wraps ErrEncode, and dst is returned unchanged.
func AppendMTU(dst []byte, octets uint16) ([]byte, error) {
	if octets < MinMTU {
		return dst, fmt.Errorf("%w: MTU %d, at least %d", ErrEncode, octets, MinMTU)
	}
	return binary.BigEndian.AppendUint16(appendExIDHeader(dst, ExIDMTU, 2), octets), nil
}

// ParseMTU returns the hint and the octets that the option took. Errors: ErrTruncated, ErrOptions, ErrNotOption, ErrBody.
func ParseMTU(b []byte) (octets uint16, n int, err error) {
	body, n, err := parseFixed(b, ExIDMTU, 2)
	if err != nil {
		return 0, 0, err
	}
	octets = binary.BigEndian.Uint16(body)
	if octets < MinMTU {
		return 0, 0, fmt.Errorf("%w: MTU %d, at least %d", ErrBody, octets, MinMTU)
	}
	return octets, n, nil
}

// AppendOuter appends an option of the TCP header, of any kind, whole: of EOL and NOP the one octet, of others kind, length
// and data, at most 251 octets. It means inside what it would mean outside. On error, which wraps ErrEncode, dst is returned unchanged.
func AppendOuter(dst []byte, o Option) ([]byte, error) {
	if _, n, err := ParseOption(o); err != nil || n != len(o) {
		return dst, fmt.Errorf("%w: not one whole option: %d octets", ErrEncode, len(o))
	}
	return AppendExperiment(dst, ExIDOuter, o)
}

// ParseOuter returns the option inside, which aliases b, and the octets that the one around it took. Errors: ErrTruncated,
// ErrOptions, ErrNotOption, ErrBody.
func ParseOuter(b []byte) (o Option, n int, err error) {
	body, n, err := parseBody(b, ExIDOuter)
	if err != nil {
		return nil, 0, err
	}
	o, size, err := ParseOption(body)
	if err != nil || size != len(body) {
		return nil, 0, fmt.Errorf("%w: %v holds %d octets that are not one whole option", ErrBody, ExIDOuter, len(body))
	}
	return o, n, nil
}

// MaxCookie is the longest echo cookie in octets.
const MaxCookie = 200

// AppendCookie appends an echo cookie of 1 to MaxCookie octets, opaque to whoever echoes it. On error, which wraps ErrEncode,
// dst is returned unchanged.
func AppendCookie(dst, cookie []byte) ([]byte, error) {
	if len(cookie) < 1 || len(cookie) > MaxCookie {
		return dst, fmt.Errorf("%w: cookie of %d octets, 1 to %d", ErrEncode, len(cookie), MaxCookie)
	}
	return AppendExperiment(dst, ExIDCookie, cookie)
}

// ParseCookie returns the cookie, which aliases b, and the octets that the option took. Errors: ErrTruncated, ErrOptions,
// ErrNotOption, ErrBody.
func ParseCookie(b []byte) (cookie []byte, n int, err error) {
	cookie, n, err = parseBody(b, ExIDCookie)
	if err == nil && (len(cookie) < 1 || len(cookie) > MaxCookie) {
		return nil, 0, fmt.Errorf("%w: cookie of %d octets, 1 to %d", ErrBody, len(cookie), MaxCookie)
	}
	return cookie, n, err
}

// EarlyData says what has become of the early data of a SYN-U. The server says it in its SYN-ACK-U; no such option means
// declined. There nothing authenticates it yet: the client repeats in its first unit what it has understood, and a
// server that said otherwise aborts.
type EarlyData struct {
	Accepted bool
	Octets   uint16 // of the payload of the SYN-U
}

// AppendEarlyData appends the option.
func AppendEarlyData(dst []byte, e EarlyData) []byte {
	verdict := byte(0)
	if e.Accepted {
		verdict = 1
	}
	return binary.BigEndian.AppendUint16(append(appendExIDHeader(dst, ExIDEarlyData, 3), verdict), e.Octets)
}

// ParseEarlyData returns what the option says and the octets it took. Errors: ErrTruncated, ErrOptions, ErrNotOption, ErrBody.
func ParseEarlyData(b []byte) (e EarlyData, n int, err error) {
	body, n, err := parseFixed(b, ExIDEarlyData, 3)
	if err != nil {
		return EarlyData{}, 0, err
	}
	if body[0] > 1 {
		return EarlyData{}, 0, fmt.Errorf("%w: verdict %d on early data, 0 or 1", ErrBody, body[0])
	}
	return EarlyData{Accepted: body[0] == 1, Octets: binary.BigEndian.Uint16(body[1:])}, n, nil
}
