package tun

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"innertun/internal/host"
)

// What a zero field of [Config] stands for. The mark bits are ones that Docker, Kubernetes, Calico and Tailscale leave
// alone.
const (
	DefaultName     = "inner0"
	DefaultMTU      = 1500
	DefaultMark     = 0x01000000
	DefaultMask     = 0x03000000
	DefaultTable    = 18771
	DefaultPriority = 1000
)

const (
	minMTU = 1280 // what IPv6 needs (RFC 8200, Section 5)
	maxMTU = 65535
)

// ErrConfig is what every error about a [Config] wraps.
var ErrConfig = errors.New("tun: bad configuration")

// Config says what to make and what to divert into it.
type Config struct {
	Name     string         // of the device, at most 15 octets
	MTU      int            // octets, 1280-65535
	Routes   []netip.Prefix // destinations that are diverted
	Excludes []netip.Prefix // destinations among them that are not
	Egress   string         // the physical interface: only what would leave by it is diverted

	Mark, MarkMask uint32 // of diverted packets and connections; the mask has a bit that the mark has not
	Table          uint32 // routing table of our own
	Priority       uint32 // of the policy rule, 1-32765

	Journal *host.Journal
	Logger  *slog.Logger // nil: discard
}

func (c Config) withDefaults() Config {
	if c.Name == "" {
		c.Name = DefaultName
	}
	if c.MTU == 0 {
		c.MTU = DefaultMTU
	}
	if c.Mark == 0 && c.MarkMask == 0 {
		c.Mark, c.MarkMask = DefaultMark, DefaultMask
	}
	if c.Table == 0 {
		c.Table = DefaultTable
	}
	if c.Priority == 0 {
		c.Priority = DefaultPriority
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) check() error {
	switch {
	case c.Journal == nil:
		return fmt.Errorf("%w: no journal", ErrConfig)
	case !goodName(c.Name):
		return fmt.Errorf("%w: %q cannot be the name of an interface (1 to %d octets, no space, slash, colon or per cent)", ErrConfig, c.Name, unix.IFNAMSIZ-1)
	case !goodName(c.Egress):
		return fmt.Errorf("%w: egress interface %q cannot be the name of an interface", ErrConfig, c.Egress)
	case c.Name == c.Egress:
		return fmt.Errorf("%w: %q is both the device and the interface to leave by", ErrConfig, c.Name)
	case c.MTU < minMTU || c.MTU > maxMTU:
		return fmt.Errorf("%w: MTU %d is not in %d-%d", ErrConfig, c.MTU, minMTU, maxMTU)
	case c.Mark == 0 || c.Mark&^c.MarkMask != 0 || c.Mark == c.MarkMask:
		return fmt.Errorf("%w: mark %#x must be non-zero, within its mask %#x, and leave a bit of it for exempt sockets", ErrConfig, c.Mark, c.MarkMask)
	}
	return checkPrefixes(c.Routes, c.Excludes)
}

func checkPrefixes(lists ...[]netip.Prefix) error {
	for _, list := range lists {
		for _, p := range list {
			if !p.IsValid() || p.Addr().Is4In6() {
				return fmt.Errorf("%w: %q is not an IPv4 or IPv6 prefix", ErrConfig, p)
			}
		}
	}
	return nil
}

func goodName(name string) bool {
	return name != "" && len(name) < unix.IFNAMSIZ && name != "." && name != ".." && !strings.ContainsAny(name, "/: \t\n%\x00")
}
