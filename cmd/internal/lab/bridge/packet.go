package bridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"innertun/integration/lab"
)

const (
	etherLen   = 14
	etherIPv4  = 0x0800
	etherIPv6  = 0x86dd
	vnetLen    = 10 // struct virtio_net_hdr
	maxKnown   = 4096
	bufferSize = 16 << 20
)

// packetPort is an interface by a packet socket. Frames that are not IP go straight to the other side.
type packetPort struct {
	name  string
	file  *os.File
	other *packetPort
	once  sync.Once
	err   error

	mu sync.Mutex
	// headers are Ethernet headers for hosts on this side, by IP address: as frames for them had them, or else those that
	// came from them turned round.
	headers map[netip.Addr]header
}

type header struct {
	octets [etherLen]byte
	turned bool
}

func openPacket(name string) (*packetPort, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("interface %s: packet socket: %w", name, err)
	}
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
			&unix.PacketMreq{Ifindex: int32(i.Index), Type: unix.PACKET_MR_PROMISC}),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bufferSize),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, bufferSize),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index}),
	)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	return &packetPort{name: name, file: os.NewFile(uintptr(fd), name), headers: make(map[netip.Addr]header)}, nil
}

func (p *packetPort) receive(deliver func(lab.Packet)) error {
	buf := make([]byte, vnetLen+etherLen+65536)
	for {
		n, err := p.file.Read(buf)
		switch {
		case err == nil:
			p.frame(buf[:n], deliver)
		case errors.Is(err, unix.ENETDOWN): // told once; the socket works again when the interface is up
			time.Sleep(100 * time.Millisecond)
		case !errors.Is(err, unix.EINTR):
			return err
		}
	}
}

// frame takes one frame with the vnet header in front of it.
func (p *packetPort) frame(b []byte, deliver func(lab.Packet)) {
	if len(b) < vnetLen+etherLen {
		return
	}
	vnet, frame := b[:vnetLen], b[vnetLen:]
	ip := frame[etherLen:]
	src, dst := addresses(binary.BigEndian.Uint16(frame[12:]), ip)
	if !src.IsValid() {
		_ = p.other.write(frame) // ARP and the like: a loss like any other
		return
	}
	p.other.learn(dst, [etherLen]byte(frame), false)
	var back [etherLen]byte
	copy(back[:], frame[6:12])
	copy(back[6:], frame[:6])
	copy(back[12:], frame[12:14])
	p.learn(src, back, true)

	pkt := lab.Packet{Data: append([]byte(nil), ip...), Partial: vnet[0]&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM != 0}
	size := 0
	switch vnet[1] &^ unix.VIRTIO_NET_HDR_GSO_ECN {
	case unix.VIRTIO_NET_HDR_GSO_NONE:
	case unix.VIRTIO_NET_HDR_GSO_TCPV4, unix.VIRTIO_NET_HDR_GSO_TCPV6:
		size = int(binary.NativeEndian.Uint16(vnet[4:]))
	default:
		return // super-packets of UDP: offload must be off for them
	}
	for _, piece := range lab.Pieces(pkt, size) {
		deliver(piece)
	}
}

// addresses returns those of an IP packet; invalid: it is none.
func addresses(etherType uint16, ip []byte) (src, dst netip.Addr) {
	switch {
	case etherType == etherIPv4 && len(ip) >= 20:
		return netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:]))
	case etherType == etherIPv6 && len(ip) >= 40:
		return netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:]))
	}
	return src, dst
}

// learn remembers how to reach an address on this side. What a host sends itself with beats what is turned round.
func (p *packetPort) learn(addr netip.Addr, octets [etherLen]byte, turned bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	known, ok := p.headers[addr]
	switch {
	case ok && turned && !known.turned, ok && known.octets == octets:
		return
	case len(p.headers) >= maxKnown:
		clear(p.headers)
	}
	p.headers[addr] = header{octets, turned}
}

func (p *packetPort) send(pkt []byte) error {
	etherType := uint16(etherIPv4)
	if len(pkt) > 0 && pkt[0]>>4 == 6 {
		etherType = etherIPv6
	}
	_, dst := addresses(etherType, pkt)
	p.mu.Lock()
	h, ok := p.headers[dst]
	p.mu.Unlock()
	if !ok {
		return errAlien
	}
	return p.write(append(h.octets[:], pkt...))
}

func (p *packetPort) write(frame []byte) error {
	_, err := p.file.Write(append(make([]byte, vnetLen, vnetLen+len(frame)), frame...))
	return err
}

func (p *packetPort) close() error {
	p.once.Do(func() { p.err = p.file.Close() })
	return p.err
}
