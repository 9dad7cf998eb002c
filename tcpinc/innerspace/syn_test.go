package innerspace

import (
	"bytes"
	"errors"
	"slices"
	"testing"
)

func mustSYN(t testing.TB, s SYN) []byte {
	t.Helper()
	b, err := AppendSYN(nil, s)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) != s.Len() {
		t.Fatalf("Len() = %d for %d octets", s.Len(), len(b))
	}
	return b
}

// Whatever is not wholly in order is an ordinary SYN, which the application gets as it is.
func TestOrdinarySYN(t *testing.T) {
	good := mustSYN(t, SYN{Prefix: []byte{30, 4, 1, 2}, Suffix: []byte{69, 3, 0x23}, Payload: []byte("payload")})
	if _, o, err := ParseSYN(good); o != Upgraded || err != nil {
		t.Fatal(o, err)
	}
	for n := range good {
		if _, o, err := ParseSYN(good[:n]); o != Ordinary || err != nil {
			t.Errorf("prefix of %d: %v, %v", n, o, err)
		}
	}
	if _, o, _ := ParseSYN(append(slices.Clone(good), 0)); o != Ordinary {
		t.Error("one octet more:", o)
	}
	for bit := range 8 * SYNHeaderLen {
		b := slices.Clone(good)
		b[bit/8] ^= 0x80 >> (bit % 8)
		s, o, err := ParseSYN(b)
		inCU, inSOO := bit >= 8*SYNHeaderLen-2, bit >= 80 && bit < 94
		switch {
		case inCU && (o != Upgraded || err != nil):
			t.Errorf("CU is not ignored: bit %d: %v, %v", bit, o, err)
		case inSOO: // may stay within InOO; then the options lie differently
			if o == Upgraded && err == nil && len(s.Prefix)+len(s.Suffix) != 8 {
				t.Errorf("bit %d: %+v", bit, s)
			}
		case !inCU && o != Ordinary:
			t.Errorf("bit %d flipped: %v", bit, o)
		}
	}
}

func TestSYNOptionsMalformed(t *testing.T) {
	for _, list := range [][]byte{{30, 1, 0, 0}, {1, 1, 1, 30}, {30, 5, 0, 0}, {30, 0, 0, 0}} {
		suffix := append(mustSYN(t, SYN{Suffix: []byte{1, 1, 1, 1}})[:SYNHeaderLen], list...)
		prefix := append(mustSYN(t, SYN{Prefix: []byte{1, 1, 1, 1}})[:SYNHeaderLen], list...)
		for _, b := range [][]byte{suffix, prefix} {
			if s, o, err := ParseSYN(b); o != Upgraded || !errors.Is(err, ErrOptions) || s.Prefix != nil || s.Suffix != nil {
				t.Errorf("%x: %v, %v, %v", b, s, o, err)
			}
		}
	}
}

func TestAppendSYNRefuses(t *testing.T) {
	nops := bytes.Repeat([]byte{KindNop}, MaxOptions)
	dst := []byte("dst")
	for name, s := range map[string]SYN{
		"payload":            {Payload: make([]byte, MaxPayload+1)},
		"prefix":             {Prefix: append(nops, KindNop)},
		"prefix with suffix": {Prefix: nops, Suffix: []byte{KindNop}},
		"no option":          {Prefix: []byte{30}},
		"no option, suffix":  {Suffix: []byte{30, 9, 0}},
	} {
		if got, err := AppendSYN(dst, s); !errors.Is(err, ErrEncode) || string(got) != "dst" {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
	all := mustSYN(t, SYN{Prefix: nops[:4], Suffix: nops[4:], Payload: make([]byte, MaxPayload)})
	if s, o, err := ParseSYN(all); o != Upgraded || err != nil || len(s.Suffix) != MaxOptions-4 || len(s.Payload) != MaxPayload {
		t.Error("the limits:", o, err)
	}
}

func FuzzParseSYN(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.0\r\n\r\n"))
	for _, s := range []SYN{{}, {Prefix: []byte{30, 4, 1, 2}, Suffix: []byte{69, 3, 0x23}, Payload: []byte("x")}} {
		f.Add(mustSYN(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, o, err := ParseSYN(b)
		if o != Upgraded {
			if err != nil || s.Prefix != nil || s.Suffix != nil || s.Payload != nil {
				t.Fatalf("%v with %+v, %v", o, s, err)
			}
			return
		}
		if err != nil {
			if !errors.Is(err, ErrOptions) {
				t.Fatal(err)
			}
			return
		}
		again, err := AppendSYN(nil, s)
		if err != nil {
			t.Fatal(err)
		}
		b = slices.Clone(b)
		b[SYNHeaderLen-1] &^= lenMask // CU
		if !bytes.Equal(again, b) {
			t.Fatalf("%x became %x", b, again)
		}
	})
}
