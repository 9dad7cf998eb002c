package stack

import (
	"context"
	"log/slog"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	tcpipstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// tooBig tells a connection of the netstack what its path takes, as a message of ICMP's would. There is no other way to
// lower the size of its segments.
type tooBig struct{ octets uint32 } // of a packet, without the IP header

var _ tcpipstack.TransportError = tooBig{}

func (tooBig) Origin() tcpip.SockErrOrigin         { return tcpip.SockExtErrorOriginLocal }
func (tooBig) Type() uint8                         { return 0 }
func (tooBig) Code() uint8                         { return 0 }
func (e tooBig) Info() uint32                      { return e.octets }
func (tooBig) Kind() tcpipstack.TransportErrorKind { return tcpipstack.PacketTooBigTransportError }

func (h *host) Timeouts(f Flow) uint64 {
	ep, ok := (*Stack)(h).endpoint(f).(*tcp.Endpoint)
	if !ok {
		return 0
	}
	st, ok := ep.Stats().(*tcp.Stats)
	if !ok {
		return 0
	}
	return st.SendErrors.Timeouts.Value()
}

func (h *host) Narrow(f Flow, mtu int) {
	s := (*Stack)(h)
	ep, ok := s.endpoint(f).(*tcp.Endpoint)
	if !ok {
		return
	}
	ip := header.IPv6MinimumSize
	if f.Remote.Addr().Is4() {
		ip = header.IPv4MinimumSize
	}
	level := slog.LevelDebug // each time a peer dies, too: once is enough to be told
	if s.narrowed.CompareAndSwap(false, true) {
		level = slog.LevelInfo
	}
	s.log.Log(context.Background(), level, "large packets get no answer: sending smaller ones on this connection", "remote", f.Remote, "mtu", mtu)
	ep.HandleError(tooBig{uint32(mtu - ip)}, nil)
}
