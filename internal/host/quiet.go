package host

import (
	"errors"
	"fmt"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// QuietTable keeps the kernel's own TCP from the segments to some ports, on all interfaces: packet sockets have had their
// copy when it drops them, and no reset answers them. Only what is sent to an address of this host is dropped.
//
// It is the table "inet innertun_probe_PID", so that it can stand beside those of a daemon, and vanishes with the process.
type QuietTable struct{ owned *nftTable }

// NewQuietTable makes the table. Errors: [*TableError], os.ErrPermission.
func NewQuietTable(ports Ports) (*QuietTable, error) {
	owned, err := openNamed(fmt.Sprintf("%s_probe_%d", tableName, os.Getpid()), nftables.TableFamilyINet, "inet")
	if err != nil {
		return nil, err
	}
	t := &QuietTable{owned}
	set := &nftables.Set{Table: owned.table, ID: 1, Name: "ports", KeyType: nftables.TypeInetService, Interval: true}
	accept := nftables.ChainPolicyAccept
	// Before the connections are tracked: the kernel has not seen what they answer.
	chain := &nftables.Chain{
		Table: owned.table, Name: "prerouting", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting,
		Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityRaw - 1), Policy: &accept,
	}
	err = owned.conn.AddSet(set, portElements(ports))
	if err == nil {
		owned.conn.AddChain(chain)
		owned.addRule(chain, isTCP(), []expr.Any{loadDestinationPort(), inSet(set)}, fibLocal(expr.CmpOpEq), verdict(expr.VerdictDrop))
		err = owned.flush()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("drop rules for ports %s: %w", ports, err), t.Close())
	}
	return t, nil
}

// Close removes the table.
func (t *QuietTable) Close() error { return t.owned.Close() }
