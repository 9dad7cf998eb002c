package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/mdlayher/netlink"
	nl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// withMark selects connection tracking entries of TCP by their mark.
type withMark struct{ mark, mask uint32 }

func (w withMark) MatchConntrackFlow(flow *nl.ConntrackFlow) bool {
	return flow.Mark&w.mask == w.mark && flow.Forward.Protocol == unix.IPPROTO_TCP
}

// endMarked ends the kernel's own ends of all TCP connections that have the mark, then forgets the marks. It returns how
// many there were; their programs read ECONNABORTED.
func endMarked(mark, mask uint32) (ended int, err error) {
	conn, err := netlink.Dial(unix.NETLINK_INET_DIAG, nil)
	if err != nil {
		return 0, fmt.Errorf("end sockets: %w", err)
	}
	defer conn.Close()
	var errs error
	for _, family := range []nl.InetFamily{unix.AF_INET, unix.AF_INET6} {
		flows, err := nl.ConntrackTableList(nl.ConntrackTable, family)
		if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) {
			return ended, errors.Join(errs, fmt.Errorf("list tracked connections: %w", err))
		}
		matches := 0
		for _, flow := range flows {
			if !(withMark{mark, mask}).MatchConntrackFlow(flow) {
				continue
			}
			matches++
			from, to := addrPort(flow.Forward.SrcIP, flow.Forward.SrcPort), addrPort(flow.Forward.DstIP, flow.Forward.DstPort)
			err := destroy(conn, byte(family), from, to)
			if errors.Is(err, os.ErrNotExist) {
				// Where tracking has lost a connection and found it again by an answer, the answer's sender counts as the first.
				err = destroy(conn, byte(family), to, from)
			}
			switch {
			case err == nil:
				ended++
			case errors.Is(err, unix.EOPNOTSUPP):
				return ended, fmt.Errorf("end sockets: the kernel lacks CONFIG_INET_DIAG_DESTROY: %w", err)
			case !errors.Is(err, os.ErrNotExist):
				errs = errors.Join(errs, fmt.Errorf("end the connection from %s to %s: %w", from, to, err))
			}
		}
		if matches == 0 || errs != nil {
			continue // an entry is what the guard knows a connection by
		}
		if _, err := nl.ConntrackDeleteFilters(nl.ConntrackTable, family, withMark{mark, mask}); err != nil {
			errs = errors.Join(errs, fmt.Errorf("forget tracked connections: %w", err))
		}
	}
	return ended, errs
}

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port)
}

// destroy ends one TCP socket (SOCK_DESTROY, as "ss -K" does). Errors: os.ErrNotExist, unix.EOPNOTSUPP.
func destroy(conn *netlink.Conn, family byte, local, remote netip.AddrPort) error {
	request := make([]byte, diagRequestLen)
	request[0], request[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(request[4:], allTCPStates)
	binary.BigEndian.PutUint16(request[8:], local.Port())
	binary.BigEndian.PutUint16(request[10:], remote.Port())
	copy(request[12:28], local.Addr().AsSlice())
	copy(request[28:44], remote.Addr().AsSlice())
	binary.NativeEndian.PutUint64(request[48:], ^uint64(0)) // INET_DIAG_NOCOOKIE
	_, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.SOCK_DESTROY, Flags: netlink.Request | netlink.Acknowledge},
		Data:   request,
	})
	return err
}
