package innerspace

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"innertun/tcpinc/eno"
)

// Every strict prefix of every option of the registry fails, as what it is.
func TestControlPrefixes(t *testing.T) {
	for _, v := range readVectors(t).Controls {
		for n := range v.Octets {
			if _, _, err := recodeControl(v.ExID, v.Octets[:n]); !errors.Is(err, ErrTruncated) {
				t.Fatalf("%s: prefix of %d: %v", v.Name, n, err)
			}
		}
		if _, n, err := recodeControl(v.ExID, append(slices.Clone(v.Octets), 7)); n != len(v.Octets) || err != nil {
			t.Errorf("%s: with more behind it: took %d, %v", v.Name, n, err)
		}
	}
}

func TestControlsMalformed(t *testing.T) {
	experiment := func(id ExID, body ...byte) []byte {
		b, err := AppendExperiment(nil, id, body)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, v := range map[string]struct {
		id   ExID
		b    []byte
		want error
	}{
		"another ExID":         {ExIDRekey, experiment(ExIDMTU, 0, 0, 0, 1), ErrNotOption},
		"kind 254":             {ExIDRekey, []byte{254, 8, 0x49, 0x61, 0, 0, 0, 1}, ErrNotOption},
		"another kind":         {ExIDMTU, []byte{2, 4, 5, 180}, ErrNotOption},
		"no room for an ExID":  {ExIDMTU, []byte{253, 3, 0x49}, ErrNotOption},
		"length 1":             {ExIDMTU, []byte{253, 1, 0x49, 0x63}, ErrOptions},
		"NOP first":            {ExIDMTU, []byte{1, 253, 6, 0x49, 0x63, 5, 0}, ErrNotOption},
		"rekey of 3":           {ExIDRekey, experiment(ExIDRekey, 0, 0, 1), ErrBody},
		"rekey of 5":           {ExIDRekey, experiment(ExIDRekey, 0, 0, 0, 0, 1), ErrBody},
		"mtu below 68":         {ExIDMTU, experiment(ExIDMTU, 0, 67), ErrBody},
		"mtu of 4":             {ExIDMTU, experiment(ExIDMTU, 0, 0, 5, 0), ErrBody},
		"close without a code": {ExIDClose, experiment(ExIDClose), ErrBody},
		"close, not UTF-8":     {ExIDClose, experiment(ExIDClose, 1, 0xff), ErrBody},
		"close with escape":    {ExIDClose, experiment(ExIDClose, 1, 0x1b, '[', '2', 'J'), ErrBody},
		"close with override":  {ExIDClose, experiment(ExIDClose, append([]byte{1}, "\u202e"...)...), ErrBody},
		"outer, nothing":       {ExIDOuter, experiment(ExIDOuter), ErrBody},
		"outer, cut":           {ExIDOuter, experiment(ExIDOuter, 8, 10, 0), ErrBody},
		"outer, two":           {ExIDOuter, experiment(ExIDOuter, 1, 1), ErrBody},
		"outer, length 1":      {ExIDOuter, experiment(ExIDOuter, 8, 1), ErrBody},
		"cookie, empty":        {ExIDCookie, experiment(ExIDCookie), ErrBody},
		"cookie, long":         {ExIDCookie, experiment(ExIDCookie, make([]byte, MaxCookie+1)...), ErrBody},
		"verdict 2":            {ExIDEarlyData, experiment(ExIDEarlyData, 2, 0, 0), ErrBody},
		"verdict alone":        {ExIDEarlyData, experiment(ExIDEarlyData, 1), ErrBody},
	} {
		if _, n, err := recodeControl(v.id, v.b); !errors.Is(err, v.want) || n != 0 {
			t.Errorf("%s: %v, took %d; want %v", name, err, n, v.want)
		}
	}
}

func TestControlsRefused(t *testing.T) {
	for name, f := range map[string]func(dst []byte) ([]byte, error){
		"kind EOL":        func(b []byte) ([]byte, error) { return AppendOption(b, KindEnd, nil) },
		"kind NOP":        func(b []byte) ([]byte, error) { return AppendOption(b, KindNop, nil) },
		"option of 256":   func(b []byte) ([]byte, error) { return AppendOption(b, 99, make([]byte, 254)) },
		"body of 252":     func(b []byte) ([]byte, error) { return AppendExperiment(b, ExIDInit, make([]byte, 252)) },
		"init of 4097":    func(b []byte) ([]byte, error) { return AppendInit(b, make([]byte, MaxMessage+1)) },
		"mtu":             func(b []byte) ([]byte, error) { return AppendMTU(b, 67) },
		"no outer option": func(b []byte) ([]byte, error) { return AppendOuter(b, nil) },
		"two outer":       func(b []byte) ([]byte, error) { return AppendOuter(b, Option{4, 2, 4, 2}) },
		"outer of 252": func(b []byte) ([]byte, error) {
			return AppendOuter(b, append(Option{99, 252}, make([]byte, 250)...))
		},
		"no cookie":   func(b []byte) ([]byte, error) { return AppendCookie(b, nil) },
		"long cookie": func(b []byte) ([]byte, error) { return AppendCookie(b, make([]byte, MaxCookie+1)) },
		"unit":        func(b []byte) ([]byte, error) { return AppendUnit(b, nil, make([]byte, MaxPayload+1)) },
		"unit, list":  func(b []byte) ([]byte, error) { return AppendUnit(b, []byte{30}, nil) },
		"header":      func(b []byte) ([]byte, error) { return AppendHeader(b, Header{Options: 2}) },
		"header, big": func(b []byte) ([]byte, error) { return AppendHeader(b, Header{Options: MaxOptions + 4}) },
		"header, neg": func(b []byte) ([]byte, error) { return AppendHeader(b, Header{Payload: -1}) },
	} {
		if got, err := f([]byte("dst")); !errors.Is(err, ErrEncode) || string(got) != "dst" {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
}

// A message longer than any limit is refused before it is held.
func TestAssemblerLimit(t *testing.T) {
	var a Assembler
	body := make([]byte, partSize)
	for part := range 2 * MaxMessage / partSize {
		if _, _, err := a.Add(body); err != nil {
			if !errors.Is(err, ErrMessageTooLong) || part != MaxMessage/partSize {
				t.Fatalf("part %d: %v", part, err)
			}
			if a.Pending() {
				t.Fatal("not forgotten")
			}
			return
		}
	}
	t.Fatal("no limit")
}

func TestMessage(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789"), 62)
	parts, err := AppendInit(nil, want)
	if err != nil {
		t.Fatal(err)
	}
	if len(parts) != 620+3*4 {
		t.Errorf("620 octets take %d", len(parts))
	}
	first := parts[:255]
	between := append(slices.Concat(first, []byte{1, 69, 3, 0x23, 254, 4, 0x49, 0x60}), parts[255:]...)
	for name, list := range map[string][]byte{"alone": parts, "others between": between} {
		got, ok, err := Message(list, ExIDInit)
		if !ok || err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d octets, %v, %v", name, len(got), ok, err)
		}
	}
	if _, ok, err := Message(parts, ExIDProof); ok || err != nil {
		t.Error("a message that is not there:", err)
	}
	for name, v := range map[string]struct {
		list []byte
		want error
	}{
		"twice":       {append(slices.Clone(parts), parts...), ErrSequence},
		"no end":      {first, ErrSequence},
		"no list":     {append(slices.Clone(parts), 30, 9), ErrOptions},
		"begun again": {append(slices.Clone(parts), first...), ErrSequence},
		"too long":    {bytes.Repeat(first, 17), ErrMessageTooLong},
	} {
		if got, ok, err := Message(v.list, ExIDInit); got != nil || ok || !errors.Is(err, v.want) {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
}

// A text for the peer is made fit, whatever it is made of.
func TestCloseText(t *testing.T) {
	for text, want := range map[string]string{
		"":                                      "",
		"plain":                                 "plain",
		"line\nbreak\x1b[":                      "line\ufffdbreak\ufffd[",
		"\xff\xfe":                              "\ufffd\ufffd",
		strings.Repeat("x", 300):                strings.Repeat("x", MaxCloseText),
		"x" + strings.Repeat("ä", MaxCloseText): "x" + strings.Repeat("ä", (MaxCloseText-1)/2),
	} {
		r, _, err := ParseClose(AppendClose(nil, CloseReason{CloseAborted, text}))
		if r.Text != want || r.Code != CloseAborted || err != nil || !utf8.ValidString(r.Text) {
			t.Errorf("%q became %q, %v", text, r.Text, err)
		}
	}
	if got := (CloseReason{CloseRefused, "gone"}).String() + "; " + (CloseReason{Code: 200}).String(); got != "refused: gone; code(200)" {
		t.Error(got)
	}
}

// What the registry has, and what it has not, can be seen.
func TestKnown(t *testing.T) {
	names := make(map[string]bool)
	for id, e := range registry {
		o, err := AppendExperiment(nil, id, []byte{1})
		if err != nil || !Option(o).Known() || names[e.name] || id == 0x4954 {
			t.Errorf("%v: %v", id, err)
		}
		names[e.name] = true
	}
	for _, v := range []struct {
		o    Option
		name string
	}{
		{Option{30, 3, 1}, "kind 30 (1 octets)"},
		{Option{253, 5, 0x12, 0x34, 9}, "kind 253 exid(0x1234) (1 octets)"},
		{Option{254, 4, 0x49, 0x60}, "kind 254 init (0 octets)"},
		{Option{253, 2}, "kind 253 (0 octets)"},
		{nil, "no option"},
	} {
		if len(v.o) > 0 && v.o.Known() || v.o.String() != v.name {
			t.Errorf("%v, known %v; want %s", v.o, len(v.o) > 0 && v.o.Known(), v.name)
		}
	}
}

// The mark stands first in an ENO option as design and RFC 8547, Section 4.5 want it.
func TestMark(t *testing.T) {
	o := eno.Option{Suboptions: append(AppendMark(nil), eno.Suboption{TEP: 0x21}, eno.Suboption{TEP: 0x23})}
	b, err := eno.AppendOption(nil, o)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "ENO", b, []byte{69, 8, 0x81, 0xa0, 0x49, 0x53, 0x21, 0x23})
	got, _, err := eno.ParseOption(b)
	if err != nil || !HasMark(got) {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"none":          {69, 3, 0x23},
		"without v":     {69, 4, 0x20, 0x23},
		"other data":    {69, 7, 0x81, 0xa0, 0x49, 0x54, 0x23},
		"more data":     {69, 8, 0x82, 0xa0, 0x49, 0x53, 0x00, 0x23},
		"another TEP":   {69, 7, 0x81, 0xa1, 0x49, 0x53, 0x23},
		"to the end of": {69, 5, 0xa0, 0x49, 0x00},
	} {
		if o, _, err := eno.ParseOption(b); err != nil || HasMark(o) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if o, _, err := eno.ParseOption([]byte{69, 5, 0xa0, 0x49, 0x53}); err != nil || !HasMark(o) {
		t.Error("last in the option:", err)
	}
	var n = eno.Option{Suboptions: []eno.Suboption{Mark()}}
	if n.Suboptions[0].TEP.Negotiable() {
		t.Error("the mark can be negotiated")
	}
}

func FuzzControls(f *testing.F) {
	for _, v := range readVectors(f).Controls {
		f.Add(uint16(v.ExID), []byte(v.Octets[:min(len(v.Octets), 800)]))
	}
	f.Add(uint16(ExIDInit), []byte{253, 6, 0x49, 0x60, 0x80, 1})
	f.Fuzz(func(t *testing.T, id uint16, b []byte) {
		if !ExID(id).Known() {
			id = uint16(ExIDInit) + id%uint16(len(registry))
		}
		again, n, err := recodeControl(ExID(id), b)
		if err != nil {
			if n != 0 {
				t.Fatalf("%v, and took %d", err, n)
			}
			return
		}
		if !bytes.Equal(again, b[:n]) {
			t.Fatalf("%x became %x", b[:n], again)
		}
	})
}
