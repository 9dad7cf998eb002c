package host

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// MarkConfig says which connections are marked, and how.
type MarkConfig struct {
	Egress     string // connections that would leave by this interface
	TUN        string // what comes in by this one gets the mark too, for the reverse-path filter
	Mark, Mask uint32 // mark bits, within the bits that are ours
}

// MarkTable gives a mark to the new outgoing TCP connections of this host that would leave by one interface, so that a
// policy rule can send them elsewhere. Connections are known by their first SYN: those that were open before it, inbound
// ones, and those of sockets with a mark of their own (SO_MARK) never get it.
//
// It is the table "inet innertun", and vanishes with the process.
type MarkTable struct {
	cfg   MarkConfig
	mu    sync.Mutex
	owned *nftTable
	out   *nftables.Chain
	sets  [2]*nftables.Set // IPv4, IPv6 destinations
}

// NewMarkTable makes the table, with nothing marked until the first Set. Errors: [*TableError].
func NewMarkTable(cfg MarkConfig) (*MarkTable, error) {
	owned, err := openTable(nftables.TableFamilyINet, "inet")
	if err != nil {
		return nil, err
	}
	t := &MarkTable{cfg: cfg, owned: owned}
	t.sets[0] = &nftables.Set{Table: owned.table, ID: 1, Name: "routes4", KeyType: nftables.TypeIPAddr, Interval: true}
	t.sets[1] = &nftables.Set{Table: owned.table, ID: 2, Name: "routes6", KeyType: nftables.TypeIP6Addr, Interval: true}
	accept := nftables.ChainPolicyAccept
	t.out = &nftables.Chain{
		Table: owned.table, Name: "out", Type: nftables.ChainTypeRoute, Hooknum: nftables.ChainHookOutput,
		Priority: nftables.ChainPriorityMangle, Policy: &accept,
	}
	pre := &nftables.Chain{
		Table: owned.table, Name: "pre", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting,
		Priority: nftables.ChainPriorityRaw, Policy: &accept,
	}
	replies := &nftables.Chain{
		Table: owned.table, Name: "replies", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting,
		Priority: nftables.ChainPriorityMangle, Policy: &accept,
	}
	err = errors.Join(owned.conn.AddSet(t.sets[0], nil), owned.conn.AddSet(t.sets[1], nil))
	if err == nil {
		owned.conn.AddChain(t.out)
		owned.conn.AddChain(pre)
		owned.conn.AddChain(replies)
		owned.addRule(pre, interfaceIs(expr.MetaKeyIIFNAME, cfg.TUN), t.setPacketMark())
		// What answers a packet from the TUN goes back there, even where connection tracking has lost the connection.
		owned.addRule(replies, interfaceIs(expr.MetaKeyIIFNAME, cfg.TUN), t.setConnectionMark())
		t.ruleMarked()
		err = owned.flush()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("marking rules for %s: %w", cfg.Egress, err), t.Close())
	}
	return t, nil
}

// ruleMarked: every packet of a connection that has the mark gets it too.
func (t *MarkTable) ruleMarked() {
	t.owned.addRule(t.out,
		hasConnectionMark(t.cfg.Mark, t.cfg.Mask),
		t.setPacketMark(), verdict(expr.VerdictAccept))
}

// ruleNew: the first SYN of a connection that is to be diverted gives it the mark.
func (t *MarkTable) ruleNew(is4 bool, destinations *nftables.Set) {
	t.owned.addRule(t.out,
		interfaceIs(expr.MetaKeyOIFNAME, t.cfg.Egress),
		isTCP(),
		isSYN(),
		metaIs(expr.MetaKeyMARK, native32(0)),
		[]expr.Any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: reg}, equal([]byte{0})}, // original
		metaIs(expr.MetaKeyNFPROTO, nfproto(is4)),
		[]expr.Any{loadDestination(is4), inSet(destinations)},
		fibLocal(expr.CmpOpNeq),
		t.setConnectionMark(),
		t.setPacketMark())
}

func (t *MarkTable) setConnectionMark() []expr.Any {
	return setConnectionMark(t.cfg.Mark, t.cfg.Mask)
}

func (t *MarkTable) setPacketMark() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg}, masked(^t.cfg.Mask, t.cfg.Mark),
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg, SourceRegister: true},
	}
}

// Set replaces the destinations whose new connections are marked: those in routes and not in exclude. IPv6 link-local
// destinations mean something on one interface only and are never marked. Connections that have the mark keep it.
func (t *MarkTable) Set(routes, exclude []netip.Prefix) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	exclude = append([]netip.Prefix{netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfe, 0x80}), 10)}, exclude...)
	// Nothing is marked while the sets are half full: large ones take several transactions.
	t.owned.conn.FlushChain(t.out)
	t.ruleMarked()
	for _, set := range t.sets {
		t.owned.conn.FlushSet(set)
	}
	if err := t.owned.flush(); err != nil {
		return err
	}
	for i, set := range t.sets {
		if err := t.owned.addElements(set, addrElements(cover(routes, exclude, i == 0))); err != nil {
			return err
		}
		t.ruleNew(i == 0, set)
	}
	return t.owned.flush()
}

// Close removes the table.
func (t *MarkTable) Close() error { return t.owned.Close() }

// HasIPv6 reports whether the kernel speaks IPv6 in this network namespace.
func HasIPv6() bool {
	var st unix.Stat_t
	return unix.Stat(sysctlRoot+"/net/ipv6/conf/all", &st) == nil
}
