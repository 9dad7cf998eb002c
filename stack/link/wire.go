// Package link has the link layers of the netstacks: an in-process wire, the TUN device, and AF_PACKET.
package link

import (
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	tcpipstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// headerView is room for the headers of any packet, in octets.
const headerView = 128

// Wire is a link within the process: whole IP packets as byte slices. It has no link header and no offload, so every
// packet on it is complete, checksums included.
type Wire struct {
	mtu    atomic.Uint32
	out    func(pkt []byte)
	closed atomic.Bool

	mu         sync.RWMutex
	dispatcher tcpipstack.NetworkDispatcher
}

// NewWire returns a link that hands each packet it is to send to out, which owns the slice from then on. out can be
// called under locks of the stack: it must neither block nor call Inject of the same wire before it returns.
// mtu is in octets, IP header included.
func NewWire(mtu int, out func(pkt []byte)) *Wire {
	w := &Wire{out: out}
	w.mtu.Store(uint32(mtu))
	return w
}

// Inject hands the stack one received IP packet. The slice may be used again when Inject returns. It may be called
// from any goroutine; what is neither IPv4 nor IPv6 is dropped.
func (w *Wire) Inject(pkt []byte) {
	var proto tcpip.NetworkProtocolNumber
	switch header.IPVersion(pkt) {
	case header.IPv4Version:
		proto = header.IPv4ProtocolNumber
	case header.IPv6Version:
		proto = header.IPv6ProtocolNumber
	default:
		return
	}
	w.mu.RLock()
	d := w.dispatcher
	w.mu.RUnlock()
	if d == nil || w.closed.Load() {
		return
	}
	// The headers get a view of their own: the netstack copies that when it writes to it, and must not copy the rest.
	n := min(len(pkt), headerView)
	payload := buffer.MakeWithData(pkt[:n])
	if n < len(pkt) {
		_ = payload.Append(buffer.NewViewWithData(pkt[n:]))
	}
	pb := tcpipstack.NewPacketBuffer(tcpipstack.PacketBufferOptions{Payload: payload})
	d.DeliverNetworkPacket(proto, pb)
	pb.DecRef()
}

// LinkEndpoint is what a stack attaches to.
func (w *Wire) LinkEndpoint() tcpipstack.LinkEndpoint { return (*wireEndpoint)(w) }

// Close ends the wire: nothing passes in either direction afterwards.
func (w *Wire) Close() error {
	w.closed.Store(true)
	return nil
}

// wireEndpoint keeps gVisor's methods off the public type.
type wireEndpoint Wire

func (e *wireEndpoint) WritePackets(pkts tcpipstack.PacketBufferList) (int, tcpip.Error) {
	if e.closed.Load() {
		return 0, &tcpip.ErrClosedForSend{}
	}
	n := 0
	for _, pb := range pkts.AsSlice() {
		pkt := make([]byte, 0, pb.Size())
		for _, s := range pb.AsSlices() {
			pkt = append(pkt, s...)
		}
		e.out(pkt)
		n++
	}
	return n, nil
}

func (e *wireEndpoint) Attach(d tcpipstack.NetworkDispatcher) {
	e.mu.Lock()
	e.dispatcher = d
	e.mu.Unlock()
}

func (e *wireEndpoint) IsAttached() bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.dispatcher != nil
}

func (e *wireEndpoint) MTU() uint32                                     { return e.mtu.Load() }
func (e *wireEndpoint) SetMTU(mtu uint32)                               { e.mtu.Store(mtu) }
func (*wireEndpoint) MaxHeaderLength() uint16                           { return 0 }
func (*wireEndpoint) LinkAddress() tcpip.LinkAddress                    { return "" }
func (*wireEndpoint) SetLinkAddress(tcpip.LinkAddress)                  {}
func (*wireEndpoint) Capabilities() tcpipstack.LinkEndpointCapabilities { return 0 }
func (*wireEndpoint) Wait()                                             {}
func (*wireEndpoint) ARPHardwareType() header.ARPHardwareType           { return header.ARPHardwareNone }
func (*wireEndpoint) AddHeader(*tcpipstack.PacketBuffer)                {}
func (*wireEndpoint) ParseHeader(*tcpipstack.PacketBuffer) bool         { return true }
func (*wireEndpoint) SetOnCloseAction(func())                           {}
func (e *wireEndpoint) Close()                                          { e.closed.Store(true) }
