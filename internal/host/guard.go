package host

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	guardName  = "innertun_guard"
	guardTable = "inet " + guardName
	maxComment = 128 // octets, as nft has it
)

// Guard keeps what an application sends on a connection that was marked ([MarkTable]) off every interface but the TUN and
// loopback, also when the process that marked it is dead: such a connection is reset to the application, and nothing of it
// leaves. It is the table "inet innertun_guard", and outlives the process.
//
// A connection begun after the marking table is gone is let through, even on the ports of one that was marked.
type Guard struct {
	TUN  string `json:"tun"`
	Mark uint32 `json:"mark"` // of packets and connections, as in [MarkConfig]
	Mask uint32 `json:"mask"`
}

func (g Guard) check() error {
	switch {
	case g.TUN == "" || len(g.TUN) >= unix.IFNAMSIZ:
		return fmt.Errorf("guard: %q cannot be the name of an interface", g.TUN)
	case g.Mark == 0 || g.Mark&^g.Mask != 0:
		return fmt.Errorf("guard: mark %#x must be non-zero and within its mask %#x", g.Mark, g.Mask)
	}
	return nil
}

// AddGuard makes the guard's table. Undoing first ends the connections that still have the mark, so that none of them is
// left to send in clear when the table is gone. Errors: [*TableError].
func (j *Journal) AddGuard(g Guard) (*Change, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	// The comment tells the table from another one that has its name.
	e := Entry{Kind: KindGuard, Name: guardTable, Written: fmt.Sprintf("innertun, pid %d", os.Getpid()), Guard: &g}
	return j.do(e, func() (io.Closer, error) { return g.add(e.Written) })
}

func dialGuard() (*nftTable, error) {
	return dialTable(&nftables.Table{Name: guardName, Family: nftables.TableFamilyINet})
}

// add makes the table, and keeps the socket: while it is open, no other program's flush of all rules takes the table away,
// if the kernel can do that (Linux 6.9).
func (g Guard) add(comment string) (io.Closer, error) {
	t, err := dialGuard()
	if err != nil {
		return nil, err
	}
	data := netlink.Attribute{Type: tableData, Data: commentData(comment)}
	err = t.create(guardTable, flagsAttribute(tableOwned|tablePersist), data)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		err = t.create(guardTable, data)
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	g.rules(t)
	if err := t.flush(); err != nil {
		return nil, errors.Join(fmt.Errorf("guard rules: %w", err), t.remove(), t.Close())
	}
	return t, nil
}

// rules are in two chains. While the process lives, the marking table marks each packet of a marked connection and so leads
// it into the TUN. One that the output hook sees without its mark is of a connection whose process has died; there a reset
// can be sent. The output hook is told the interface that was meant before the marking, so what has its mark and leaves
// elsewhere all the same, for the policy rule or the TUN has been removed, is dropped in the postrouting hook.
func (g Guard) rules(t *nftTable) {
	accept := nftables.ChainPolicyAccept
	output := t.conn.AddChain(&nftables.Chain{
		Table: t.table, Name: "output", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput,
		Priority: nftables.ChainPriorityFilter, Policy: &accept,
	})
	leaving := t.conn.AddChain(&nftables.Chain{
		Table: t.table, Name: "leaving", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPostrouting,
		Priority: nftables.ChainPriorityFilter, Policy: &accept,
	})
	marked := slices.Concat(interfaceIsNot(expr.MetaKeyOIFNAME, "lo"), isTCP(), hasConnectionMark(g.Mark, g.Mask))
	orphan := append(slices.Clone(marked),
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg}, masked(g.Mask, 0),
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: native32(g.Mark)})
	unmark := setConnectionMark(0, g.Mask)
	answered := []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: reg}, masked(expr.CtStateBitESTABLISHED, 0),
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: native32(0)},
	}
	reset := []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}
	// A SYN where there was an answer before: a new connection on the ports of an old one.
	t.addRule(output, orphan, isSYN(), answered, unmark, verdict(expr.VerdictAccept))
	// One that waited for an answer when the process died is told once; who tries again is new.
	t.addRule(output, orphan, isSYN(), unmark, reset)
	t.addRule(output, orphan, reset)
	t.addRule(leaving, marked, interfaceIsNot(expr.MetaKeyOIFNAME, g.TUN), verdict(expr.VerdictDrop))
}

// remove ends what the guard holds back, then takes its table away; none, or one that somebody else made, is left as it is.
func (g Guard) remove(comment string, log *slog.Logger) error {
	t, err := dialGuard()
	if err != nil {
		return err
	}
	defer t.Close()
	found := ""
	err = t.look(func(d *netlink.AttributeDecoder) {
		if d.Type() == tableData {
			found = string(d.Bytes())
		}
	})
	gone := errors.Is(err, os.ErrNotExist)
	if err != nil && !gone {
		return fmt.Errorf("look at nftables table %s: %w", guardTable, err)
	}
	if ended, err := endMarked(g.Mark, g.Mask); err != nil {
		log.Warn("cannot end the connections that were diverted; what they still send leaves in clear from now on", "err", err)
	} else if ended > 0 {
		log.Info("ended connections that were diverted", "connections", ended)
	}
	if gone {
		return nil
	}
	if found != string(commentData(comment)) {
		log.Warn("this nftables table is somebody else's by now and is left alone", "table", guardTable)
		return nil
	}
	return t.remove()
}

func (t *nftTable) remove() error {
	t.conn.DelTable(t.table)
	if err := t.flush(); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// commentData is user data as nft prints it as a comment: type (0), length, string with its zero octet.
func commentData(comment string) []byte {
	return append(append([]byte{0, byte(len(comment) + 1)}, comment...), 0)
}
