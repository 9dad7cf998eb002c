package eno

import (
	"bytes"
	"errors"
	"testing"
)

func walk(options []byte) (kinds []byte, err error) {
	it := NewIterator(options)
	for o, ok := it.Next(); ok; o, ok = it.Next() {
		kinds = append(kinds, o[0])
	}
	return kinds, it.Err()
}

func TestIterator(t *testing.T) {
	for _, v := range []struct {
		name    string
		options []byte
		kinds   []byte
		bad     bool
	}{
		{"empty", nil, nil, false},
		{"usual SYN", []byte{2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 3, 7}, []byte{2, 4, 8, 3}, false},
		{"NOPs only", []byte{1, 1, 1}, nil, false},
		{"nothing counts after EOL", []byte{4, 2, 0, 69, 2}, []byte{4}, false},
		{"no length octet", []byte{4, 2, 69}, []byte{4}, true},
		{"length 0", []byte{69, 0, 4, 2}, nil, true},
		{"length 1", []byte{4, 2, 69, 1, 4, 2}, []byte{4}, true},
		{"past the end", []byte{69, 3}, nil, true},
	} {
		t.Run(v.name, func(t *testing.T) {
			kinds, err := walk(v.options)
			if !bytes.Equal(kinds, v.kinds) || (err != nil) != v.bad || err != nil && !errors.Is(err, ErrOptions) {
				t.Errorf("kinds %v, %v", kinds, err)
			}
		})
	}
}

func TestFindSYN(t *testing.T) {
	for _, v := range []struct {
		name    string
		options []byte
		want    []byte
		err     error
	}{
		{"none", []byte{2, 4, 5, 180}, nil, nil},
		{"one", []byte{1, 69, 3, 0x23, 4, 2}, []byte{69, 3, 0x23}, nil},
		{"two count as none", []byte{69, 3, 0x23, 69, 3, 0x23}, nil, ErrRepeated},
		{"after EOL", []byte{0, 69, 3, 0x23}, nil, nil},
		{"list broken before", []byte{4, 0, 69, 3, 0x23}, nil, nil},
		{"list broken after", []byte{69, 3, 0x23, 4, 0}, nil, ErrOptions},
		{"itself too long", []byte{69, 9, 0x23}, nil, ErrOptions},
		{"itself too short", []byte{69, 1, 0x23}, nil, ErrOptions},
	} {
		t.Run(v.name, func(t *testing.T) {
			got, err := FindSYN(v.options)
			if !bytes.Equal(got, v.want) || !errors.Is(err, v.err) {
				t.Errorf("got %x, %v", got, err)
			}
		})
	}
}

func TestHasNonSYN(t *testing.T) {
	for _, v := range []struct {
		options []byte
		want    bool
	}{
		{nil, false},
		{[]byte{1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0}, false},
		{[]byte{1, 1, 69, 2}, true},
		{[]byte{69, 2, 69, 4, 1, 1}, true},
		{[]byte{69, 5, 0x80, 0x23, 1}, true}, // contents are ignored
		{[]byte{69, 1}, false},
		{[]byte{4, 1, 69, 2}, false},
	} {
		if got := HasNonSYN(v.options); got != v.want {
			t.Errorf("HasNonSYN(%x) = %v", v.options, got)
		}
	}
}

func FuzzIterator(f *testing.F) {
	f.Add([]byte{2, 4, 5, 180, 4, 2, 1, 69, 4, 0x21, 0x23})
	f.Add([]byte{69, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		it := NewIterator(b)
		total := 0
		for o, ok := it.Next(); ok; o, ok = it.Next() {
			if len(o) < 2 || int(o[1]) != len(o) {
				t.Fatalf("option %x", o)
			}
			total += len(o)
		}
		if total > len(b) {
			t.Fatalf("%d octets of options in %d", total, len(b))
		}
		found, err := FindSYN(b)
		if found != nil && (err != nil || found[0] != Kind || !HasNonSYN(b)) {
			t.Fatalf("FindSYN = %x, %v", found, err)
		}
	})
}
