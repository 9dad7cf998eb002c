package tcpcrypt

import (
	"bytes"
	"encoding/hex"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// RFC 7748, Section 6.2.
func TestX448OfRFC7748(t *testing.T) {
	privateA := unhex(t, "9a8f4925d1519f5775cf46b04b5800d4ee9ee8bae8bc5565d498c28dd9c9baf574a9419744897391006382a6f127ab1d9ac2d8c0a598726b")
	publicA := unhex(t, "9b08f7cc31b7e3e67d22d5aea121074a273bd2b83de09c63faa73d2c22c5d9bbc836647241d953d40c5b12da88120d53177f80e532c41fa0")
	privateB := unhex(t, "1c306a7ac2a0e2e0990b294470cba339e6453772b075811d8fad0d1d6927c120bb5ee8972b0d3e21374c9c921b09d1b0366f10b65173992d")
	publicB := unhex(t, "3eb7a829b0cd20f5bcfc0b599b6feccf6da4627107bdb0d4f345b43027d8b972fc3e34fb4232a13ca706dcb57aec3dae07bdc1c67bf33609")
	want := unhex(t, "07fff4181ac6cc95ec1c16a94a0f74d12da232ce40a77552281d282bb60c0b56fd2464c335543936521c24403085d59a449a5037514a879d")
	for _, end := range []struct{ private, public, peer []byte }{{privateA, publicA, publicB}, {privateB, publicB, publicA}} {
		pair, err := ecdhX448{}.generate(bytes.NewReader(end.private))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "public key", pair.appendPublic(nil, nil), end.public)
		secret, err := pair.shared(end.peer)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "secret", secret, want)
	}
}

// A key pair serves one connection: then its private key is gone, and a second use an error.
func TestX448SingleUse(t *testing.T) {
	_, peer, _ := drawKeys(Curve448, zeroRand{})
	_, pair, err := drawKeys(Curve448, zeroRand{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pair.shared(peer.appendPublic(nil, nil)); err != nil {
		t.Fatal(err)
	}
	if k := pair.(*x448Pair); k.private != ([56]byte{}) {
		t.Errorf("private key %x", k.private)
	}
	if secret, err := pair.shared(peer.appendPublic(nil, nil)); secret != nil || err == nil {
		t.Errorf("second use: %x, %v", secret, err)
	}
	_, bad, _ := drawKeys(Curve448, zeroRand{})
	if _, err := bad.shared(make([]byte, 56)); err == nil || bad.(*x448Pair).private != ([56]byte{}) {
		t.Errorf("refused key: %v", err)
	}
}
