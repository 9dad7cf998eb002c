package elements

import (
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"innertun/integration/lab"
)

// Type is the type of a parameter.
type Type uint8

const (
	Int         Type = iota // a whole number, not negative
	Size                    // octets: a number, or one with KiB, MiB or GiB
	Rate                    // bits per second: a number, or one with kbit, Mbit or Gbit
	Probability             // 0 to 1
	Duration                // as "20ms"
	Bool
	Word     // one of the choices
	Words    // some of the choices
	KindList // TCP option kinds, or "unknown"
	Seed     // a number from 1
	Hex      // octets in hexadecimal
	Text     // free
)

func (t Type) String() string {
	switch t {
	case Int:
		return "number"
	case Size:
		return "octets"
	case Rate:
		return "bit/s"
	case Probability:
		return "probability"
	case Duration:
		return "time"
	case Bool:
		return "true or false"
	case Word:
		return "word"
	case Words:
		return "words"
	case KindList:
		return "option kinds"
	case Seed:
		return "number"
	case Hex:
		return "hexadecimal"
	}
	return "text"
}

// args are the values of a kind's parameters, all there and of the right types.
type args struct{ values map[string]any }

func (a args) int(name string) int            { return a.values[name].(int) }
func (a args) float(name string) float64      { return a.values[name].(float64) }
func (a args) time(name string) time.Duration { return a.values[name].(time.Duration) }
func (a args) bool(name string) bool          { return a.values[name].(bool) }
func (a args) word(name string) string        { return a.values[name].(string) }
func (a args) words(name string) []string     { return a.values[name].([]string) }
func (a args) kinds(name string) lab.Kinds    { return a.values[name].(lab.Kinds) }
func (a args) hex(name string) []byte         { return a.values[name].([]byte) }
func (a args) side(name string) lab.End {
	return map[string]lab.End{"a": lab.A, "b": lab.B}[a.word(name)]
}
func (a args) segments(n string) lab.Segments  { return segmentWords[a.word(n)] }
func (a args) answer(name string) lab.Answer   { return answerWords[a.word(name)] }
func (a args) message(name string) lab.Message { return messageWords[a.word(name)] }

// atLeast wants a number not below another.
func (a args) atLeast(name string, low int) error {
	if n := a.int(name); n < low {
		return fmt.Errorf("%w: %s = %d: expected at least %d", ErrParam, name, n, low)
	}
	return nil
}

