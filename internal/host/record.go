package host

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

// Kind says what an [Entry] is about, and so how it is undone.
type Kind string

const (
	KindPorts  Kind = "reserved-ports" // Previous and Written lists of ports
	KindRule   Kind = "rule"           // Rule
	KindSocket Kind = "socket"         // Name: path of a Unix socket
	KindTable  Kind = "nft-table"      // Name: "family name"; goes away with its process
	KindTUN    Kind = "tun"            // Name of the interface; goes away with its process
	KindGuard  Kind = "guard"          // Name: "family name" of its table; Written: the table's comment; Guard
)

// Entry is one change to be undone.
type Entry struct {
	Kind     Kind   `json:"kind"`
	Name     string `json:"name,omitempty"`
	Previous string `json:"previous,omitempty"`
	Written  string `json:"written,omitempty"`
	Rule     *Rule  `json:"rule,omitempty"`
	Guard    *Guard `json:"guard,omitempty"`
}

// Record is what a process leaves on disk while it lives.
type Record struct {
	Version     int       `json:"version"`
	PID         int       `json:"pid"`
	Namespace   Namespace `json:"namespace"`
	Directories []string  `json:"directories,omitempty"` // made for the control socket, outermost first
	Undo        []Entry   `json:"undo"`                  // in the order they were made
}

const (
	recordVersion = 1
	maxRecord     = 1 << 20 // octets; a real one has a few hundred
)

// ErrRecord is what every error of [ParseRecord] wraps.
var ErrRecord = errors.New("not a record of innertun's changes")

// AppendRecord appends the JSON form of r to dst.
func AppendRecord(dst []byte, r Record) ([]byte, error) {
	if r.Undo == nil {
		r.Undo = []Entry{}
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return dst, fmt.Errorf("encode record: %w", err)
	}
	return append(append(dst, b...), '\n'), nil
}

// ParseRecord reads a record. It admits nothing that undoing could not carry out: it is root who does.
func ParseRecord(b []byte) (Record, error) {
	var r Record
	if len(b) > maxRecord {
		return Record{}, fmt.Errorf("%w: %d octets, at most %d", ErrRecord, len(b), maxRecord)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return Record{}, fmt.Errorf("%w: something follows it", ErrRecord)
	}
	if r.Version != recordVersion {
		return Record{}, fmt.Errorf("%w: version %d, this innertun knows %d", ErrRecord, r.Version, recordVersion)
	}
	if r.Namespace.Inode == 0 || r.Namespace.Boot == "" {
		return Record{}, fmt.Errorf("%w: no network namespace", ErrRecord)
	}
	for _, dir := range r.Directories {
		if err := checkPath(dir); err != nil {
			return Record{}, fmt.Errorf("%w: directory: %w", ErrRecord, err)
		}
	}
	for i, e := range r.Undo {
		if err := e.check(); err != nil {
			return Record{}, fmt.Errorf("%w: entry %d: %w", ErrRecord, i+1, err)
		}
	}
	return r, nil
}

func (e Entry) check() error {
	if (e.Rule != nil) != (e.Kind == KindRule) {
		return fmt.Errorf("kind %q with a rule that does not belong or without one that does", e.Kind)
	}
	if (e.Guard != nil) != (e.Kind == KindGuard) {
		return fmt.Errorf("kind %q with a guard that does not belong or without one that does", e.Kind)
	}
	switch e.Kind {
	case KindPorts:
		_, err := ParsePorts(e.Previous)
		if _, writtenErr := ParsePorts(e.Written); err == nil {
			err = writtenErr
		}
		return err
	case KindRule:
		return e.Rule.check()
	case KindSocket:
		return checkPath(e.Name)
	case KindGuard:
		if e.Name != guardTable || e.Written == "" || len(e.Written) > maxComment {
			return fmt.Errorf("guard: table %q with comment %q is none of ours", e.Name, e.Written)
		}
		return e.Guard.check()
	case KindTable, KindTUN:
		if e.Name == "" {
			return fmt.Errorf("%s without a name", e.Kind)
		}
		return nil
	}
	return fmt.Errorf("unknown kind %q", e.Kind)
}

func checkPath(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || strings.Contains(path, "\x00") {
		return fmt.Errorf("%q is not a clean absolute path", path)
	}
	return nil
}
