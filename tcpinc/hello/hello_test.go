package hello

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// random returns some hello.
func random(r *rand.Rand) Hello {
	h := Hello{Capabilities: Capabilities(r.Uint32())}
	if r.IntN(3) > 0 {
		h.Identity = new(Identity)
		for i := range h.Identity.Key {
			h.Identity.Key[i] = byte(r.Uint32())
		}
		for i := range h.Identity.Signature {
			h.Identity.Signature[i] = byte(r.Uint32())
		}
	}
	return h
}

func TestVectors(t *testing.T) {
	id := &Identity{Key: [32]byte{1, 2, 31: 3}, Signature: [64]byte{4, 63: 5}}
	identity := "02 0060 0102" + strings.Repeat("00", 29) + "03 04" + strings.Repeat("00", 62) + "05"
	for _, v := range []struct {
		octets string
		want   Hello
		own    bool // as Append writes it
	}{
		{"49544831 0007 01 0004 00000000", Hello{}, true},
		{"49544831 0007 01 0004 00000001", Hello{Capabilities: AuthenticatedResets}, true},
		{"49544831 006a 01 0004 80000001" + identity, Hello{1<<31 | 1, id}, true},
		{"49544831 0000", Hello{}, false},
		{"49544831 0063" + identity, Hello{Identity: id}, false},
		{"49544831 006a" + identity + "01 0004 00000002", Hello{2, id}, false},
		{"49544831 000f 07 0002 ffff 01 0004 00000001 ff 0000", Hello{Capabilities: 1}, false},
	} {
		b := unhex(t, v.octets)
		got, n, err := Parse(append(b[:len(b):len(b)], "what follows"...))
		if err != nil || n != len(b) || !reflect.DeepEqual(got, v.want) {
			t.Errorf("%s: %+v, %d octets, %v", v.octets, got, n, err)
		}
		if own := Append(nil, v.want); v.own != bytes.Equal(own, b) {
			t.Errorf("%+v is written as %x, parsed from %x", v.want, own, b)
		}
	}
}

func TestRoundTripAndEveryPrefix(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		want := random(r)
		b := Append([]byte("before"), want)[len("before"):]
		got, n, err := Parse(b)
		if err != nil || n != len(b) || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v came back as %+v, %d of %d octets, %v", want, got, n, len(b), err)
		}
		for i := range b {
			if got, n, err := Parse(b[:i]); !errors.Is(err, ErrIncomplete) || n != 0 || got != (Hello{}) {
				t.Fatalf("%d of %d octets: %+v, %d, %v", i, len(b), got, n, err)
			}
		}
	}
}

func TestParseErrors(t *testing.T) {
	long := append(unhex(t, "49544831 03fa 09 03f7"), make([]byte, 0x3f7)...)
	if _, n, err := Parse(long); err != nil || n != MaxLen {
		t.Errorf("the longest: %d octets, %v", n, err)
	}
	for octets, want := range map[string]error{
		"48":                               ErrNone,
		"474554202f20":                     ErrNone, // GET /
		"49544830 0007 01 0004 000000":     ErrNone,
		"49544831 03fb":                    ErrMalformed, // too long
		"49544831 ffff":                    ErrMalformed,
		"49544831 0002 0100":               ErrMalformed, // no room for an item's header
		"49544831 0004 01 0004 00":         ErrMalformed, // item beyond the end
		"49544831 0006 01 0003 000000":     ErrMalformed, // capabilities of 3 octets
		"49544831 0008 01 0005 0000000000": ErrMalformed,
		"49544831 000e 01 0004 00000000 01 0004 00000000": ErrMalformed, // twice
		"49544831 0003 02 0000":                           ErrMalformed,
		"49544831 0008 01 0004 00000000 ff":               ErrMalformed,
	} {
		if got, n, err := Parse(unhex(t, octets)); !errors.Is(err, want) || n != 0 || got != (Hello{}) {
			t.Errorf("%s: %+v, %d, %v, want %v", octets, got, n, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 4 {
		f.Add(Append(nil, random(r)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n, err := Parse(b)
		if err != nil {
			if n != 0 || h != (Hello{}) || !errors.Is(err, ErrNone) && !errors.Is(err, ErrIncomplete) && !errors.Is(err, ErrMalformed) {
				t.Fatalf("%+v, %d, %v", h, n, err)
			}
			return
		}
		if n < HeaderLen || n > MaxLen || n > len(b) {
			t.Fatalf("%d octets of %d", n, len(b))
		}
		again, _, err := Parse(Append(nil, h))
		if err != nil || !reflect.DeepEqual(again, h) {
			t.Fatalf("%+v came back as %+v, %v", h, again, err)
		}
		if _, m, err := Parse(b[:n]); err != nil || m != n {
			t.Fatalf("what follows matters: %d, %v", m, err)
		}
	})
}

// key is a private key for tests.
func key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}
