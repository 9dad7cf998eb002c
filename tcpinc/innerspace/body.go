package innerspace

import (
	"encoding/binary"
	"fmt"
)

// MaxBody is how many octets an option of kind 253 can hold besides its ExID.
const MaxBody = MaxOption - exIDHeader

// AppendExperiment appends an option of kind 253 with at most MaxBody octets of contents. On error, which wraps ErrEncode,
// dst is returned unchanged. RFC 6994, Section 3.
func AppendExperiment(dst []byte, id ExID, body []byte) ([]byte, error) {
	if len(body) > MaxBody {
		return dst, fmt.Errorf("%w: %d octets in %v, at most %d", ErrEncode, len(body), id, MaxBody)
	}
	return append(appendExIDHeader(dst, id, len(body)), body...), nil
}

// appendExIDHeader appends what stands before n octets of contents.
func appendExIDHeader(dst []byte, id ExID, n int) []byte {
	dst = append(dst, KindExperiment, byte(exIDHeader+n))
	return binary.BigEndian.AppendUint16(dst, uint16(id))
}

// parseBody returns the contents of the option at the start of b, which is to be the one with this ExID, and the octets
// that the option took. Errors: ErrTruncated, ErrOptions, ErrNotOption.
func parseBody(b []byte, want ExID) (body []byte, n int, err error) {
	o, n, err := ParseOption(b)
	if err != nil {
		return nil, 0, err
	}
	id, body, ok := o.ExID()
	if !ok || id != want || o[0] != KindExperiment {
		return nil, 0, fmt.Errorf("%w: %v, want %v", ErrNotOption, o, want)
	}
	return body, n, nil
}

// parseFixed is parseBody for contents of one length.
func parseFixed(b []byte, want ExID, size int) (body []byte, n int, err error) {
	body, n, err = parseBody(b, want)
	if err == nil && len(body) != size {
		return nil, 0, fmt.Errorf("%w: %v with %d octets, want %d", ErrBody, want, len(body), size)
	}
	return body, n, err
}
