package tcpcrypt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"testing"
)

func sampleInit2(t testing.TB) Init2 {
	t.Helper()
	_, pair, err := drawKeys(P256, zeroRand{})
	if err != nil {
		t.Fatal(err)
	}
	return Init2{Cipher: 0x4242, Nonce: [32]byte{1, 2, 3}, Public: pair.appendPublic(nil, nil)}
}

func TestInit2RoundTrip(t *testing.T) {
	want := sampleInit2(t)
	b := AppendInit2([]byte("before"), want)
	b, found := bytes.CutPrefix(b, []byte("before"))
	if !found {
		t.Fatal("AppendInit2 lost what was there")
	}
	got, n, err := ParseInit2(append(b, "frames behind it"...), P256)
	if err != nil || n != len(b) || !reflect.DeepEqual(got, want) {
		t.Fatalf("ParseInit2: %+v, %d, %v", got, n, err)
	}
	for i := range b {
		if _, n, err := ParseInit2(b[:i], P256); !errors.Is(err, ErrTruncated) || n != 0 {
			t.Errorf("prefix of %d: %d, %v", i, n, err)
		}
	}
}

func TestInit2TooLittleInside(t *testing.T) {
	b := AppendInit2(nil, sampleInit2(t))
	for n := range len(b) { // a message_len that does not hold the fields
		cut := bytes.Clone(b[:max(n, 8)])
		binary.BigEndian.PutUint32(cut[4:], uint32(n))
		if _, _, err := ParseInit2(cut, P256); !errors.Is(err, ErrMalformedInit) {
			t.Errorf("message_len %d: %v", n, err)
		}
	}
}

func TestInit2IgnoredTail(t *testing.T) {
	want := sampleInit2(t)
	b := AppendInit2(nil, want)
	b = append(b, make([]byte, MaxInitLen-len(b))...)
	binary.BigEndian.PutUint32(b[4:], MaxInitLen)
	if got, n, err := ParseInit2(b, P256); err != nil || n != MaxInitLen || !reflect.DeepEqual(got, want) {
		t.Errorf("with a tail: %+v, %d, %v", got, n, err)
	}
	binary.BigEndian.PutUint32(b[4:], MaxInitLen+1)
	if _, _, err := ParseInit2(append(b, 0), P256); !errors.Is(err, ErrInitTooLong) {
		t.Errorf("one octet more: %v", err)
	}
}

func TestInit2Magic(t *testing.T) {
	b := AppendInit2(nil, sampleInit2(t))
	for i := range 4 {
		bad := bytes.Clone(b[:i+1]) // told as early as it can be
		bad[i] ^= 0x10
		if _, _, err := ParseInit2(bad, P256); !errors.Is(err, ErrBadMagic) {
			t.Errorf("octet %d: %v", i, err)
		}
	}
	if _, _, err := ParseInit2(AppendInit1(nil, Init1{}), Curve25519); !errors.Is(err, ErrBadMagic) {
		t.Errorf("Init1 for Init2: %v", err)
	}
	if _, _, err := ParseInit2(b, 0x7f); !errors.Is(err, ErrConfig) {
		t.Errorf("unknown TEP: %v", err)
	}
}

func FuzzInit2(f *testing.F) {
	f.Add(AppendInit2(nil, sampleInit2(f)), byte(2))
	f.Fuzz(func(t *testing.T, b []byte, which byte) {
		tep := TEPs()[int(which)%len(TEPs())]
		m, n, err := ParseInit2(b, tep)
		if err != nil {
			if n != 0 || !reflect.DeepEqual(m, Init2{}) {
				t.Fatalf("error with a result: %+v, %d, %v", m, n, err)
			}
			return
		}
		again := AppendInit2(nil, m)
		if n > len(b) || len(again) > n || !bytes.Equal(again[8:], b[8:len(again)]) {
			t.Fatalf("%x parsed as %+v, which is %x", b, m, again)
		}
	})
}
