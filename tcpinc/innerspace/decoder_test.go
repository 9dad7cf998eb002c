package innerspace

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"
)

// found is all that a Decoder found in a stream. Its options are copies.
type found struct {
	payload []byte
	options []Item
	spans   int
}

// decode hands a stream over piece by piece and checks what holds of every Item.
func decode(t testing.TB, d *Decoder, pieces [][]byte) (got found, err error) {
	t.Helper()
	for _, b := range pieces {
		for len(b) > 0 {
			n, item, err := d.Next(b)
			if n < 0 || n > len(b) || n == 0 && err == nil {
				t.Fatalf("took %d of %d octets", n, len(b))
			}
			if err != nil {
				if _, _, again := d.Next(b); again != err {
					t.Fatalf("error %v became %v", err, again)
				}
				return got, err
			}
			if len(item.Payload) > 0 && item.Option != nil {
				t.Fatal("payload and option in one item")
			}
			if len(item.Payload) > 0 {
				if at := uintptr(unsafe.Pointer(&item.Payload[0])) - uintptr(unsafe.Pointer(&b[0])); at+uintptr(len(item.Payload)) != uintptr(n) {
					t.Fatal("payload was copied")
				}
				if item.Position != uint64(len(got.payload)) {
					t.Fatalf("payload at %d, want %d", item.Position, len(got.payload))
				}
				got.payload = append(got.payload, item.Payload...)
				got.spans++
			}
			if item.Option != nil {
				if item.Position != uint64(len(got.payload)) {
					t.Fatalf("option at %d, want %d", item.Position, len(got.payload))
				}
				item.Option = slices.Clone(item.Option)
				got.options = append(got.options, item)
			}
			b = b[n:]
		}
	}
	return got, nil
}

// decodeAll is decode for a stream in order.
func decodeAll(t testing.TB, d *Decoder, pieces [][]byte) found {
	t.Helper()
	got, err := decode(t, d, pieces)
	if err == nil {
		err = d.Finish()
	}
	if err != nil {
		t.Fatal(err)
	}
	if d.Position() != uint64(len(got.payload)) {
		t.Fatalf("Position() = %d, want %d", d.Position(), len(got.payload))
	}
	return got
}

// randomStream makes units with an Encoder and AppendUnit in turn, and says what is in them.
func randomStream(r *rand.Rand) (stream []byte, want found) {
	var e Encoder
	for range 1 + r.IntN(12) {
		var options []byte
		for range r.IntN(4) * r.IntN(2) {
			o := randomOption(r)
			options = append(options, o...)
			want.options = append(want.options, Item{Option: o, Position: uint64(len(want.payload))})
			if err := e.Queue(o); err != nil {
				panic(err)
			}
		}
		payload := randomOctets(r, r.IntN(2)*r.IntN(1<<uint(r.IntN(13))))
		want.payload = append(want.payload, payload...)
		if r.IntN(2) == 0 {
			room := e.Room() + r.IntN(3)
			b := append(make([]byte, room), payload...)
			unit, err := e.Unit(b, room, len(payload))
			if err != nil {
				panic(err)
			}
			stream = append(stream, unit...)
			continue
		}
		var err error
		if stream, err = AppendUnit(stream, options, payload); err != nil {
			panic(err)
		}
		e.queue = e.queue[:0]
	}
	return stream, want
}

func randomOption(r *rand.Rand) Option {
	o, err := AppendOption(nil, byte(2+r.IntN(254)), randomOctets(r, r.IntN(1+r.IntN(MaxOption-optionHeader+1))))
	if err != nil {
		panic(err)
	}
	return o
}

