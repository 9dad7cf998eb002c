// Package rawnet carries the prober's packets over the real network, beside the kernel's own TCP: packets leave and arrive by
// packet sockets, the kernel's routes and neighbours say where to, ports are held by sockets that do nothing, and a table of
// nftables keeps the kernel from resetting what it does not know. All of it vanishes with the process; from then on the kernel
// itself resets what is left.
package rawnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"innertun/cmd/internal/probe/packet"
	"innertun/internal/host"
)

const (
	maxPacket     = 1 << 16
	receiveBuffer = 4 << 20 // octets
	// statusNotReady: the checksum field holds the sum of the pseudo-header only, as the packet never left this machine.
	statusNotReady = 1 << 3 // TP_STATUS_CSUMNOTREADY, linux/if_packet.h
)

// Network is one way to the network of the current network namespace. It is safe for concurrent use.
type Network struct {
	routes         *netlink.Handle
	interfaceIndex int // 0: as the routes say
	ports          *heldPorts
	table          *host.QuietTable
	out            int
	in             *os.File
	reader         sync.WaitGroup

	mu   sync.Mutex
	ways map[netip.Addr]*found
}

// Open makes it, with nothing received before Start. An empty interface name leaves the choice to the routes. It needs
// CAP_NET_ADMIN and CAP_NET_RAW.
func Open(interfaceName string) (n *Network, err error) {
	n = &Network{out: -1, ways: make(map[netip.Addr]*found)}
	defer func() {
		if err != nil {
			n.Close()
			n, err = nil, privileges(err)
		}
	}()
	if n.routes, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return n, fmt.Errorf("netlink: %w", err)
	}
	if interfaceName != "" {
		i, err := net.InterfaceByName(interfaceName)
		if err != nil {
			return n, fmt.Errorf("interface %q: %w", interfaceName, err)
		}
		n.interfaceIndex = i.Index
	}
	if n.ports, err = holdPorts(); err != nil {
		return n, err
	}
	if n.table, err = host.NewQuietTable(n.ports.ranges()); err != nil {
		return n, err
	}
	if n.out, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return n, fmt.Errorf("packet socket: %w", err)
	}
	n.in, err = openReceiver(n.ports.list)
	return n, err
}

// privileges adds what to do about a lack of rights.
func privileges(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w (needs root, or CAP_NET_ADMIN and CAP_NET_RAW)", err)
	}
	return err
}

// openReceiver opens a packet socket that has seen no packet before its filter stands.
func openReceiver(ports []uint16) (*os.File, error) {
	filter, err := program(ports[0], ports[len(ports)-1])
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), "packet")
	err = errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: network16(unix.ETH_P_ALL)}),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("packet socket: %w", err), file.Close())
	}
	return file, nil
}

// network16 is a number in network order as the kernel wants it in a field of its own order.
func network16(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// Ports are the local ports that are ours.
func (n *Network) Ports() []uint16 { return n.ports.list }

// Source returns the local address that packets to an address leave from. It may take a while where the next hop is to be found
// first.
func (n *Network) Source(to netip.Addr) (netip.Addr, error) {
	w := n.find(to)
	return w.source, w.err
}

// Send sends an IP packet.
func (n *Network) Send(pkt []byte) error {
	to, ok := destination(pkt)
	if !ok {
		return packet.ErrPacket
	}
	w := n.find(to)
	if w.err != nil {
		return w.err
	}
	return os.NewSyscallError("sendto", unix.Sendto(n.out, pkt, 0, &w.to))
}

func destination(pkt []byte) (netip.Addr, bool) {
	switch {
	case len(pkt) >= 20 && pkt[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(pkt[16:])), true
	case len(pkt) >= 40 && pkt[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(pkt[24:])), true
	}
	return netip.Addr{}, false
}

// Start has receive called with each packet that arrives and whose checksum is right, until Close. The packet is the
// receiver's to keep.
func (n *Network) Start(receive func(pkt []byte)) error {
	raw, err := n.in.SyscallConn()
	if err != nil {
		return err
	}
	n.reader.Go(func() {
		buf, control := make([]byte, maxPacket), make([]byte, 128)
		for {
			var got, controlLen int
			var from unix.Sockaddr
			var opErr error
			err := raw.Read(func(fd uintptr) bool {
				got, controlLen, _, from, opErr = unix.Recvmsg(int(fd), buf, control, 0)
				return opErr != unix.EAGAIN && opErr != unix.EINTR
			})
			if err != nil {
				return // closed
			}
			at, _ := from.(*unix.SockaddrLinklayer)
			if opErr != nil || at == nil || at.Pkttype != unix.PACKET_HOST {
				continue // an interface went down, for instance
			}
			pkt := append([]byte(nil), buf[:got]...)
			if partial(control[:controlLen]) || packet.Intact(pkt) {
				receive(pkt)
			}
		}
	})
	return nil
}

// partial reports whether a packet's checksum was not filled in, by its struct tpacket_auxdata.
func partial(control []byte) bool {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return false
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 4 {
			return binary.NativeEndian.Uint32(m.Data)&statusNotReady != 0
		}
	}
	return false
}

// Close gives everything back. No receive is under way when it returns.
func (n *Network) Close() error {
	var err error
	if n.table != nil { // first: at any time somebody is to answer what still arrives, we or the kernel
		err = n.table.Close()
	}
	if n.in != nil {
		err = errors.Join(err, n.in.Close())
		n.reader.Wait()
	}
	if n.out >= 0 {
		_ = unix.Close(n.out)
		n.out = -1
	}
	if n.ports != nil {
		n.ports.close()
	}
	if n.routes != nil {
		n.routes.Close()
	}
	return err
}

var _ io.Closer = (*Network)(nil)
