package tcpcrypt

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"innertun/tcpinc/eno"
)

// The default order is the one that the manual and a configuration without a list of TEPs go by.
func TestTEPs(t *testing.T) {
	if !slices.Equal(TEPs(), []eno.TEP{Curve25519, Curve448, P256, P521}) {
		t.Errorf("%v", TEPs())
	}
	TEPs()[0] = 0
	if TEPs()[0] != Curve25519 {
		t.Error("a caller can change the list")
	}
}

// FuzzPublicKey feeds every key agreement whatever comes in place of a public key: it is refused, or both hosts could have
// the same secret, which is not zero.
func FuzzPublicKey(f *testing.F) {
	for i, tep := range TEPs() {
		_, pair, err := drawKeys(tep, zeroRand{})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), pair.appendPublic(nil, nil))
		f.Add(byte(i), make([]byte, 70))
	}
	f.Fuzz(func(t *testing.T, which byte, b []byte) {
		tep := TEPs()[int(which)%len(TEPs())]
		scheme, err := agreementOf(tep)
		if err != nil {
			t.Fatal(err)
		}
		n, err := scheme.publicLen(b)
		if err != nil {
			if n != 0 || !errors.Is(err, ErrMalformedInit) {
				t.Fatalf("publicLen: %d, %v", n, err)
			}
			return
		}
		var secrets [2][]byte
		for i := range secrets {
			_, pair, err := drawKeys(tep, zeroRand{})
			if err != nil {
				t.Fatal(err)
			}
			if secrets[i], err = pair.shared(b[:n]); err != nil {
				if secrets[i] != nil || !errors.Is(err, ErrBadPublicKey) {
					t.Fatalf("shared: %x, %v", secrets[i], err)
				}
				return
			}
		}
		if !bytes.Equal(secrets[0], secrets[1]) || bytes.Equal(secrets[0], make([]byte, len(secrets[0]))) {
			t.Fatalf("secrets %x and %x", secrets[0], secrets[1])
		}
	})
}