// read checks what was given against the parameters of the kind.
func (k Kind) read(given map[string]any) (args, error) {
	a := args{make(map[string]any)}
	var names []string
	for _, p := range k.AllParams() {
		names = append(names, p.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(given)) { // first: what is misspelt is missing too
		if !slices.Contains(names, name) {
			return a, fmt.Errorf("%s: %w: it has no %s (it has: %s)", k.Name, ErrParam, name, strings.Join(names, ", "))
		}
	}
	for _, p := range k.AllParams() {
		v, ok := given[p.Name]
		if !ok {
			if p.Default == nil {
				return a, fmt.Errorf("%s: %w: %s is missing (%s: %s)", k.Name, ErrParam, p.Name, p.Type, p.Help)
			}
			v = p.Default
		}
		value, err := p.parse(v)
		if err != nil {
			return a, fmt.Errorf("%s: %w: %s = %v: %w", k.Name, ErrParam, p.Name, v, err)
		}
		a.values[p.Name] = value
	}
	return a, nil
}

// parse turns a value as TOML or a command line gives it into the parameter's type.
func (p Param) parse(v any) (any, error) {
	text, isText := v.(string)
	switch p.Type {
	case Int:
		return whole(v, nil)
	case Size:
		return whole(v, map[string]int{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30})
	case Rate:
		return whole(v, map[string]int{"kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9})
	case Seed:
		if text == "" && isText {
			return uint64(0), nil
		}
		n, err := whole(v, nil)
		if err == nil && n == 0 {
			err = fmt.Errorf("expected a number from 1")
		}
		return uint64(n), err
	case Probability:
		return probability(v)
	case Duration:
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 {
			return nil, fmt.Errorf(`expected a time, as "20ms" or "1.5s"`)
		}
		return d, nil
	case Bool:
		if b, ok := v.(bool); ok {
			return b, nil
		}
		if text != "true" && text != "false" {
			return nil, fmt.Errorf("expected true or false")
		}
		return text == "true", nil
	case Word:
		if !isText || !slices.Contains(p.Choices, text) {
			return nil, fmt.Errorf("expected one of: %s", strings.Join(p.Choices, ", "))
		}
		return text, nil
	case Words:
		words, err := list(v)
		for _, w := range words {
			if !slices.Contains(p.Choices, w) {
				err = fmt.Errorf("expected some of: %s", strings.Join(p.Choices, ", "))
			}
		}
		return words, err
	case KindList:
		return kinds(v)
	case Hex:
		b, err := hex.DecodeString(text)
		if err != nil || !isText || len(b) > 38 {
			return nil, fmt.Errorf("expected at most 38 octets in hexadecimal")
		}
		return b, nil
	}
	if !isText {
		return nil, fmt.Errorf("expected text")
	}
	return text, nil
}

// whole is a number that is not negative, with one of the units, which may be nil.
func whole(v any, units map[string]int) (int, error) {
	expected := "expected a whole number, not negative"
	if len(units) > 0 {
		expected += ", with " + strings.Join(slices.SortedFunc(maps.Keys(units), func(a, b string) int { return units[a] - units[b] }), " or ") + " or without"
	}
	factor := 1
	var n int64
	switch v := v.(type) {
	case int64:
		n = v
	case int:
		n = int64(v)
	case string:
		for u, f := range units {
			if rest, ok := strings.CutSuffix(v, u); ok {
				v, factor = strings.TrimSpace(rest), f
				break
			}
		}
		var err error
		if n, err = strconv.ParseInt(v, 10, 64); err != nil {
			return 0, fmt.Errorf("%s", expected)
		}
	default:
		return 0, fmt.Errorf("%s", expected)
	}
	if n < 0 || n > math.MaxInt64/int64(factor) {
		return 0, fmt.Errorf("%s", expected)
	}
	return int(n) * factor, nil
}

func probability(v any) (float64, error) {
	f := math.NaN()
	switch v := v.(type) {
	case float64:
		f = v
	case int64:
		f = float64(v)
	case int:
		f = float64(v)
	case string:
		if n, err := strconv.ParseFloat(v, 64); err == nil {
			f = n
		}
	}
	if !(f >= 0 && f <= 1) {
		return 0, fmt.Errorf("expected a probability from 0 to 1")
	}
	return f, nil
}

// list is a list of words; on a command line they are joined by "+".
func list(v any) (words []string, err error) {
	switch v := v.(type) {
	case string:
		return strings.Split(v, "+"), nil
	case []string:
		return v, nil
	case int64, int:
		return []string{fmt.Sprint(v)}, nil
	case []any:
		for _, x := range v {
			switch x.(type) {
			case string, int64, int:
				words = append(words, fmt.Sprint(x))
			default:
				return nil, fmt.Errorf("%v is neither a word nor a number", x)
			}
		}
		return words, nil
	}
	return nil, fmt.Errorf("expected a list")
}

func kinds(v any) (lab.Kinds, error) {
	words, err := list(v)
	if err != nil {
		return lab.Kinds{}, err
	}
	if slices.Equal(words, []string{"unknown"}) {
		return lab.UnknownKinds(), nil
	}
	var numbers []uint8
	for _, w := range words {
		n, err := strconv.ParseUint(w, 10, 8)
		if err != nil || n < 2 {
			return lab.Kinds{}, fmt.Errorf(`expected option kinds from 2 to 255, or "unknown"`)
		}
		numbers = append(numbers, uint8(n))
	}
	if len(numbers) == 0 {
		return lab.Kinds{}, fmt.Errorf("the list is empty")
	}
	return lab.KindsOf(numbers...), nil
}
