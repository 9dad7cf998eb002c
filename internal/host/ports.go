package host

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// PortRange is a range of TCP ports, both ends included.
type PortRange struct{ First, Last uint16 }

// Ports is a set of ports: ranges in ascending order that neither overlap nor touch.
type Ports []PortRange

// ErrPorts is what every error of [ParsePorts] wraps.
var ErrPorts = errors.New("not a list of ports")

// ParsePorts reads a list such as "80,61000-65535", as the kernel writes net.ipv4.ip_local_reserved_ports. The empty
// list is the empty set.
func ParsePorts(s string) (Ports, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return nil, nil
	}
	var ranges []PortRange
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		lo, err := parsePort(first)
		if err != nil {
			return nil, err
		}
		hi, err := parsePort(last)
		if err != nil {
			return nil, err
		}
		if lo > hi {
			return nil, fmt.Errorf("%w: %q ends before it begins", ErrPorts, part)
		}
		ranges = append(ranges, PortRange{lo, hi})
	}
	return NewPorts(ranges...), nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("%w: %q is not a port (0-65535)", ErrPorts, s)
	}
	return uint16(n), nil
}

// NewPorts returns the set of the ports in ranges, which may overlap and come in any order.
func NewPorts(ranges ...PortRange) Ports {
	sorted := slices.Clone(ranges)
	slices.SortFunc(sorted, func(a, b PortRange) int { return int(a.First) - int(b.First) })
	var out Ports
	for _, r := range sorted {
		if n := len(out); n > 0 && int(r.First) <= int(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}

// String returns the form that [ParsePorts] reads and the kernel writes.
func (p Ports) String() string {
	var b []byte
	for i, r := range p {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(r.First), 10)
		if r.Last != r.First {
			b = append(b, '-')
			b = strconv.AppendUint(b, uint64(r.Last), 10)
		}
	}
	return string(b)
}

// Contains reports whether port is in the set.
func (p Ports) Contains(port uint16) bool {
	return slices.ContainsFunc(p, func(r PortRange) bool { return r.First <= port && port <= r.Last })
}

// Len returns the number of ports.
func (p Ports) Len() int {
	n := 0
	for _, r := range p {
		n += int(r.Last) - int(r.First) + 1
	}
	return n
}

// List returns every port, in ascending order.
func (p Ports) List() []uint16 {
	out := make([]uint16, 0, p.Len())
	for _, r := range p {
		for port := int(r.First); port <= int(r.Last); port++ {
			out = append(out, uint16(port))
		}
	}
	return out
}

// Union returns the ports that are in p or in q.
func (p Ports) Union(q Ports) Ports { return NewPorts(append(slices.Clone(p), q...)...) }

// Without returns the ports of p that are not in q.
func (p Ports) Without(q Ports) Ports {
	var out Ports
	for _, r := range p {
		first, last := int(r.First), int(r.Last)
		for _, cut := range q {
			if int(cut.Last) < first || int(cut.First) > last {
				continue
			}
			if int(cut.First) > first {
				out = append(out, PortRange{uint16(first), cut.First - 1})
			}
			first = int(cut.Last) + 1
		}
		if first <= last {
			out = append(out, PortRange{uint16(first), uint16(last)})
		}
	}
	return out
}

// Equal reports whether p and q hold the same ports.
func (p Ports) Equal(q Ports) bool { return slices.Equal(p, q) }
