package host

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// DropTable keeps the kernel's own TCP from the segments that are ours: it drops them at the ingress hook of the
// interface, after packet sockets have had their copy and before the kernel could answer with a reset. Only what is sent
// to an address of this host is dropped; what the host merely forwards is not.
//
// It is the table "netdev innertun", and vanishes with the process.
type DropTable struct {
	mu    sync.Mutex
	owned *nftTable
	ports *nftables.Set
	chain *nftables.Chain
}

// NewDropTable makes the table for one interface, with nothing to drop yet. Errors: [*TableError], unix.ENODEV.
func NewDropTable(device string) (*DropTable, error) {
	// The kernel would take the name of an interface that is not there, and wait for it.
	if _, err := netlink.LinkByName(device); errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, fmt.Errorf("drop rules: interface %q: %w", device, unix.ENODEV)
	} else if err != nil {
		return nil, fmt.Errorf("drop rules: interface %q: %w", device, err)
	}
	owned, err := openTable(nftables.TableFamilyNetdev, "netdev")
	if err != nil {
		return nil, err
	}
	t := &DropTable{owned: owned}
	t.ports = &nftables.Set{Table: owned.table, ID: 1, Name: "ports", KeyType: nftables.TypeInetService, Interval: true}
	accept := nftables.ChainPolicyAccept
	t.chain = &nftables.Chain{
		Table: owned.table, Name: "ingress", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookIngress,
		Priority: nftables.ChainPriorityRef(-500), Policy: &accept, Device: device,
	}
	err = owned.conn.AddSet(t.ports, nil)
	if err == nil {
		owned.conn.AddChain(t.chain)
		err = owned.flush()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("drop rules on %s: %w", device, err), t.Close())
	}
	return t, nil
}

// Set replaces, in one step, what is dropped: TCP to ports, and TCP to served, where an unspecified address stands for
// all of its family.
func (t *DropTable) Set(ports Ports, served []netip.AddrPort) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	conn := t.owned.conn
	conn.FlushChain(t.chain)
	conn.FlushSet(t.ports)
	if len(ports) > 0 {
		if err := conn.SetAddElements(t.ports, portElements(ports)); err != nil {
			return err
		}
		t.owned.addRule(t.chain, isTCP(), []expr.Any{loadDestinationPort(), inSet(t.ports)}, fibLocal(expr.CmpOpEq), verdict(expr.VerdictDrop))
	}
	for _, at := range served {
		addr := at.Addr().Unmap()
		to := []expr.Any{loadDestination(addr.Is4()), equal(addr.AsSlice())}
		if addr.IsUnspecified() {
			to = fibLocal(expr.CmpOpEq)
		}
		port := portElements(Ports{{at.Port(), at.Port()}})[0].Key
		t.owned.addRule(t.chain, metaIs(expr.MetaKeyPROTOCOL, etherType(addr)), isTCP(), []expr.Any{loadDestinationPort(), equal(port)}, to,
			verdict(expr.VerdictDrop))
	}
	return t.owned.flush()
}

// Close removes the table.
func (t *DropTable) Close() error { return t.owned.Close() }
