package host

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
)

const reservedPorts = "net/ipv4/ip_local_reserved_ports"

// ReservePorts keeps the kernel from choosing any of ports as the source of a connection
// (net.ipv4.ip_local_reserved_ports, for both families). A program that binds one by name still gets it. Undoing puts
// the list back as it was; what others have added or removed since is kept.
func (j *Journal) ReservePorts(ports Ports) (*Change, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	previous, err := readReservedPorts()
	if err != nil {
		return nil, err
	}
	written := previous.Union(ports)
	e := Entry{Kind: KindPorts, Previous: previous.String(), Written: written.String()}
	return j.do(e, func() (io.Closer, error) { return nil, WriteSysctl(reservedPorts, e.Written) })
}

func readReservedPorts() (Ports, error) {
	value, err := Sysctl(reservedPorts)
	if err != nil {
		return nil, err
	}
	return ParsePorts(value)
}

// AddRule adds a policy rule.
func (j *Journal) AddRule(r Rule) (*Change, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.do(Entry{Kind: KindRule, Rule: &r}, func() (io.Closer, error) { return nil, r.add() })
}

// Hold opens something that the kernel removes when the process ends, a table ([KindTable]) or an interface ([KindTUN]),
// so that it is closed in its turn; or makes a Unix socket at the path name ([KindSocket]), whose file is removed.
func (j *Journal) Hold(kind Kind, name string, open func() (io.Closer, error)) (*Change, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if kind != KindTable && kind != KindTUN && kind != KindSocket {
		return nil, fmt.Errorf("a %s cannot be held", kind)
	}
	return j.do(Entry{Kind: kind, Name: name}, open)
}

// undo takes one change back. What is no longer there counts as undone.
func (e Entry) undo(log *slog.Logger) error {
	switch e.Kind {
	case KindPorts:
		return e.undoPorts()
	case KindRule:
		return e.Rule.remove()
	case KindGuard:
		return e.Guard.remove(e.Written, log)
	case KindSocket:
		return removeSocket(e.Name)
	}
	return nil // tables and interfaces went with the process or with what held them
}

func (e Entry) undoPorts() error {
	previous, err := ParsePorts(e.Previous)
	if err != nil {
		return err
	}
	written, err := ParsePorts(e.Written)
	if err != nil {
		return err
	}
	now, err := readReservedPorts()
	if err != nil {
		return err
	}
	ours := written.Without(previous)
	if rest := now.Without(ours); !rest.Equal(now) {
		return WriteSysctl(reservedPorts, rest.String())
	}
	return nil
}

// removeSocket removes a socket file and nothing else.
func removeSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("remove socket: %s is something else by now", path)
	}
	return removeIfThere(path)
}
