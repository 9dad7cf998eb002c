package tcpcrypt

import (
	"encoding/binary"
	"fmt"

	"innertun/tcpinc/eno"
)

// Init2 is host B's key-exchange message. RFC 8548, Section 4.1.
type Init2 struct {
	Cipher Cipher   // sym_cipher, chosen from those of Init1
	Nonce  [32]byte // N_B
	Public []byte   // Pub_B as sent, with its length prefix if the TEP has one
}

// AppendInit2 appends the encoding of m, with nothing in its ignored field.
func AppendInit2(dst []byte, m Init2) []byte {
	return appendInit(dst, Init2Magic, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint16(b, uint16(m.Cipher))
		return append(append(b, m.Nonce[:]...), m.Public...)
	})
}

// ParseInit2 parses the Init2 at the start of b and returns its length in octets, the ignored tail included. Public
// refers to b. Errors: ErrBadMagic, ErrInitTooLong, ErrMalformedInit, ErrTruncated.
func ParseInit2(b []byte, tep eno.TEP) (Init2, int, error) {
	whole, err := initBody(b, Init2Magic)
	if err != nil {
		return Init2{}, 0, err
	}
	rest := whole[initHeaderLen:]
	if len(rest) < 2 {
		return Init2{}, 0, fmt.Errorf("%w: no room for sym_cipher", ErrMalformedInit)
	}
	m := Init2{Cipher: Cipher(binary.BigEndian.Uint16(rest))}
	if m.Nonce, m.Public, err = cutExchange(rest[2:], tep); err != nil {
		return Init2{}, 0, err
	}
	return m, len(whole), nil
}
