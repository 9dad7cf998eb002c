package tcpcrypt

import (
	"encoding/binary"
	"fmt"

	"innertun/tcpinc/eno"
)

// Init1 is host A's key-exchange message. RFC 8548, Section 4.1.
type Init1 struct {
	Ciphers []Cipher // sym_cipher_list, at most 255
	Nonce   [32]byte // N_A
	Public  []byte   // Pub_A as sent, with its length prefix if the TEP has one
}

// AppendInit1 appends the encoding of m, with nothing in its ignored field.
func AppendInit1(dst []byte, m Init1) []byte {
	return appendInit(dst, Init1Magic, func(b []byte) []byte {
		b = append(b, byte(len(m.Ciphers)))
		for _, c := range m.Ciphers {
			b = binary.BigEndian.AppendUint16(b, uint16(c))
		}
		return append(append(b, m.Nonce[:]...), m.Public...)
	})
}

// ParseInit1 parses the Init1 at the start of b and returns its length in octets, the ignored tail included. Public
// refers to b. Errors: ErrBadMagic, ErrInitTooLong, ErrMalformedInit, ErrTruncated.
func ParseInit1(b []byte, tep eno.TEP) (Init1, int, error) {
	whole, err := initBody(b, Init1Magic)
	if err != nil {
		return Init1{}, 0, err
	}
	rest := whole[initHeaderLen:]
	if len(rest) < 1 {
		return Init1{}, 0, fmt.Errorf("%w: no room for nciphers", ErrMalformedInit)
	}
	count, rest := int(rest[0]), rest[1:]
	if len(rest) < 2*count {
		return Init1{}, 0, fmt.Errorf("%w: %d octets left for %d ciphers", ErrMalformedInit, len(rest), count)
	}
	m := Init1{Ciphers: make([]Cipher, count)}
	for i := range m.Ciphers {
		m.Ciphers[i] = Cipher(binary.BigEndian.Uint16(rest[2*i:]))
	}
	if m.Nonce, m.Public, err = cutExchange(rest[2*count:], tep); err != nil {
		return Init1{}, 0, err
	}
	return m, len(whole), nil
}
