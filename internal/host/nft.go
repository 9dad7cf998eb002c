package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	tableName    = "innertun"
	tableOwned   = 0x2 // NFT_TABLE_F_OWNER, linux/netfilter/nf_tables.h (Linux 5.12)
	tablePersist = 0x4 // NFT_TABLE_F_PERSIST (Linux 6.9): outlives its owner
	tableData    = 6   // NFTA_TABLE_USERDATA (Linux 5.10)
	tableOwner   = 7   // NFTA_TABLE_OWNER
	nftTimeout   = 10 * time.Second
	elementBatch = 500 // set elements sent at once; a netlink attribute holds 64 KiB
)

// TableError says that the table cannot be made because there is one already: that of another innertun in the same
// network namespace, or one somebody made by hand.
type TableError struct {
	Table string // "family name"
	Err   error
}

func (e *TableError) Error() string {
	if errors.Is(e.Err, os.ErrPermission) {
		return fmt.Sprintf("nftables table %s belongs to another process: an innertun with another control socket runs in this network namespace, "+
			"and one namespace can have only one", e.Table)
	}
	if e.Table == guardTable {
		return fmt.Sprintf("nftables table %s exists: an innertun with another control socket was killed in this network namespace and has left it, "+
			"or still runs here; run \"innertun down\" with its control socket, or else \"nft delete table %s\"", e.Table, e.Table)
	}
	return fmt.Sprintf("nftables table %s exists and no process owns it: remove it with \"nft delete table %s\"", e.Table, e.Table)
}

func (e *TableError) Unwrap() error { return e.Err }

// nftTable is a table and the socket it is changed over. One that is owned is removed by the kernel when the socket is
// closed, hence at the latest when the process ends, and all that changes it must go over that socket.
type nftTable struct {
	conn   *nftables.Conn
	socket *netlink.Conn
	table  *nftables.Table
}

// dialTable opens a socket for a table that may be there or not.
func dialTable(table *nftables.Table) (*nftTable, error) {
	t := &nftTable{table: table}
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		t.socket = c
		return nil
	}))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	t.conn = conn
	return t, nil
}

// openTable makes an empty table that is owned, of the name that all of a daemon's have.
func openTable(family nftables.TableFamily, familyName string) (*nftTable, error) {
	return openNamed(tableName, family, familyName)
}

// openNamed makes an empty table that is owned.
func openNamed(table string, family nftables.TableFamily, familyName string) (*nftTable, error) {
	t, err := dialTable(&nftables.Table{Name: table, Family: family, Flags: tableOwned})
	if err != nil {
		return nil, err
	}
	name := familyName + " " + table
	if err := t.create(name, flagsAttribute(tableOwned)); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	if err := t.checkOwned(); err != nil {
		return nil, errors.Join(fmt.Errorf("nftables table %s: %w", name, err), t.Close())
	}
	return t, nil
}

// create makes the table, and fails if there is one. The nftables library writes the flags of a table as zero and no comment,
// so this is done here, over the library's own socket; chains, sets and rules are then the library's business.
func (t *nftTable) create(name string, attributes ...netlink.Attribute) error {
	err := t.sendCreate(attributes)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrExist) || errors.Is(err, os.ErrPermission) && os.Geteuid() == 0:
		return &TableError{Table: name, Err: err}
	}
	return fmt.Errorf("make nftables table %s: %w", name, err)
}

func (t *nftTable) sendCreate(attributes []netlink.Attribute) error {
	data, err := netlink.MarshalAttributes(append(attributes, t.nameAttribute()))
	if err != nil {
		return err
	}
	defer t.bounded()()
	subsystem := uint16(unix.NFNL_SUBSYS_NFTABLES)
	_, err = t.socket.SendMessages([]netlink.Message{
		{Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_BEGIN, Flags: netlink.Request}, Data: nfgenmsg(0, subsystem)},
		{
			Header: netlink.Header{
				Type:  netlink.HeaderType(subsystem<<8 | unix.NFT_MSG_NEWTABLE),
				Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Excl,
			},
			Data: append(nfgenmsg(byte(t.table.Family), 0), data...),
		},
		{Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_END, Flags: netlink.Request}, Data: nfgenmsg(0, subsystem)},
	})
	if err != nil {
		return err
	}
	_, err = t.socket.Receive()
	return err
}

