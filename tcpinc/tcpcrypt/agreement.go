package tcpcrypt

import (
	"fmt"
	"io"

	"innertun/tcpinc/eno"
)

// TEP identifiers of tcpcrypt, each a key-agreement scheme. RFC 8548, Section 7, Table 4.
const (
	P256       eno.TEP = 0x21
	P521       eno.TEP = 0x22
	Curve25519 eno.TEP = 0x23
	Curve448   eno.TEP = 0x24
)

// agreement is a key-agreement scheme. RFC 8548, Section 5.
type agreement interface {
	// publicLen returns how many octets at the start of b are the encoded public key, any length prefix included.
	// It fails if b is too short for that.
	publicLen(b []byte) (int, error)
	// generate makes an ephemeral key pair from random octets.
	generate(random io.Reader) (keyPair, error)
}

// keyPair is an ephemeral key pair of one agreement.
type keyPair interface {
	// appendPublic appends the public key as it is sent in an Init message. peer is the other host's, nil for host A.
	appendPublic(dst, peer []byte) []byte
	// shared validates the peer's encoded public key and returns the ephemeral secret ES. It is called once: a key pair
	// serves one connection. The error is ErrBadPublicKey.
	shared(peer []byte) ([]byte, error)
}

// agreementOf is the table of schemes: a further TEP is one more entry.
func agreementOf(tep eno.TEP) (agreement, error) {
	switch tep {
	case Curve25519:
		return x25519{}, nil
	case Curve448:
		return ecdhX448{}, nil
	case P256:
		return nistP256(), nil
	case P521:
		return nistP521(), nil
	}
	return nil, fmt.Errorf("%w: TEP %#02x is none of tcpcrypt (0x23 curve25519, 0x24 curve448, 0x21 p256, 0x22 p521)", ErrConfig, uint8(tep))
}

// TEPs returns every TEP that is built, in the default order of preference.
func TEPs() []eno.TEP { return []eno.TEP{Curve25519, Curve448, P256, P521} }

// maxKeyTries bounds the search for a private key in range; one try fails with a probability below 2^-32 on P-256.
const maxKeyTries = 32
