package config

import (
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Ports is a range of port numbers, both ends in it.
type Ports struct{ Low, High uint16 }

// Contains reports whether p is in the range.
func (r Ports) Contains(p uint16) bool { return r.Low <= p && p <= r.High }

func (r Ports) String() string {
	if r.Low == r.High {
		return strconv.Itoa(int(r.Low))
	}
	return fmt.Sprintf("%d-%d", r.Low, r.High)
}

// ParsePorts reads "8000-8100" or "80".
func ParsePorts(s string) (Ports, error) {
	low, high, isRange := strings.Cut(s, "-")
	if !isRange {
		high = low
	}
	l, err1 := strconv.ParseUint(strings.TrimSpace(low), 10, 16)
	h, err2 := strconv.ParseUint(strings.TrimSpace(high), 10, 16)
	if err1 != nil || err2 != nil || l == 0 {
		return Ports{}, fmt.Errorf("%q is no port range, expected like \"8000-8100\", from 1 to 65535", s)
	}
	if l > h {
		return Ports{}, fmt.Errorf("%q is empty: %d is above %d", s, l, h)
	}
	return Ports{uint16(l), uint16(h)}, nil
}

// ParseListen reads PORT, :PORT or IP:PORT. Without an IP the address is not valid: both families are meant.
func ParseListen(s string) (netip.AddrPort, error) {
	port, ok := strings.CutPrefix(s, ":")
	if n, err := strconv.ParseUint(port, 10, 16); err == nil && (ok || port == s) && n > 0 {
		return netip.AddrPortFrom(netip.Addr{}, uint16(n)), nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("%q is no address to listen on, expected PORT, :PORT or IP:PORT ([IP]:PORT for IPv6)", s)
	}
	return ap, nil
}

// ParseForward reads IP:PORT, where an octet stream is to be forwarded to.
func ParseForward(s string) (netip.AddrPort, error) {
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("%q is no address to forward to, expected IP:PORT ([IP]:PORT for IPv6)", s)
	}
	return ap, nil
}

// ParsePrefix reads "198.18.0.0/15", or an address, which is a prefix of full length.
func ParsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is no prefix, expected like \"198.18.0.0/15\", \"fd00::/8\" or an address", s)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%q has bits set beyond its length; %q is meant?", s, p.Masked())
	}
	return p, nil
}

// ParseSize reads a number of octets: "16GiB", "512MiB", "64KiB", "4096B" or "4096".
func ParseSize(s string) (uint64, error) {
	wrong := fmt.Errorf("%q is no size, expected like \"16GiB\", \"512MiB\", \"64KiB\" or a number of octets", s)
	shift := 0
	number := s
	for suffix, by := range map[string]int{"KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40} {
		if rest, ok := strings.CutSuffix(s, suffix); ok {
			number, shift = rest, by
		}
	}
	if shift == 0 {
		number = strings.TrimSuffix(s, "B")
	}
	n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 64)
	if err != nil || n == 0 || n > math.MaxUint64>>shift {
		return 0, wrong
	}
	return n << shift, nil
}

// ParseDuration reads "1h", "90s" and the like; it must be above zero.
func ParseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is no duration, expected like \"1h\", \"10m\" or \"90s\"", s)
	}
	return d, nil
}

// interfaceName is what Linux takes: up to 15 characters, none a slash, colon or blank.
var interfaceName = regexp.MustCompile(`^[^/:\s\x00-\x1f]{1,15}$`)

func checkInterface(s string) error {
	if !interfaceName.MatchString(s) || s == "." || s == ".." {
		return fmt.Errorf("%q is no interface name, expected 1 to 15 characters without blanks, '/' and ':'", s)
	}
	return nil
}

// glob is a pattern of host names: each * stands for any characters, dots as well.
type glob struct{ parts []string }

var nameChars = regexp.MustCompile(`^[a-z0-9_*.-]+$`)

func parseGlob(s string) (glob, error) {
	low := canonicalName(s)
	if !nameChars.MatchString(low) || len(low) > 253 || strings.Contains(low, "..") {
		return glob{}, fmt.Errorf("%q is no prefix, address or name, expected like \"198.18.0.0/15\" or \"*.example.net\"", s)
	}
	// Digits and dots only would be a name that nobody has, but an address with a slip in it.
	if strings.Trim(low, "0123456789.") == "" {
		return glob{}, fmt.Errorf("%q is no IP address", s)
	}
	return glob{strings.Split(low, "*")}, nil
}

// match takes a canonical name.
func (g glob) match(name string) bool {
	first, last := g.parts[0], g.parts[len(g.parts)-1]
	if len(g.parts) == 1 {
		return name == first
	}
	rest, ok := strings.CutPrefix(name, first)
	if !ok {
		return false
	}
	for _, part := range g.parts[1 : len(g.parts)-1] {
		i := strings.Index(rest, part)
		if i < 0 {
			return false
		}
		rest = rest[i+len(part):]
	}
	return strings.HasSuffix(rest, last)
}

// canonicalName is a name as it is compared: lower case, without the root's dot.
func canonicalName(s string) string { return strings.ToLower(strings.TrimSuffix(s, ".")) }
