package tcpcrypt

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"

	"github.com/cloudflare/circl/dh/x448"
)

// ecdhX448 is ECDHE-Curve448: public keys of 56 octets, without a length prefix. RFC 8548, Section 5.
type ecdhX448 struct{}

func (ecdhX448) publicLen(b []byte) (int, error) {
	if len(b) < x448.Size {
		return 0, fmt.Errorf("%w: %d octets left for a public key of %d", ErrMalformedInit, len(b), x448.Size)
	}
	return x448.Size, nil
}

func (ecdhX448) generate(random io.Reader) (keyPair, error) {
	k := new(x448Pair)
	if err := draw(random, k.private[:]); err != nil {
		return nil, fmt.Errorf("tcpcrypt: drawing a private key: %w", err)
	}
	x448.KeyGen(&k.public, &k.private)
	return k, nil
}

type x448Pair struct {
	private, public x448.Key
	spent           bool // private is erased
}

func (k *x448Pair) appendPublic(dst, _ []byte) []byte { return append(dst, k.public[:]...) }

// shared spends the key pair: the private key is erased.
func (k *x448Pair) shared(peer []byte) ([]byte, error) {
	if k.spent {
		return nil, errors.New("tcpcrypt: an X448 key pair was used twice")
	}
	defer func() { clear(k.private[:]); k.spent = true }()
	if len(peer) != x448.Size {
		return nil, fmt.Errorf("%w: %d octets, X448 has %d", ErrBadPublicKey, len(peer), x448.Size)
	}
	var secret, none x448.Key
	defer clear(secret[:])
	// False for a point of low order. The secret is looked at too, as RFC 7748, Section 6.2, says.
	if ok := x448.Shared(&secret, &k.private, (*x448.Key)(peer)); !ok || subtle.ConstantTimeCompare(secret[:], none[:]) == 1 {
		return nil, fmt.Errorf("%w: X448 gives the all-zero secret", ErrBadPublicKey)
	}
	return append([]byte(nil), secret[:]...), nil
}
