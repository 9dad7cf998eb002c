package eno

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func bytesOf(n int) []byte { return bytes.Repeat([]byte{0xd7}, n) }

var optionVectors = []struct {
	name   string
	wire   []byte
	option Option
}{
	{"vacuous", []byte{69, 2}, Option{}},
	{"vacuous of a passive opener", []byte{69, 3, 0x01}, Option{Global: PassiveRole, ExplicitGlobal: true}},
	{"explicit zero", []byte{69, 3, 0x00}, Option{ExplicitGlobal: true}},
	{"two TEPs", []byte{69, 4, 0x21, 0x23}, Option{Suboptions: []Suboption{{TEP: 0x21}, {TEP: 0x23}}}},
	{"answer", []byte{69, 4, 0x01, 0x23}, Option{Global: PassiveRole, ExplicitGlobal: true, Suboptions: []Suboption{{TEP: 0x23}}}},
	{"application-aware", []byte{69, 4, 0x03, 0x23}, Option{Global: PassiveRole | AppAware, ExplicitGlobal: true, Suboptions: []Suboption{{TEP: 0x23}}}},
	{"last with data", []byte{69, 7, 0x21, 0xa3, 1, 2, 3}, Option{Suboptions: []Suboption{{TEP: 0x21}, {TEP: 0x23, V: true, Data: []byte{1, 2, 3}}}}},
	{"last with v and no data", []byte{69, 3, 0xa3}, Option{Suboptions: []Suboption{{TEP: 0x23, V: true}}}},
	{"length byte", []byte{69, 7, 0x81, 0xa0, 0x49, 0x53, 0x23}, Option{Suboptions: []Suboption{{TEP: 0x20, V: true, Data: []byte("IS")}, {TEP: 0x23}}}},
	{"length byte at its limit", append(append([]byte{69, 37, 0x9f, 0xa1}, bytesOf(32)...), 0x23), Option{Suboptions: []Suboption{{TEP: 0x21, V: true, Data: bytesOf(32)}, {TEP: 0x23}}}},
	{"more than 32 octets last", append([]byte{69, 40, 0xa3}, bytesOf(37)...), Option{Suboptions: []Suboption{{TEP: 0x23, V: true, Data: bytesOf(37)}}}},
	{"one TEP twice", []byte{69, 6, 0x80, 0xa3, 9, 0x23}, Option{Suboptions: []Suboption{{TEP: 0x23, V: true, Data: []byte{9}}, {TEP: 0x23}}}},
	{"reserved TEP", []byte{69, 3, 0x7f}, Option{Suboptions: []Suboption{{TEP: 0x7f}}}},
}

func TestOptionVectors(t *testing.T) {
	for _, v := range optionVectors {
		t.Run(v.name, func(t *testing.T) {
			prefix := []byte("before")
			wire, err := AppendOption(prefix, v.option)
			if err != nil || !bytes.Equal(wire, append(prefix, v.wire...)) {
				t.Fatalf("AppendOption = %x, %v, want %x", wire, err, v.wire)
			}
			got, n, err := ParseOption(append(bytes.Clone(v.wire), 0xff, 0xff))
			if err != nil || n != len(v.wire) {
				t.Fatalf("ParseOption took %d, %v, want %d", n, err, len(v.wire))
			}
			if d := cmp.Diff(v.option, got, cmpopts.EquateEmpty()); d != "" {
				t.Error(d)
			}
			for i := range v.wire {
				if o, n, err := ParseOption(v.wire[:i]); !errors.Is(err, ErrTruncated) || n != 0 || !cmp.Equal(o, Option{}) {
					t.Errorf("prefix of %d octets: %v, %d, %v", i, o, n, err)
				}
			}
		})
	}
}

