package tcpcrypt

import (
	"crypto/ecdh"
	"crypto/elliptic"
	"encoding/binary"
	"fmt"
	"io"
)

// nistCurve is ECDHE over a NIST curve: public keys are compressed points with a length prefix of two octets, the
// secret is the x coordinate (ECSVDP-DH). RFC 8548, Section 5.
type nistCurve struct {
	curve  ecdh.Curve
	points elliptic.Curve // for the compressed encoding and the parameters
}

func nistP256() nistCurve { return nistCurve{ecdh.P256(), elliptic.P256()} }
func nistP521() nistCurve { return nistCurve{ecdh.P521(), elliptic.P521()} }

const pubkeyLenLen = 2 // octets of pubkey_len, counted in its value

// fieldLen is how many octets a coordinate or a private key has.
func (c nistCurve) fieldLen() int { return (c.points.Params().BitSize + 7) / 8 }

func (c nistCurve) compressedLen() int { return 1 + c.fieldLen() }

// publicLen reads pubkey_len, which counts its own two octets: in the figure of RFC 8548, Section 5, it is L and the
// last octet of the point has index L-1. So it is 35 for P-256 and 69 for P-521. The text can be read as 33 and 67 too, and
// as there are no compressed points of 31 or 65 octets, that is understood.
func (c nistCurve) publicLen(b []byte) (int, error) {
	if len(b) < pubkeyLenLen {
		return 0, fmt.Errorf("%w: %d octets left for the length of a public key", ErrMalformedInit, len(b))
	}
	n := int(binary.BigEndian.Uint16(b))
	if n == c.compressedLen() {
		n += pubkeyLenLen
	}
	if n < pubkeyLenLen || n > len(b) {
		return 0, fmt.Errorf("%w: pubkey_len %d, %d octets left", ErrMalformedInit, n, len(b))
	}
	return n, nil
}

func (c nistCurve) generate(random io.Reader) (keyPair, error) {
	scalar := make([]byte, c.fieldLen())
	defer clear(scalar)
	excess := 8*len(scalar) - c.points.Params().N.BitLen()
	for range maxKeyTries {
		if err := draw(random, scalar); err != nil {
			return nil, fmt.Errorf("tcpcrypt: drawing a private key: %w", err)
		}
		scalar[0] &= 0xff >> excess
		if key, err := c.curve.NewPrivateKey(scalar); err == nil { // rejects zero and what is not below the order
			return nistPair{c, key}, nil
		}
	}
	return nil, fmt.Errorf("tcpcrypt: no private key in range after %d draws: the source of randomness is broken", maxKeyTries)
}

type nistPair struct {
	nistCurve
	private *ecdh.PrivateKey
}

func (k nistPair) appendPublic(dst, peer []byte) []byte {
	point := k.private.PublicKey().Bytes() // 0x04 | x | y
	x, y := point[1:1+k.fieldLen()], point[1+k.fieldLen():]
	size := pubkeyLenLen + k.compressedLen()
	if len(peer) == size && int(binary.BigEndian.Uint16(peer)) == k.compressedLen() {
		size = k.compressedLen() // as host A understands it
	}
	dst = binary.BigEndian.AppendUint16(dst, uint16(size))
	dst = append(dst, 2|y[len(y)-1]&1)
	return append(dst, x...)
}

func (k nistPair) shared(peer []byte) ([]byte, error) {
	point := peer[pubkeyLenLen:]
	if len(point) != k.compressedLen() {
		return nil, fmt.Errorf("%w: %d octets, a compressed point has %d", ErrBadPublicKey, len(point), k.compressedLen())
	}
	x, y := elliptic.UnmarshalCompressed(k.points, point)
	if x == nil {
		return nil, fmt.Errorf("%w: not a compressed point on the curve", ErrBadPublicKey)
	}
	full := make([]byte, 1+2*k.fieldLen())
	full[0] = 4
	x.FillBytes(full[1 : 1+k.fieldLen()])
	y.FillBytes(full[1+k.fieldLen():])
	public, err := k.curve.NewPublicKey(full)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrBadPublicKey, err)
	}
	secret, err := k.private.ECDH(public)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrBadPublicKey, err)
	}
	return secret, nil
}
