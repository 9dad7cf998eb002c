package tcpcrypt

import (
	"crypto/ecdh"
	"fmt"
	"io"
)

const x25519Len = 32

// x25519 is ECDHE-Curve25519: public keys of 32 octets, without a length prefix. RFC 8548, Section 5.
type x25519 struct{}

func (x25519) publicLen(b []byte) (int, error) {
	if len(b) < x25519Len {
		return 0, fmt.Errorf("%w: %d octets left for a public key of %d", ErrMalformedInit, len(b), x25519Len)
	}
	return x25519Len, nil
}

func (x25519) generate(random io.Reader) (keyPair, error) {
	// ecdh's GenerateKey ignores its reader, so the scalar is drawn here.
	var scalar [x25519Len]byte
	defer clear(scalar[:])
	if err := draw(random, scalar[:]); err != nil {
		return nil, fmt.Errorf("tcpcrypt: drawing a private key: %w", err)
	}
	key, err := ecdh.X25519().NewPrivateKey(scalar[:])
	if err != nil {
		return nil, fmt.Errorf("tcpcrypt: making a private key: %w", err)
	}
	return x25519Pair{key}, nil
}

type x25519Pair struct{ private *ecdh.PrivateKey }

func (k x25519Pair) appendPublic(dst, _ []byte) []byte {
	return append(dst, k.private.PublicKey().Bytes()...)
}

func (k x25519Pair) shared(peer []byte) ([]byte, error) {
	public, err := ecdh.X25519().NewPublicKey(peer)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrBadPublicKey, err)
	}
	// ECDH fails when the secret is all-zero. RFC 7748, Section 6.1.
	secret, err := k.private.ECDH(public)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrBadPublicKey, err)
	}
	return secret, nil
}
