package tcpcrypt

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// Cipher identifies an AEAD algorithm. RFC 8548, Section 7, Table 5.
type Cipher uint16

const (
	AES128GCM        Cipher = 0x0001
	AES256GCM        Cipher = 0x0002
	ChaCha20Poly1305 Cipher = 0x0010
)

const (
	nonceLen = 12 // ae_nonce_len of every cipher. RFC 8548, Section 6, Table 3
	tagLen   = 16 // octets an AEAD adds to its plaintext
)

// Ciphers returns every cipher that is built, in the default order of preference.
func Ciphers() []Cipher { return []Cipher{AES128GCM, AES256GCM, ChaCha20Poly1305} }

// ParseCipher returns the cipher with the given name, as String writes it.
func ParseCipher(name string) (Cipher, error) {
	for _, c := range Ciphers() {
		if c.String() == name {
			return c, nil
		}
	}
	return 0, fmt.Errorf("%w: unknown cipher %q (known: aes-128-gcm, aes-256-gcm, chacha20-poly1305)", ErrConfig, name)
}

func (c Cipher) String() string {
	switch c {
	case AES128GCM:
		return "aes-128-gcm"
	case AES256GCM:
		return "aes-256-gcm"
	case ChaCha20Poly1305:
		return "chacha20-poly1305"
	}
	return fmt.Sprintf("cipher-%#04x", uint16(c))
}

// KeyLen is ae_key_len in octets, 0 for an unknown cipher. RFC 8548, Section 6, Table 3.
func (c Cipher) KeyLen() int {
	switch c {
	case AES128GCM:
		return 16
	case AES256GCM, ChaCha20Poly1305:
		return 32
	}
	return 0
}

// TrafficKeyLen is the length in octets of a traffic key: key, then nonce randomizer. RFC 8548, Section 3.6, Figure 4.
func (c Cipher) TrafficKeyLen() int { return c.KeyLen() + nonceLen }

func (c Cipher) aead(key []byte) (cipher.AEAD, error) {
	switch c {
	case AES128GCM, AES256GCM:
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		return cipher.NewGCM(block)
	case ChaCha20Poly1305:
		return chacha20poly1305.New(key)
	}
	return nil, fmt.Errorf("%w: %v", ErrConfig, c)
}
