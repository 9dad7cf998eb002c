package config

import (
	"fmt"
	"strings"
)

// lineIndex tells on which line of a TOML text each key and list element starts. Paths are written "tcpinc.policy",
// "rule[1].to[0]". The text must be valid TOML: the library has parsed it before and reports no positions of its own.
type lineIndex map[string]int

func indexLines(text string) lineIndex {
	s := &scanner{text: text, line: 1, at: lineIndex{}, tables: map[string]int{}}
	s.document()
	return s.at
}

type scanner struct {
	text   string
	pos    int
	line   int
	at     lineIndex
	tables map[string]int // elements so far of each array of tables
}

func (s *scanner) peek() byte {
	if s.pos < len(s.text) {
		return s.text[s.pos]
	}
	return 0
}

func (s *scanner) done() bool { return s.pos >= len(s.text) }

func (s *scanner) next() byte {
	c := s.peek()
	s.pos++
	if c == '\n' {
		s.line++
	}
	return c
}

// space skips blanks, line ends and comments.
func (s *scanner) space() {
	for !s.done() {
		switch s.peek() {
		case ' ', '\t', '\r', '\n':
			s.next()
		case '#':
			for !s.done() && s.peek() != '\n' {
				s.next()
			}
		default:
			return
		}
	}
}

func (s *scanner) document() {
	prefix := ""
	for s.space(); !s.done(); s.space() {
		if s.peek() != '[' {
			s.pair(prefix)
			continue
		}
		line := s.line
		s.next()
		array := s.peek() == '['
		if array {
			s.next()
		}
		prefix = s.header(array)
		s.mark(prefix, line)
		for !s.done() && s.peek() != '\n' {
			s.next()
		}
	}
}

// header reads the name of a table up to its bracket; a name that leads through an array of tables means its last
// element.
func (s *scanner) header(array bool) string {
	parts := s.key(']')
	path := ""
	for i, part := range parts {
		path = join(path, part)
		n, isArray := s.tables[path]
		switch {
		case i == len(parts)-1 && array:
			s.tables[path] = n + 1
			path = fmt.Sprintf("%s[%d]", path, n)
		case isArray:
			path = fmt.Sprintf("%s[%d]", path, n-1)
		}
	}
	return path
}

func (s *scanner) mark(path string, line int) {
	if _, ok := s.at[path]; !ok {
		s.at[path] = line
	}
}

func join(prefix, key string) string {
	if prefix == "" {
		return key
	}
	return prefix + "." + key
}

// pair reads key = value.
func (s *scanner) pair(prefix string) {
	line := s.line
	path := prefix
	for _, part := range s.key('=') {
		path = join(path, part)
		s.mark(path, line)
	}
	s.value(path)
}

// key reads the parts of a dotted key, up to and with end.
func (s *scanner) key(end byte) []string {
	var parts []string
	for !s.done() {
		switch c := s.peek(); c {
		case end:
			s.next()
			return parts
		case ' ', '\t', '.':
			s.next()
		case '"', '\'':
			start := s.pos + 1
			s.quoted()
			parts = append(parts, s.text[start:s.pos-1])
		default:
			start := s.pos
			for !s.done() && !strings.ContainsRune(" \t.\"'=]", rune(s.peek())) {
				s.next()
			}
			if s.pos == start { // a bracket or equals sign out of place: not TOML
				s.next()
				continue
			}
			parts = append(parts, s.text[start:s.pos])
		}
	}
	return parts
}

// quoted skips a string of any of TOML's four forms.
func (s *scanner) quoted() {
	q := s.text[s.pos : s.pos+1]
	long := strings.Repeat(q, 3)
	if !strings.HasPrefix(s.text[s.pos:], long) {
		s.until(q)
		return
	}
	s.pos += 2
	s.until(long)
	for s.peek() == q[0] { // quotes that belong to the text
		s.next()
	}
}

// until skips the quote at hand and all up to and with end.
func (s *scanner) until(end string) {
	escapes := s.next() == '"'
	for !s.done() && !strings.HasPrefix(s.text[s.pos:], end) {
		if s.next() == '\\' && escapes {
			s.next()
		}
	}
	s.pos += len(end)
}

func (s *scanner) value(path string) {
	s.space()
	switch s.peek() {
	case '"', '\'':
		s.quoted()
	case '[':
		s.next()
		for i := 0; ; i++ {
			s.list()
			if s.done() {
				return
			}
			if s.peek() == ']' {
				s.next()
				return
			}
			element := fmt.Sprintf("%s[%d]", path, i)
			s.mark(element, s.line)
			s.value(element)
		}
	case '{':
		s.next()
		for {
			s.list()
			if s.done() {
				return
			}
			if s.peek() == '}' {
				s.next()
				return
			}
			s.pair(path)
		}
	default:
		for !s.done() && !strings.ContainsRune(",]}#\n", rune(s.peek())) {
			s.next()
		}
	}
}

// list goes to the next element of a list or inline table, or to its end.
func (s *scanner) list() {
	for s.space(); s.peek() == ',' && !s.done(); s.space() {
		s.next()
	}
}
