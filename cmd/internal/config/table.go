package config

// Table is one table of a TOML text that is no configuration of the daemon. What is wrong with its keys is collected, with
// lines, until Err.
type Table struct{ *table }

// ParseTable reads a text and returns its root table. Error: *Error.
func ParseTable(file, text string) (Table, error) {
	t, _, err := parse(file, text)
	return Table{t}, err
}

// Has reports whether there is such a key.
func (t Table) Has(name string) bool { return t.has(name) }

// String sets *to from a key, if it is there.
func (t Table) String(name string, to *string) { t.str(name, to) }

// Bool sets *to from a key, if it is there.
func (t Table) Bool(name string, to *bool) { t.boolean(name, to) }

// Int sets *to from a key, if it is there.
func (t Table) Int(name string, low, high int64, to *int64) { t.integer(name, low, high, to) }

// Value returns a key as the TOML library has read it.
func (t Table) Value(name string) (any, bool) { return t.get(name) }

// Values returns what a key lists; one value is a list of one.
func (t Table) Values(name string) []any {
	v, ok := t.get(name)
	if !ok {
		return nil
	}
	switch l := v.(type) {
	case []any:
		return l
	case []map[string]any:
		var all []any
		for _, m := range l {
			all = append(all, m)
		}
		return all
	}
	return []any{v}
}

// Tables returns the tables of a [[name]].
func (t Table) Tables(name string) (all []Table) {
	for _, s := range t.subs(name) {
		all = append(all, Table{s})
	}
	return all
}

// Table returns the table of a [name]; ok: there is one.
func (t Table) Table(name string) (sub Table, ok bool) {
	s := t.sub(name)
	return Table{s}, s != nil
}

// Fail says what is wrong with a key.
func (t Table) Fail(name, format string, args ...any) { t.fail(name, format, args...) }

// Done complains about every key that was not asked for.
func (t Table) Done() { t.done() }

// Err joins all that was found wrong in the text, in its order; each is an *Error.
func (t Table) Err() error { return t.doc.err() }
