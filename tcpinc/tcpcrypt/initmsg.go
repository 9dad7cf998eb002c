package tcpcrypt

import (
	"encoding/binary"
	"fmt"

	"innertun/tcpinc/eno"
)

// Magic numbers at the beginning of the two streams. RFC 8548, Section 4.3.
const (
	Init1Magic uint32 = 0x15101a0e
	Init2Magic uint32 = 0x097105e0
)

// MaxInitLen is the longest Init message accepted, in octets, the ignored tail included. The longest that a peer can
// have a use for (255 ciphers and a P-521 key) has 620; the rest is room for later fields. RFC 8548 sets no limit.
const MaxInitLen = 4096

const (
	initHeaderLen = 8  // magic, message_len
	initNonceLen  = 32 // N_A_LEN and N_B_LEN. RFC 8548, Section 5
)

// initLen looks at the first octets of an Init message, however few there are, and returns message_len, or 0 when more
// are needed. It fails as early as the octets allow.
func initLen(b []byte, magic uint32) (int, error) {
	var want [4]byte
	binary.BigEndian.PutUint32(want[:], magic)
	for i := range min(len(b), len(want)) {
		if b[i] != want[i] {
			return 0, fmt.Errorf("%w: octet %d is %#02x, want %#02x", ErrBadMagic, i, b[i], want[i])
		}
	}
	if len(b) < initHeaderLen {
		return 0, nil
	}
	n := binary.BigEndian.Uint32(b[4:])
	if n > MaxInitLen {
		return 0, fmt.Errorf("%w: message_len %d, limit %d", ErrInitTooLong, n, MaxInitLen)
	}
	if n < initHeaderLen {
		return 0, fmt.Errorf("%w: message_len %d", ErrMalformedInit, n)
	}
	return int(n), nil
}

// initBody returns the whole message at the start of b, message_len long.
func initBody(b []byte, magic uint32) ([]byte, error) {
	n, err := initLen(b, magic)
	if err != nil {
		return nil, err
	}
	if n == 0 || len(b) < n {
		return nil, fmt.Errorf("%w: %d octets of an Init message", ErrTruncated, len(b))
	}
	return b[:n], nil
}

// cutExchange parses what ends both Init messages: nonce, then public key, then what is to be ignored.
func cutExchange(b []byte, tep eno.TEP) (nonce [initNonceLen]byte, public []byte, err error) {
	scheme, err := agreementOf(tep)
	if err != nil {
		return nonce, nil, err
	}
	if len(b) < initNonceLen {
		return nonce, nil, fmt.Errorf("%w: %d octets left for a nonce of %d", ErrMalformedInit, len(b), initNonceLen)
	}
	n, err := scheme.publicLen(b[initNonceLen:])
	if err != nil {
		return nonce, nil, err
	}
	return [initNonceLen]byte(b), b[initNonceLen : initNonceLen+n], nil
}

// appendInit writes magic, message_len and what body appends.
func appendInit(dst []byte, magic uint32, body func([]byte) []byte) []byte {
	start := len(dst)
	dst = binary.BigEndian.AppendUint32(dst, magic)
	dst = body(append(dst, 0, 0, 0, 0))
	binary.BigEndian.PutUint32(dst[start+4:], uint32(len(dst)-start))
	return dst
}
