package elements

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ParseSpec reads an element as a word of a command line: NAME, or NAME:KEY=VALUE,KEY=VALUE. Lists are joined by "+". The
// name and values are checked by Build.
func ParseSpec(text string) (Spec, error) {
	name, rest, has := strings.Cut(text, ":")
	s := Spec{Element: name, Params: make(map[string]any)}
	if name == "" {
		return s, fmt.Errorf("%w: %q begins with no name", ErrUnknownElement, text)
	}
	if !has {
		return s, nil
	}
	for _, pair := range strings.Split(rest, ",") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return s, fmt.Errorf("%s: %w: %q is not KEY=VALUE", name, ErrParam, pair)
		}
		if _, twice := s.Params[key]; twice {
			return s, fmt.Errorf("%s: %w: %s is given twice", name, ErrParam, key)
		}
		s.Params[key] = value
	}
	return s, nil
}

// SpecOf reads an element as a table of an experiment file: its name under "element", its parameters beside it.
func SpecOf(table map[string]any) (Spec, error) {
	name, ok := table["element"].(string)
	if !ok {
		return Spec{}, fmt.Errorf(`%w: a table of a path needs element = "NAME"`, ErrUnknownElement)
	}
	s := Spec{Element: name, Params: maps.Clone(table)}
	delete(s.Params, "element")
	return s, nil
}

// String writes it as ParseSpec reads it, parameters in alphabetical order.
func (s Spec) String() string {
	var b strings.Builder
	b.WriteString(s.Element)
	for i, key := range slices.Sorted(maps.Keys(s.Params)) {
		sep := ","
		if i == 0 {
			sep = ":"
		}
		value := fmt.Sprint(s.Params[key])
		if words, err := list(s.Params[key]); err == nil {
			value = strings.Join(words, "+")
		}
		fmt.Fprintf(&b, "%s%s=%s", sep, key, value)
	}
	return b.String()
}
