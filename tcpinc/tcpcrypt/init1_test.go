package tcpcrypt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"testing"
)

func sampleInit1(t testing.TB) Init1 {
	t.Helper()
	_, pair, err := drawKeys(P256, zeroRand{})
	if err != nil {
		t.Fatal(err)
	}
	return Init1{Ciphers: []Cipher{AES256GCM, 0x4242}, Nonce: [32]byte{1, 2, 3}, Public: pair.appendPublic(nil, nil)}
}

func TestInit1RoundTrip(t *testing.T) {
	want := sampleInit1(t)
	b := AppendInit1([]byte("before"), want)
	b, found := bytes.CutPrefix(b, []byte("before"))
	if !found {
		t.Fatal("AppendInit1 lost what was there")
	}
	got, n, err := ParseInit1(append(b, "frames behind it"...), P256)
	if err != nil || n != len(b) || !reflect.DeepEqual(got, want) {
		t.Fatalf("ParseInit1: %+v, %d, %v", got, n, err)
	}
	for i := range b {
		if _, n, err := ParseInit1(b[:i], P256); !errors.Is(err, ErrTruncated) || n != 0 {
			t.Errorf("prefix of %d: %d, %v", i, n, err)
		}
	}
}

func TestInit1TooLittleInside(t *testing.T) {
	b := AppendInit1(nil, sampleInit1(t))
	for n := range len(b) { // a message_len that does not hold the fields
		cut := bytes.Clone(b[:max(n, 8)])
		binary.BigEndian.PutUint32(cut[4:], uint32(n))
		if _, _, err := ParseInit1(cut, P256); !errors.Is(err, ErrMalformedInit) {
			t.Errorf("message_len %d: %v", n, err)
		}
	}
}

func TestInit1IgnoredTail(t *testing.T) {
	want := sampleInit1(t)
	b := AppendInit1(nil, want)
	b = append(b, make([]byte, MaxInitLen-len(b))...)
	binary.BigEndian.PutUint32(b[4:], MaxInitLen)
	if got, n, err := ParseInit1(b, P256); err != nil || n != MaxInitLen || !reflect.DeepEqual(got, want) {
		t.Errorf("with a tail: %+v, %d, %v", got, n, err)
	}
	binary.BigEndian.PutUint32(b[4:], MaxInitLen+1)
	if _, _, err := ParseInit1(append(b, 0), P256); !errors.Is(err, ErrInitTooLong) {
		t.Errorf("one octet more: %v", err)
	}
}

func TestInit1Magic(t *testing.T) {
	b := AppendInit1(nil, sampleInit1(t))
	for i := range 4 {
		bad := bytes.Clone(b[:i+1]) // told as early as it can be
		bad[i] ^= 0x10
		if _, _, err := ParseInit1(bad, P256); !errors.Is(err, ErrBadMagic) {
			t.Errorf("octet %d: %v", i, err)
		}
	}
	if _, _, err := ParseInit1(AppendInit2(nil, Init2{}), Curve25519); !errors.Is(err, ErrBadMagic) {
		t.Errorf("Init2 for Init1: %v", err)
	}
	if _, _, err := ParseInit1(b, 0x7f); !errors.Is(err, ErrConfig) {
		t.Errorf("unknown TEP: %v", err)
	}
}

func FuzzInit1(f *testing.F) {
	f.Add(AppendInit1(nil, sampleInit1(f)), byte(2))
	f.Fuzz(func(t *testing.T, b []byte, which byte) {
		tep := TEPs()[int(which)%len(TEPs())]
		m, n, err := ParseInit1(b, tep)
		if err != nil {
			if n != 0 || !reflect.DeepEqual(m, Init1{}) {
				t.Fatalf("error with a result: %+v, %d, %v", m, n, err)
			}
			return
		}
		again := AppendInit1(nil, m)
		if n > len(b) || len(again) > n || !bytes.Equal(again[8:], b[8:len(again)]) {
			t.Fatalf("%x parsed as %+v, which is %x", b, m, again)
		}
	})
}
