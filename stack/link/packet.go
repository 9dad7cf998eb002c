package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	defaultReceiveBuffer = 16 << 20 // octets
	defaultSendBuffer    = 4 << 20  // octets
)

// ErrNotEthernet is the error for an interface without Ethernet headers and a MAC address.
var ErrNotEthernet = errors.New("not an Ethernet interface")

// PacketConfig describes a link on an Ethernet interface that the kernel goes on using.
type PacketConfig struct {
	Interface string   // name, in the current network namespace
	Ports     []uint16 // own source ports
	Served    []uint16 // ports of listeners
	// ReceiveBuffer and SendBuffer are the sizes of the socket's buffers in octets; 0: 16 MiB and 4 MiB.
	ReceiveBuffer, SendBuffer int
	Logger                    *slog.Logger // nil: none
}

// Packet is a link on an AF_PACKET socket. It shares the interface's MAC and IP addresses with the kernel, which goes
// on answering ARP requests and neighbour solicitations: those never reach the netstack. Frames of VLANs, frames for
// other MAC addresses and fragments of TCP segments are dropped.
type Packet struct{ e *endpoint }

// NewPacket opens the socket. Nothing is read before a netstack attaches. It needs CAP_NET_RAW.
func NewPacket(cfg PacketConfig) (*Packet, error) {
	ifc, err := net.InterfaceByName(cfg.Interface)
	if err != nil {
		return nil, fmt.Errorf("link: interface %q: %w", cfg.Interface, err)
	}
	if len(ifc.HardwareAddr) != 6 || ifc.Flags&net.FlagLoopback != 0 {
		return nil, fmt.Errorf("link: interface %q: %w", cfg.Interface, ErrNotEthernet)
	}
	program, err := packetProgram(cfg.Ports, cfg.Served)
	if err != nil {
		return nil, err
	}
	fd, err := openPacket(ifc.Index, program, cfg)
	if err != nil {
		return nil, fmt.Errorf("link: packet socket on %q: %w", cfg.Interface, err)
	}
	file := os.NewFile(uintptr(fd), "packet:"+cfg.Interface)
	e, err := newEndpoint(file, ifc.MTU, cfg.Logger)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	e.owned, e.socket, e.ethernet = true, true, true
	e.SetLinkAddress(tcpip.LinkAddress(ifc.HardwareAddr))
	return &Packet{e: e}, nil
}

// packetProgram assembles the filter for a packet socket.
func packetProgram(ports, served []uint16) ([]unix.SockFilter, error) {
	body, err := frameFilter(portRanges(ports, served))
	if err != nil {
		return nil, err
	}
	raw, err := bpf.Assemble(append(hostOnly(), body...))
	if err != nil {
		return nil, fmt.Errorf("link: packet filter: %w", err)
	}
	p := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		p[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return p, nil
}

// openPacket opens a packet socket that has seen no frame before its filter stands: a socket of protocol 0 receives
// nothing until it is bound.
func openPacket(index int, program []unix.SockFilter, cfg PacketConfig) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	if err := attachFilter(fd, program); err != nil {
		return -1, err
	}
	for _, o := range []struct {
		name              string
		level, opt, value int
	}{
		{"PACKET_VNET_HDR", unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1},
		{"PACKET_IGNORE_OUTGOING", unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.opt, o.value); err != nil {
			return -1, fmt.Errorf("setsockopt %s: %w", o.name, err)
		}
	}
	if err := setBuffer(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, cfg.ReceiveBuffer, defaultReceiveBuffer); err != nil {
		return -1, err
	}
	if err := setBuffer(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, cfg.SendBuffer, defaultSendBuffer); err != nil {
		return -1, err
	}
	if err := bind(fd, index); err != nil {
		return -1, err
	}
	return fd, nil
}

// bind makes the socket receive all protocols of the interface.
func bind(fd, index int) error {
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	return os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}))
}

func attachFilter(fd int, program []unix.SockFilter) error {
	err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{
		Len:    uint16(len(program)),
		Filter: &program[0],
	})
	return os.NewSyscallError("setsockopt SO_ATTACH_FILTER", err)
}

// setBuffer sets a buffer's size beyond the system's limit, or up to it if that is not allowed.
func setBuffer(fd, force, plain, size, fallback int) error {
	if size == 0 {
		size = fallback
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) == nil {
		return nil
	}
	return os.NewSyscallError("setsockopt buffer size", unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, size))
}

// SetPorts replaces the ports whose segments are received. No frame passes between unfiltered.
func (p *Packet) SetPorts(ports, served []uint16) error {
	program, err := packetProgram(ports, served)
	if err != nil {
		return err
	}
	var opErr error
	err = p.e.raw.Control(func(fd uintptr) { opErr = attachFilter(int(fd), program) })
	return errors.Join(err, opErr)
}

// SetIndex follows an interface that was removed and came back, as one of the same name but of another index.
func (p *Packet) SetIndex(index int) error {
	var opErr error
	err := p.e.raw.Control(func(fd uintptr) { opErr = bind(int(fd), index) })
	return errors.Join(err, opErr)
}

// SetMTU follows a change of the interface's MTU, in octets. Connections that are open keep their segment size.
func (p *Packet) SetMTU(mtu int) { p.e.SetMTU(uint32(mtu)) }

// SetMAC follows a change of the interface's MAC address.
func (p *Packet) SetMAC(mac net.HardwareAddr) { p.e.SetLinkAddress(tcpip.LinkAddress(mac)) }

// LinkEndpoint is the netstack's side of the link.
func (p *Packet) LinkEndpoint() stack.LinkEndpoint { return p.e }

// Stats returns what passed so far.
func (p *Packet) Stats() Stats {
	_ = p.e.raw.Control(func(fd uintptr) {
		// Reading the kernel's counters sets them to zero.
		if st, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			p.e.stats.kernelDrops.Add(uint64(st.Drops))
		}
	})
	return p.e.stats.snapshot()
}

// Close stops the reader, waits for it, and closes the socket.
func (p *Packet) Close() error { return p.e.close() }