func randomOctets(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// cut cuts a stream into pieces of random length.
func cut(r *rand.Rand, b []byte) (pieces [][]byte) {
	most := 1 << uint(r.IntN(14))
	for len(b) > 0 {
		n := min(len(b), 1+r.IntN(most))
		pieces = append(pieces, b[:n])
		b = b[n:]
	}
	return pieces
}

func seeded(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %#x", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// Segment boundaries do not matter: any cut of a stream gives the same.
func TestResegmentation(t *testing.T) {
	r := seeded(t)
	for range 400 {
		stream, want := randomStream(r)
		for range 4 {
			got := decodeAll(t, &Decoder{}, cut(r, stream))
			if !bytes.Equal(got.payload, want.payload) {
				t.Fatal("payload differs")
			}
			if !slices.EqualFunc(got.options, want.options, func(a, b Item) bool {
				return bytes.Equal(a.Option, b.Option) && a.Position == b.Position
			}) {
				t.Fatalf("options differ\n got %v\nwant %v", got.options, want.options)
			}
		}
	}
}

// A stream may end between two units and nowhere else.
func TestEveryPrefix(t *testing.T) {
	var stream []byte
	ends := map[int]bool{0: true}
	for _, u := range []struct{ options, payload string }{
		{"", "payload"}, {"\x1e\x05abc\x01\x1f\x02", ""}, {"", ""}, {"\x1e\x05abc", "more"}, {"\x00\x00\x00\x00", ""},
	} {
		var err error
		if stream, err = AppendUnit(stream, []byte(u.options), []byte(u.payload)); err != nil {
			t.Fatal(err)
		}
		ends[len(stream)] = true
	}
	for n := range len(stream) + 1 {
		for _, size := range []int{1, 3, n + 1} {
			var d Decoder
			if _, err := decode(t, &d, slices.Collect(slices.Chunk(stream[:n], size))); err != nil {
				t.Fatalf("prefix of %d: %v", n, err)
			}
			err := d.Finish()
			if ends[n] && err != nil || !ends[n] && (!errors.Is(err, ErrTruncated) || !errors.Is(err, io.ErrUnexpectedEOF)) {
				t.Errorf("prefix of %d: %v", n, err)
			}
		}
	}
}

func TestMalformedUnits(t *testing.T) {
	unit := func(h Header, rest ...byte) []byte {
		b, err := AppendHeader(nil, h)
		if err != nil {
			t.Fatal(err)
		}
		return append(b, rest...)
	}
	for name, v := range map[string]struct {
		stream  []byte
		want    error
		payload string // found before
	}{
		"Len 0":                       {[]byte{0, 0, 0, 0}, ErrUnit, ""},
		"Len 2":                       {[]byte{0, 1, 0, 2, 'x'}, ErrUnit, ""},
		"Len 3":                       {[]byte{0, 1, 0, 3, 'x'}, ErrUnit, ""},
		"Len 0 after a unit":          {append(unit(Header{Payload: 1}, 'x'), 0, 1, 0, 0, 'y'), ErrUnit, "x"},
		"length 0":                    {unit(Header{Payload: 1, Options: 4}, 30, 0, 0, 0, 'x'), ErrOptions, ""},
		"length 1":                    {unit(Header{Options: 4}, 1, 30, 1, 0), ErrOptions, ""},
		"past the end":                {unit(Header{Payload: 9, Options: 4}, 30, 5, 0, 0, 'x'), ErrOptions, ""},
		"kind in the last octet":      {unit(Header{Payload: 9, Options: 4}, 1, 1, 1, 30, 'x'), ErrOptions, ""},
		"length 1 beyond many octets": {unit(Header{Options: 260}, append(append([]byte{99, 255}, make([]byte, 253)...), 8, 1, 0, 0, 0)...), ErrOptions, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{1, 2, 3, len(v.stream)} {
				var d Decoder
				got, err := decode(t, &d, slices.Collect(slices.Chunk(v.stream, size)))
				if !errors.Is(err, v.want) || d.Finish() != err || string(got.payload) != v.payload {
					t.Errorf("in pieces of %d: %q, %v, %v", size, got.payload, err, d.Finish())
				}
			}
		})
	}
}

// Nothing counts after EOL, and the rest of the options is passed over, whatever it is.
func TestEndOfList(t *testing.T) {
	b, err := AppendUnit(nil, []byte{30, 2, 0, 30, 0, 99, 9, 9}, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1, 2, len(b)} {
		got := decodeAll(t, &Decoder{}, slices.Collect(slices.Chunk(b, size)))
		if string(got.payload) != "x" || len(got.options) != 1 {
			t.Errorf("%+v", got)
		}
	}
}

// Whatever comes, a Decoder takes no memory beyond itself.
func TestDecoderMemory(t *testing.T) {
	r := seeded(t)
	stream, _ := randomStream(r)
	full, err := AppendUnit(nil, bytes.Repeat([]byte{KindNop}, MaxOptions), make([]byte, MaxPayload))
	if err != nil {
		t.Fatal(err)
	}
	stream = append(stream, full...)
	pieces := cut(r, stream)
	if n := testing.AllocsPerRun(10, func() {
		var d Decoder
		for _, b := range pieces {
			for len(b) > 0 {
				n, _, err := d.Next(b)
				if err != nil {
					panic(err)
				}
				b = b[n:]
			}
		}
	}); n > 1 {
		t.Errorf("%v allocations", n)
	}
	if size := unsafe.Sizeof(Decoder{}); size > 384 {
		t.Errorf("a Decoder has %d octets", size)
	}
}

func FuzzDecoder(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 4 {
		stream, _ := randomStream(r)
		f.Add(stream[:min(len(stream), 600)], uint64(3))
	}
	f.Add([]byte{0, 2, 0, 5, 30, 2, 1, 0, 'h', 'i'}, uint64(1))
	f.Add([]byte{0, 1, 0, 2, 'x'}, uint64(2))
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		var whole, pieces Decoder
		want, wantErr := decode(t, &whole, [][]byte{b})
		got, err := decode(t, &pieces, cut(rand.New(rand.NewPCG(seed, 0)), b))
		if (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error() {
			t.Fatalf("whole %v, in pieces %v", wantErr, err)
		}
		if !bytes.Equal(got.payload, want.payload) || len(got.options) != len(want.options) {
			t.Fatalf("whole %v, in pieces %v", want, got)
		}
		if e := whole.Finish(); (e == nil) != (pieces.Finish() == nil) {
			t.Fatal(e, pieces.Finish())
		}
		for i, o := range got.options {
			if !bytes.Equal(o.Option, want.options[i].Option) || o.Position != want.options[i].Position {
				t.Fatalf("option %d: %v, %v", i, o, want.options[i])
			}
			if again, n, err := ParseOption(o.Option); err != nil || n != len(o.Option) || !bytes.Equal(again, o.Option) {
				t.Fatalf("option %x: %v", o.Option, err)
			}
		}
	})
}