func (t *nftTable) nameAttribute() netlink.Attribute {
	return netlink.Attribute{Type: unix.NFTA_TABLE_NAME, Data: append([]byte(t.table.Name), 0)}
}

func flagsAttribute(flags uint32) netlink.Attribute {
	return netlink.Attribute{Type: unix.NFTA_TABLE_FLAGS, Data: binary.BigEndian.AppendUint32(nil, flags)}
}

// nfgenmsg is the header of every nftables message: family, version, resource (big endian).
func nfgenmsg(family byte, resource uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
}

// checkOwned reads back whether the kernel took the flag and knows this socket as the owner: without it the table would
// outlive the process and cut connections for good.
func (t *nftTable) checkOwned() error {
	flags, owner := uint32(0), uint32(0)
	err := t.look(func(d *netlink.AttributeDecoder) {
		switch d.Type() {
		case unix.NFTA_TABLE_FLAGS:
			flags = d.Uint32()
		case tableOwner:
			owner = d.Uint32()
		}
	})
	if err != nil {
		return err
	}
	if flags&tableOwned == 0 || owner != t.socket.PID() {
		return errors.New("the kernel did not take us as its owner (Linux 5.12 or later is needed)")
	}
	return nil
}

// look reads the attributes of the table as the kernel has it. Errors: os.ErrNotExist.
func (t *nftTable) look(each func(*netlink.AttributeDecoder)) error {
	name, err := netlink.MarshalAttributes([]netlink.Attribute{t.nameAttribute()})
	if err != nil {
		return err
	}
	defer t.bounded()()
	replies, err := t.socket.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETTABLE, Flags: netlink.Request},
		Data:   append(nfgenmsg(byte(t.table.Family), 0), name...),
	})
	if err != nil {
		return err
	}
	for _, m := range replies {
		if len(m.Data) < 4 {
			continue
		}
		d, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return err
		}
		d.ByteOrder = binary.BigEndian
		for d.Next() {
			each(d)
		}
		if err := d.Err(); err != nil {
			return err
		}
	}
	return nil
}

// bounded sets a deadline on the exchange that follows, and returns what lifts it: the kernel answers at once or never.
func (t *nftTable) bounded() func() {
	// Both fail only on a closed socket, and so does the exchange.
	_ = t.socket.SetDeadline(time.Now().Add(nftTimeout))
	return func() { _ = t.socket.SetDeadline(time.Time{}) }
}

// flush sends what was queued on conn as one transaction.
func (t *nftTable) flush() error {
	defer t.bounded()()
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("change nftables table %s: %w", t.table.Name, err)
	}
	return nil
}

// addElements fills a set that was sent before.
func (t *nftTable) addElements(set *nftables.Set, elements []nftables.SetElement) error {
	for len(elements) > 0 {
		n := min(elementBatch, len(elements))
		if err := t.conn.SetAddElements(set, elements[:n]); err != nil {
			return err
		}
		if err := t.flush(); err != nil {
			return err
		}
		elements = elements[n:]
	}
	return nil
}

func (t *nftTable) addRule(chain *nftables.Chain, parts ...[]expr.Any) {
	var exprs []expr.Any
	for _, p := range parts {
		exprs = append(exprs, p...)
	}
	t.conn.AddRule(&nftables.Rule{Table: t.table, Chain: chain, Exprs: exprs})
}

// Close closes the socket, and with it goes the table if it is owned.
func (t *nftTable) Close() error { return t.conn.CloseLasting() }
