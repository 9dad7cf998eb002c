package host

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	sockDiagByFamily = 20         // SOCK_DIAG_BY_FAMILY, linux/sock_diag.h
	allTCPStates     = ^uint32(0) // with TCP_BOUND_INACTIVE: bound, neither listening nor connected
	diagRequestLen   = 56         // struct inet_diag_req_v2, linux/inet_diag.h
	diagMessageLen   = 72         // struct inet_diag_msg

	// Of net/tcp_states.h, those in which data may still be on its way.
	tcpEstablished = 1
	tcpFinWait1    = 4
	tcpFinWait2    = 5
	tcpCloseWait   = 8
	tcpListen      = 10
)

// tcpSocket is one TCP socket of the kernel's.
type tcpSocket struct {
	state uint8
	local netip.AddrPort
}

func (s tcpSocket) open() bool {
	switch s.state {
	case tcpEstablished, tcpFinWait1, tcpFinWait2, tcpCloseWait:
		return true
	}
	return false
}

// HeldPorts returns those of ports that kernel TCP sockets of this network namespace hold as local port, in any state
// (sock_diag). Reserve first, then ask: no new ones are then chosen in between.
func HeldPorts(ports Ports) (Ports, error) {
	sockets, err := tcpSockets()
	if err != nil {
		return nil, err
	}
	var held []PortRange
	for _, s := range sockets {
		if port := s.local.Port(); port != 0 && ports.Contains(port) {
			held = append(held, PortRange{port, port})
		}
	}
	return NewPorts(held...), nil
}

// PortUse is what the kernel itself does with a local address and port, over loopback apart.
type PortUse struct {
	Listening   bool
	Connections int // open ones
}

// KernelUse returns what taking a local port over from the kernel would cut off. An unspecified address stands for all of
// its family.
func KernelUse(at netip.AddrPort) (PortUse, error) {
	sockets, err := tcpSockets()
	if err != nil {
		return PortUse{}, err
	}
	var use PortUse
	for _, s := range sockets {
		addr, sameFamily := s.local.Addr(), s.local.Addr().Is4() == at.Addr().Is4()
		if s.local.Port() != at.Port() || addr.IsLoopback() {
			continue
		}
		here := sameFamily && (at.Addr().IsUnspecified() || addr == at.Addr())
		// A listener at [::] mostly serves IPv4 too.
		if s.state == tcpListen && (here || addr.IsUnspecified() && (sameFamily || addr.Is6())) {
			use.Listening = true
		}
		if s.open() && here {
			use.Connections++
		}
	}
	return use, nil
}

func tcpSockets() ([]tcpSocket, error) {
	conn, err := netlink.Dial(unix.NETLINK_INET_DIAG, nil)
	if err != nil {
		return nil, fmt.Errorf("list the kernel's TCP sockets: %w", err)
	}
	defer conn.Close()
	var sockets []tcpSocket
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		request := make([]byte, diagRequestLen)
		request[0], request[1] = family, unix.IPPROTO_TCP
		binary.NativeEndian.PutUint32(request[4:], allTCPStates)
		messages, err := conn.Execute(netlink.Message{
			Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump},
			Data:   request,
		})
		if err != nil {
			return nil, fmt.Errorf("list the kernel's TCP sockets: %w", err)
		}
		for _, m := range messages {
			if s, ok := parseTCPSocket(m.Data); ok {
				sockets = append(sockets, s)
			}
		}
	}
	return sockets, nil
}

// parseTCPSocket reads a struct inet_diag_msg: family, state, timer, retransmissions, then the ports and addresses, source
// first.
func parseTCPSocket(b []byte) (tcpSocket, bool) {
	if len(b) < diagMessageLen {
		return tcpSocket{}, false
	}
	port, addr := binary.BigEndian.Uint16(b[4:]), b[8:24]
	if b[0] == unix.AF_INET {
		addr = addr[:4]
	}
	local, _ := netip.AddrFromSlice(addr)
	return tcpSocket{state: b[1], local: netip.AddrPortFrom(local.Unmap(), port)}, true
}