// What a sender would not write but a receiver must understand.
func TestParseLenient(t *testing.T) {
	for _, v := range []struct {
		name string
		wire []byte
		want Option
	}{
		{"only the first global suboption counts", []byte{69, 6, 0x02, 0x01, 0x23, 0x1f}, Option{Global: AppAware, ExplicitGlobal: true, Suboptions: []Suboption{{TEP: 0x23}}}},
		{"zero bits are kept and mean nothing", []byte{69, 4, 0x1d, 0x23}, Option{Global: 0x1c | PassiveRole, ExplicitGlobal: true, Suboptions: []Suboption{{TEP: 0x23}}}},
		{"length byte before the last", []byte{69, 5, 0x80, 0xa3, 7}, Option{Suboptions: []Suboption{{TEP: 0x23, V: true, Data: []byte{7}}}}},
		{"global last", []byte{69, 4, 0x23, 0x01}, Option{Global: PassiveRole, ExplicitGlobal: true, Suboptions: []Suboption{{TEP: 0x23}}}},
	} {
		t.Run(v.name, func(t *testing.T) {
			got, n, err := ParseOption(v.wire)
			if err != nil || n != len(v.wire) {
				t.Fatal(n, err)
			}
			if d := cmp.Diff(v.want, got, cmpopts.EquateEmpty()); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseIllFormed(t *testing.T) {
	for _, v := range []struct {
		name string
		wire []byte
		want error
	}{
		{"nothing", nil, ErrTruncated},
		{"kind only", []byte{69}, ErrTruncated},
		{"other kind", []byte{253, 2}, ErrKind},
		{"length 0", []byte{69, 0, 0x23}, ErrLength},
		{"length 1", []byte{69, 1, 0x23}, ErrLength},
		{"longer than there is", []byte{69, 5, 0x21, 0x23}, ErrTruncated},
		{"length byte last", []byte{69, 3, 0x80}, ErrDataBeyondEnd},
		{"no data after a length byte", []byte{69, 4, 0x80, 0xa3}, ErrDataBeyondEnd},
		{"data one octet short", []byte{69, 6, 0x82, 0xa3, 1, 2}, ErrDataBeyondEnd},
		{"length byte, TEP without v", []byte{69, 5, 0x80, 0x23, 1}, ErrLengthTarget},
		{"length byte, global", []byte{69, 5, 0x80, 0x01, 1}, ErrLengthTarget},
		{"length byte twice", []byte{69, 6, 0x80, 0x80, 0xa3, 1}, ErrLengthTarget},
		{"length byte, 0x9f", []byte{69, 4, 0x80, 0x9f}, ErrLengthTarget},
		{"ill-formed after a good one", []byte{69, 5, 0x23, 0x80, 0x23}, ErrLengthTarget},
	} {
		t.Run(v.name, func(t *testing.T) {
			o, n, err := ParseOption(v.wire)
			if !errors.Is(err, v.want) || !errors.Is(err, ErrMalformed) || n != 0 || !cmp.Equal(o, Option{}) {
				t.Errorf("got %v, %d, %v, want %v", o, n, err, v.want)
			}
		})
	}
}

func TestAppendOptionRefuses(t *testing.T) {
	for name, o := range map[string]Option{
		"global not explicit":       {Global: PassiveRole},
		"global too large":          {Global: 0x20, ExplicitGlobal: true},
		"TEP too small":             {Suboptions: []Suboption{{TEP: 0x1f}}},
		"TEP too large":             {Suboptions: []Suboption{{TEP: 0x80}}},
		"data without v":            {Suboptions: []Suboption{{TEP: 0x23, Data: []byte{1}}}},
		"no data, not last":         {Suboptions: []Suboption{{TEP: 0x23, V: true}, {TEP: 0x21}}},
		"33 octets, not last":       {Suboptions: []Suboption{{TEP: 0x23, V: true, Data: bytesOf(33)}, {TEP: 0x21}}},
		"more than a header's room": {Suboptions: []Suboption{{TEP: 0x23, V: true, Data: bytesOf(38)}}},
	} {
		t.Run(name, func(t *testing.T) {
			dst := []byte("kept")
			if got, err := AppendOption(dst, o); !errors.Is(err, ErrEncode) || string(got) != "kept" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestNonSYNForm(t *testing.T) {
	if got := AppendNonSYN(nil); !bytes.Equal(got, []byte{69, 2}) {
		t.Errorf("AppendNonSYN = %x", got)
	}
	contents, n, err := ParseNonSYN([]byte{69, 4, 0x80, 0x01, 1})
	if err != nil || n != 4 || !bytes.Equal(contents, []byte{0x80, 0x01}) {
		t.Errorf("ParseNonSYN = %x, %d, %v", contents, n, err)
	}
	for i := range 4 {
		if _, n, err := ParseNonSYN([]byte{69, 4, 0x80, 0x01}[:i]); err == nil || n != 0 {
			t.Errorf("prefix of %d octets parsed", i)
		}
	}
}

func TestRandomRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(8547, 41))
	for range 5000 {
		o := randomOption(rng)
		wire, err := AppendOption(nil, o)
		if err != nil {
			continue // too long
		}
		got, n, err := ParseOption(wire)
		if err != nil || n != len(wire) || !cmp.Equal(o, got, cmpopts.EquateEmpty()) {
			t.Fatalf("%+v became %x became %+v, %d, %v", o, wire, got, n, err)
		}
	}
}

func randomOption(rng *rand.Rand) Option {
	var o Option
	if rng.IntN(2) == 0 {
		o.Global, o.ExplicitGlobal = Global(rng.IntN(0x20)), true
	}
	count := rng.IntN(5)
	for i := range count {
		s := Suboption{TEP: TEP(0x20 + rng.IntN(0x60)), V: rng.IntN(2) == 0}
		if s.V {
			s.Data = bytesOf(1 + rng.IntN(8))
			if i == count-1 {
				s.Data = bytesOf(rng.IntN(36))
			}
		}
		o.Suboptions = append(o.Suboptions, s)
	}
	return o
}

func FuzzParseOption(f *testing.F) {
	for _, v := range optionVectors {
		f.Add(v.wire)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		o, n, err := ParseOption(b)
		if err != nil {
			if n != 0 || !cmp.Equal(o, Option{}) || !errors.Is(err, ErrMalformed) {
				t.Fatalf("%v with %v, %d", err, o, n)
			}
			return
		}
		// What was parsed is encoded again in its shortest form and means the same.
		wire, err := AppendOption(nil, o)
		if err != nil {
			return // longer than a TCP header allows
		}
		again, m, err := ParseOption(wire)
		if err != nil || m != len(wire) || m > n || !cmp.Equal(o, again, cmpopts.EquateEmpty()) {
			t.Fatalf("%x became %+v, then %x and %+v, %v", b, o, wire, again, err)
		}
	})
}
