package config

import (
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/BurntSushi/toml"
)

// Error is one thing wrong with a configuration file, or with a flag.
type Error struct {
	File string // empty: the command line
	Line int    // 0: not known
	Key  string
	Msg  string // what is wrong and what is expected
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File + ":")
		if e.Line > 0 {
			fmt.Fprintf(&b, "%d:", e.Line)
		}
		b.WriteByte(' ')
	}
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	return b.String() + e.Msg
}

// document is a parsed file and what was found wrong with it so far.
type document struct {
	file  string
	lines lineIndex
	errs  []*Error
}

func (d *document) fail(path, format string, args ...any) {
	d.errs = append(d.errs, &Error{File: d.file, Line: d.line(path), Key: path, Msg: fmt.Sprintf(format, args...)})
}

// line of path, or of the nearest key around it that the file has.
func (d *document) line(path string) int {
	for path != "" {
		for _, p := range []string{path, path + "[0]"} {
			if n, ok := d.lines[p]; ok {
				return n
			}
		}
		cut := strings.LastIndexAny(path, ".[")
		path = path[:max(cut, 0)]
	}
	return 0
}

// err joins all that was found, in the order of the file.
func (d *document) err() error {
	sort.SliceStable(d.errs, func(i, j int) bool { return d.errs[i].Line < d.errs[j].Line })
	var all []error
	for _, e := range d.errs {
		all = append(all, e)
	}
	return errors.Join(all...)
}

// table is one table of the file. Every key asked for is known; done complains about the rest.
type table struct {
	doc  *document
	path string
	m    map[string]any
	seen map[string]bool
}

// parse returns the root table of text.
func parse(file, text string) (*table, *document, error) {
	var m map[string]any
	if _, err := toml.Decode(text, &m); err != nil {
		var p toml.ParseError
		if errors.As(err, &p) {
			return nil, nil, &Error{File: file, Line: lineOf(p, text), Key: p.LastKey, Msg: p.Message}
		}
		return nil, nil, &Error{File: file, Msg: err.Error()}
	}
	d := &document{file: file, lines: indexLines(text)}
	return d.table("", m), d, nil
}

// lineOf is the line a syntax error is on. The library's own count takes one at the end of a line to be on the next.
func lineOf(p toml.ParseError, text string) int {
	return 1 + strings.Count(text[:min(max(p.Position.Start, 0), len(text))], "\n")
}

func (d *document) table(path string, m map[string]any) *table {
	return &table{doc: d, path: path, m: m, seen: map[string]bool{}}
}

func (t *table) key(name string) string { return join(t.path, name) }

func (t *table) fail(name, format string, args ...any) { t.doc.fail(t.key(name), format, args...) }

func (t *table) get(name string) (any, bool) {
	t.seen[name] = true
	v, ok := t.m[name]
	return v, ok
}

func (t *table) has(name string) bool {
	_, ok := t.m[name]
	return ok
}

// done complains about every key that nobody asked for.
func (t *table) done() {
	var known []string
	for k := range t.seen {
		known = append(known, k)
	}
	sort.Strings(known)
	for k := range t.m {
		if !t.seen[k] {
			t.fail(k, "unknown key; known here: %s", strings.Join(known, ", "))
		}
	}
}

// value sets *to from a key, if it is there and of the type of *to.
func value[T any](t *table, name, expected string, to *T) bool {
	v, ok := t.get(name)
	if !ok {
		return false
	}
	x, ok := v.(T)
	if !ok {
		t.fail(name, "is %s, expected %s", typeName(v), expected)
		return false
	}
	*to = x
	return true
}

func (t *table) str(name string, to *string) bool { return value(t, name, "a string", to) }
func (t *table) boolean(name string, to *bool) bool {
	return value(t, name, "true or false", to)
}

func (t *table) integer(name string, low, high int64, to *int64) bool {
	var n int64
	if !value(t, name, fmt.Sprintf("a number from %d to %d", low, high), &n) {
		return false
	}
	if n < low || n > high {
		t.fail(name, "%d is out of range, expected a number from %d to %d", n, low, high)
		return false
	}
	*to = n
	return true
}

// list calls f for each element of a list, with its path.
func (t *table) list(name, expected string, f func(path string, v any)) bool {
	var l []any
	v, ok := t.get(name)
	if !ok {
		return false
	}
	switch v := v.(type) {
	case []any:
		l = v
	case []map[string]any:
		for _, m := range v {
			l = append(l, m)
		}
	default:
		t.fail(name, "is %s, expected a list of %s", typeName(v), expected)
		return false
	}
	for i, v := range l {
		f(fmt.Sprintf("%s[%d]", t.key(name), i), v)
	}
	return true
}

// strings sets *to from a list of strings.
func (t *table) strings(name, expected string, check func(string) error, to *[]string) bool {
	out := []string{}
	ok := t.list(name, expected, func(path string, v any) {
		s, ok := v.(string)
		if !ok {
			t.doc.fail(path, "is %s, expected %s", typeName(v), expected)
			return
		}
		if err := check(s); err != nil {
			t.doc.fail(path, "%v", err)
			return
		}
		out = append(out, s)
	})
	if ok {
		*to = out
	}
	return ok
}

// sub returns a table below, or nil if there is none.
func (t *table) sub(name string) *table {
	v, ok := t.get(name)
	if !ok {
		return nil
	}
	m, ok := v.(map[string]any)
	if !ok {
		t.fail(name, "is %s, expected a table: [%s]", typeName(v), t.key(name))
		return nil
	}
	return t.doc.table(t.key(name), m)
}

// subs returns the tables of a [[name]].
func (t *table) subs(name string) []*table {
	var out []*table
	t.list(name, "tables: [["+t.key(name)+"]]", func(path string, v any) {
		m, ok := v.(map[string]any)
		if !ok {
			t.doc.fail(path, "is %s, expected a table", typeName(v))
			return
		}
		out = append(out, t.doc.table(path, m))
	})
	return out
}

func typeName(v any) string {
	switch v := v.(type) {
	case string:
		return fmt.Sprintf("the string %q", v)
	case bool:
		return fmt.Sprintf("%t", v)
	case int64:
		return fmt.Sprintf("the number %d", v)
	case float64:
		return fmt.Sprintf("the number %g", v)
	case map[string]any:
		return "a table"
	case []any, []map[string]any:
		return "a list"
	}
	return "a date"
}
