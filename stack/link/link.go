// Package link holds the link endpoints netstacks stand on: the TUN device's file, an AF_PACKET socket on an
// Ethernet interface, and a wire inside the process.
//
// The first two share one endpoint. Both carry a virtio-net header in front of each packet, so that TCP
// super-packets of up to 64 KiB cross the kernel boundary whole in both directions, in one system call each.
//
// gVisor decides by the link's capability, once for all packets, whether checksums of received packets are checked.
// These endpoints claim the capability and do the checking themselves, of just those packets the kernel has not
// vouched for.
package link

import (
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// maxPacket is the largest IP packet, octets.
	maxPacket = 65535
	// gsoMaxSize bounds the super-packets of the netstack, octets with all headers.
	gsoMaxSize = maxPacket
)

// endpoint is a link endpoint on a file that carries a virtio-net header before each packet.
type endpoint struct {
	file     *os.File
	raw      syscall.RawConn
	owned    bool // file is closed by Close
	socket   bool // file is a socket: recvmmsg and sendmmsg work
	ethernet bool // frames have an Ethernet header
	log      *slog.Logger
	// announced is told of gratuitous ARP; nil: nobody.
	announced func(netip.Addr, net.HardwareAddr)

	mtu  atomic.Uint32
	addr atomic.Pointer[tcpip.LinkAddress]

	mu         sync.Mutex // orders Attach and Close
	dispatcher atomic.Pointer[stack.NetworkDispatcher]
	stopping   atomic.Bool
	closed     bool
	reader     sync.WaitGroup

	writers  sync.Pool // *writer
	sendWait time.Duration
	stalled  atomic.Bool
	tap      atomic.Pointer[func(Tapped)] // nil: nobody looks
	stats    counters
}

var (
	_ stack.LinkEndpoint = (*endpoint)(nil)
	_ stack.GSOEndpoint  = (*endpoint)(nil)
)

func newEndpoint(file *os.File, mtu int, log *slog.Logger) (*endpoint, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	e := &endpoint{file: file, raw: raw, log: log, sendWait: defaultSendWait}
	e.mtu.Store(uint32(mtu))
	e.addr.Store(new(tcpip.LinkAddress))
	e.writers.New = func() any { return newWriter(e) }
	return e, nil
}

// linkHeaderLen is the length of the link-layer header, octets.
func (e *endpoint) linkHeaderLen() int {
	if e.ethernet {
		return header.EthernetMinimumSize
	}
	return 0
}

// Attach implements stack.LinkEndpoint. With a dispatcher it starts the reader, with nil it tells it to stop. It does
// not wait for that: the netstack holds a lock here that a reader in the middle of a delivery may be waiting for.
func (e *endpoint) Attach(d stack.NetworkDispatcher) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if d == nil {
		e.stopReader()
		return
	}
	if e.closed || e.dispatcher.Load() != nil {
		return
	}
	e.reader.Wait()
	_ = e.file.SetReadDeadline(time.Time{})
	e.stopping.Store(false)
	e.dispatcher.Store(&d)
	e.reader.Go(func() { newReader(e, d).run() })
}

func (e *endpoint) stopReader() {
	if e.dispatcher.Load() == nil {
		return
	}
	e.stopping.Store(true)
	// A past deadline wakes a reader that waits for the file.
	_ = e.file.SetReadDeadline(time.Unix(1, 0))
	e.dispatcher.Store(nil)
}

// close stops the reader, waits for it and closes the file. It must not be called with a lock of the netstack held.
func (e *endpoint) close() error {
	e.mu.Lock()
	closed := e.closed
	e.closed = true
	e.stopReader()
	e.mu.Unlock()
	e.reader.Wait()
	switch {
	case closed:
		return nil
	case e.owned:
		return e.file.Close()
	}
	_ = e.file.SetReadDeadline(time.Time{})
	return nil
}

// IsAttached implements stack.LinkEndpoint.
func (e *endpoint) IsAttached() bool { return e.dispatcher.Load() != nil }

// Wait implements stack.LinkEndpoint. The netstack calls it with a lock held, as it does Attach, so it is Close that
// waits for the reader.
func (*endpoint) Wait() {}

// Close implements stack.LinkEndpoint: it is called when the endpoint's NIC is removed.
func (e *endpoint) Close() {
	if err := e.close(); err != nil {
		e.log.Warn("closing the link failed", "err", err)
	}
}

// SetOnCloseAction implements stack.LinkEndpoint.
func (*endpoint) SetOnCloseAction(func()) {}

// MTU implements stack.LinkEndpoint.
func (e *endpoint) MTU() uint32 { return e.mtu.Load() }

// SetMTU implements stack.LinkEndpoint.
func (e *endpoint) SetMTU(mtu uint32) { e.mtu.Store(mtu) }

// MaxHeaderLength implements stack.LinkEndpoint.
func (e *endpoint) MaxHeaderLength() uint16 { return uint16(e.linkHeaderLen()) }

// LinkAddress implements stack.LinkEndpoint.
func (e *endpoint) LinkAddress() tcpip.LinkAddress { return *e.addr.Load() }

// SetLinkAddress implements stack.LinkEndpoint.
func (e *endpoint) SetLinkAddress(a tcpip.LinkAddress) { e.addr.Store(&a) }

// Capabilities implements stack.LinkEndpoint. Transmit checksum offload is not among them: segments without GSO
// options would leave with a sum of zero.
func (e *endpoint) Capabilities() stack.LinkEndpointCapabilities {
	caps := stack.CapabilityRXChecksumOffload
	if e.ethernet {
		caps |= stack.CapabilityResolutionRequired
	}
	return caps
}

// GSOMaxSize implements stack.GSOEndpoint.
func (*endpoint) GSOMaxSize() uint32 { return gsoMaxSize }

// SupportedGSO implements stack.GSOEndpoint.
func (*endpoint) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// ARPHardwareType implements stack.LinkEndpoint.
func (e *endpoint) ARPHardwareType() header.ARPHardwareType {
	if e.ethernet {
		return header.ARPHardwareEther
	}
	return header.ARPHardwareNone
}

// AddHeader implements stack.LinkEndpoint.
func (e *endpoint) AddHeader(pkt *stack.PacketBuffer) {
	if !e.ethernet {
		return
	}
	header.Ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize)).Encode(&header.EthernetFields{
		SrcAddr: pkt.EgressRoute.LocalLinkAddress,
		DstAddr: pkt.EgressRoute.RemoteLinkAddress,
		Type:    pkt.NetworkProtocolNumber,
	})
}

// ParseHeader implements stack.LinkEndpoint.
func (e *endpoint) ParseHeader(pkt *stack.PacketBuffer) bool {
	if !e.ethernet {
		return true
	}
	b, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize)
	if !ok {
		return false
	}
	pkt.NetworkProtocolNumber = header.Ethernet(b).Type()
	return true
}
