// Package identity has the keys by which hosts know each other: the file of a host's own key, the text form of public
// keys, and the file of the keys that peers had when they were first met.
package identity

import (
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// PublicKey is an Ed25519 public key: who a host is.
type PublicKey [ed25519.PublicKeySize]byte

const publicPrefix = "ed25519:"

// ErrNotEd25519 says that a key is of another kind.
var ErrNotEd25519 = errors.New("identity: not an Ed25519 key")

// PublicOf returns the public key of a signer. Error: ErrNotEd25519.
func PublicOf(s crypto.Signer) (PublicKey, error) {
	p, ok := s.Public().(ed25519.PublicKey)
	if !ok || len(p) != ed25519.PublicKeySize {
		return PublicKey{}, ErrNotEd25519
	}
	return PublicKey(p), nil
}

// String is the text form, "ed25519:" and base64 (RFC 4648, Section 4) of the 32 octets.
func (k PublicKey) String() string {
	return publicPrefix + base64.StdEncoding.EncodeToString(k[:])
}

// ParsePublicKey reads the text form.
func ParsePublicKey(s string) (PublicKey, error) {
	text, ok := strings.CutPrefix(s, publicPrefix)
	if !ok {
		return PublicKey{}, fmt.Errorf("%q is no public key, expected %q and base64, as innertun key show prints it", s, publicPrefix)
	}
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != ed25519.PublicKeySize || base64.StdEncoding.EncodeToString(b) != text {
		return PublicKey{}, fmt.Errorf("%q is no public key: expected the base64 form of %d octets after %q", s, ed25519.PublicKeySize, publicPrefix)
	}
	return PublicKey(b), nil
}

// MarshalText and UnmarshalText are String and ParsePublicKey.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

func (k *PublicKey) UnmarshalText(b []byte) (err error) {
	*k, err = ParsePublicKey(string(b))
	return err
}
