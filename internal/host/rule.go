package host

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Family is an address family of a policy rule.
type Family string

const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

// Rule is a policy rule: packets whose mark under Mask is Mark are routed by Table.
type Rule struct {
	Family   Family `json:"family"`
	Priority uint32 `json:"priority"`
	Mark     uint32 `json:"mark"`
	Mask     uint32 `json:"mask"`
	Table    uint32 `json:"table"`
}

func (r Rule) String() string {
	return fmt.Sprintf("%s rule %d: fwmark %#x/%#x lookup %d", r.Family, r.Priority, r.Mark, r.Mask, r.Table)
}

func (r Rule) check() error {
	switch {
	case r.Family != IPv4 && r.Family != IPv6:
		return fmt.Errorf("policy rule: family %q is neither ipv4 nor ipv6", r.Family)
	case r.Mark == 0 || r.Mark&^r.Mask != 0:
		return fmt.Errorf("policy rule: mark %#x must be non-zero and within its mask %#x", r.Mark, r.Mask)
	case r.Priority == 0 || r.Priority >= 32766:
		return fmt.Errorf("policy rule: priority %d is not in 1-32765, before the main table's", r.Priority)
	case r.Table == 0 || r.Table == unix.RT_TABLE_LOCAL || r.Table == unix.RT_TABLE_MAIN || r.Table == unix.RT_TABLE_DEFAULT ||
		r.Table > 1<<31-1:
		return fmt.Errorf("policy rule: routing table %d is not free for use", r.Table)
	}
	return nil
}

func (r Rule) netlink() *netlink.Rule {
	n := netlink.NewRule()
	n.Family = unix.AF_INET
	if r.Family == IPv6 {
		n.Family = unix.AF_INET6
	}
	n.Priority = int(r.Priority)
	n.Mark = r.Mark
	n.Mask = &r.Mask
	n.Table = int(r.Table)
	return n
}

func (r Rule) add() error {
	if err := netlink.RuleAdd(r.netlink()); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("%s exists already and is not ours: remove it or choose another mark: %w", r, err)
		}
		return fmt.Errorf("add %s: %w", r, err)
	}
	return nil
}

// remove takes the rule away; one that is not there is no error.
func (r Rule) remove() error {
	err := netlink.RuleDel(r.netlink())
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil
	}
	return fmt.Errorf("remove %s: %w", r, err)
}
