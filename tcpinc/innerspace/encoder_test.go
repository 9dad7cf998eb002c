package innerspace

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
)

// The payload stays where it is, and its unit begins right before it.
func TestEncoderInPlace(t *testing.T) {
	var e Encoder
	b := append(make([]byte, 7), "payload and more"...)
	unit, err := e.Unit(b, 7, 7)
	if err != nil {
		t.Fatal(err)
	}
	if &unit[0] != &b[3] || len(unit) != HeaderLen+7 {
		t.Errorf("unit %q", unit)
	}
	equal(t, "unit", unit, append([]byte{0, 7, 0, 1}, "payload"...))
}

// Options leave in order, whole, as many at a time as there is room for.
func TestEncoderRoom(t *testing.T) {
	var e Encoder
	var want [][]byte
	for i := range 5 {
		o := Option(append([]byte{99, byte(4 + i)}, make([]byte, 2+i)...)) // 4, 5, 6, 7, 8 octets
		if err := e.Queue(o); err != nil {
			t.Fatal(err)
		}
		want = append(want, o)
	}
	if e.Room() != HeaderLen+32 || e.Waiting() != 30 {
		t.Fatalf("Room() = %d, Waiting() = %d", e.Room(), e.Waiting())
	}
	var stream []byte
	for _, v := range []struct{ room, waiting int }{{4, 30}, {7, 30}, {4 + 11, 26}, {4 + 12, 15}, {4 + 15, 8}, {e.Room(), 0}, {4, 0}} {
		b := append(make([]byte, v.room), '.')
		unit, err := e.Unit(b, v.room, 1)
		if err != nil || e.Waiting() != v.waiting {
			t.Errorf("room %d: %d wait, want %d; %v", v.room, e.Waiting(), v.waiting, err)
		}
		stream = append(stream, unit...)
	}
	got := decodeAll(t, &Decoder{}, [][]byte{stream})
	if string(got.payload) != "......." || len(got.options) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i, o := range got.options {
		equal(t, "option", o.Option, want[i])
	}
}

func TestEncoderRefuses(t *testing.T) {
	e := Encoder{Limit: 10}
	for _, o := range []Option{nil, {1}, {0}, {30}, {30, 1}, {30, 3}, {30, 2, 0}, {30, 2, 30, 2}} {
		if err := e.Queue(o); !errors.Is(err, ErrEncode) {
			t.Errorf("%v: %v", []byte(o), err)
		}
	}
	if err := e.Queue(append(Option{30, 10}, make([]byte, 8)...)); err != nil {
		t.Fatal(err)
	}
	if err := e.Queue(Option{30, 2}); !errors.Is(err, ErrQueueFull) || e.Waiting() != 10 {
		t.Error(err)
	}
	b := make([]byte, 100)
	for _, v := range []struct{ room, n int }{{3, 1}, {0, 0}, {-1, 1}, {4, -1}, {4, 97}, {101, 0}, {4, MaxPayload + 1}} {
		if _, err := e.Unit(b, v.room, v.n); !errors.Is(err, ErrEncode) || e.Waiting() != 10 {
			t.Errorf("room %d for %d: %v", v.room, v.n, err)
		}
	}
	if _, err := e.Unit(make([]byte, MaxPayload+5), 4, MaxPayload+1); !errors.Is(err, ErrEncode) {
		t.Error("too long:", err)
	}
}

// A queue longer than what one unit can hold leaves in several.
func TestEncoderLongQueue(t *testing.T) {
	e := Encoder{Limit: 1 << 20}
	o := append(Option{99, 255}, make([]byte, 253)...)
	for range 600 {
		if err := e.Queue(o); err != nil {
			t.Fatal(err)
		}
	}
	var stream []byte
	for e.Waiting() > 0 {
		room := e.Room()
		unit, err := e.Unit(make([]byte, room), room, 0)
		if err != nil || len(unit) > HeaderLen+MaxOptions {
			t.Fatal(len(unit), err)
		}
		stream = append(stream, unit...)
	}
	if got := decodeAll(t, &Decoder{}, slices.Collect(slices.Chunk(stream, 1000))); len(got.options) != 600 {
		t.Errorf("%d options", len(got.options))
	}
}

func TestHeader(t *testing.T) {
	for _, h := range []Header{{}, {1, 0}, {0, 4}, {MaxPayload, MaxOptions}, {258, 1028}} {
		b, err := AppendHeader(nil, h)
		if err != nil {
			t.Fatal(err)
		}
		if got, n, err := ParseHeader(append(b, 9)); got != h || n != HeaderLen || err != nil {
			t.Errorf("%+v became %+v, %d, %v", h, got, n, err)
		}
		for n := range b {
			if _, _, err := ParseHeader(b[:n]); !errors.Is(err, ErrTruncated) {
				t.Errorf("prefix of %d: %v", n, err)
			}
		}
		if h.Empty() != bytes.Equal(b, []byte{0, 0, 0, 1}) {
			t.Errorf("%+v empty: %v", h, h.Empty())
		}
		for _, l := range []byte{0, 2, 3} {
			if _, _, err := ParseHeader([]byte{b[0], b[1], b[2], b[3]&^lenMask | l}); !errors.Is(err, ErrUnit) {
				t.Errorf("Len %d: %v", l, err)
			}
		}
	}
}

func TestOptionPrefixes(t *testing.T) {
	o, err := AppendOption(nil, 99, []byte("data"))
	if err != nil {
		t.Fatal(err)
	}
	for n := range o {
		if _, _, err := ParseOption(o[:n]); !errors.Is(err, ErrTruncated) {
			t.Errorf("prefix of %d: %v", n, err)
		}
		if err := CheckOptions(o[:n]); n > 0 && (!errors.Is(err, ErrOptions) || errors.Is(err, ErrTruncated)) {
			t.Errorf("list of %d: %v", n, err)
		}
	}
}

func FuzzOptions(f *testing.F) {
	f.Add([]byte{2, 4, 5, 180, 4, 2, 1, 69, 4, 0x21, 0x23})
	f.Add([]byte{253, 4, 0x49, 0x60, 0, 99, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		it := NewIterator(b)
		total := 0
		for o, ok := it.Next(); ok; o, ok = it.Next() {
			if again, err := AppendOption(nil, o.Kind(), o.Data()); err != nil || !bytes.Equal(again, o) {
				t.Fatalf("%x became %x, %v", o, again, err)
			}
			_ = o.String()
			total += len(o)
		}
		if total > len(b) || (it.Err() == nil) != (CheckOptions(b) == nil) {
			t.Fatalf("%d octets of options in %d, %v", total, len(b), it.Err())
		}
		for id := range registry {
			Message(b, id)
		}
	})
}

var benchSizes = []int{64, 1400, 63708, MaxPayload}

// Each is per unit, without the copy that nobody makes.
func BenchmarkEncode(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			var e Encoder
			buf := make([]byte, HeaderLen+size)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.Unit(buf, HeaderLen, size); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("option", func(b *testing.B) {
		var e Encoder
		buf := make([]byte, HeaderLen+8+1400)
		o := Option(AppendRekey(nil, 7))
		b.ReportAllocs()
		for b.Loop() {
			if err := e.Queue(o); err != nil {
				b.Fatal(err)
			}
			if _, err := e.Unit(buf, HeaderLen+8, 1400); err != nil || e.Waiting() > 0 {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	run := func(name string, options []byte, size int) {
		b.Run(name, func(b *testing.B) {
			unit, err := AppendUnit(nil, options, make([]byte, size))
			if err != nil {
				b.Fatal(err)
			}
			var d Decoder
			b.ReportAllocs()
			for b.Loop() {
				for rest := unit; len(rest) > 0; {
					n, _, err := d.Next(rest)
					if err != nil {
						b.Fatal(err)
					}
					rest = rest[n:]
				}
			}
		})
	}
	for _, size := range benchSizes {
		run(fmt.Sprint(size), nil, size)
	}
	run("option", AppendRekey(nil, 7), 1400)
}
