package stack

import (
	"net"
	"net/netip"
	"sync"
	"syscall"

	tcpipstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Forward takes every new connection that reaches the stack, whatever its destination. Each SYN is held until its
// handler, which runs in a goroutine of its own, accepts or refuses it; a handler that does neither leaves the SYN
// without an answer. At most Config.MaxHalfOpen requests are held, later ones are dropped (their SYN comes again).
func (s *Stack) Forward(handle func(*Request)) error {
	f := tcp.NewForwarder(s.ns, min(defaultBuffer, s.cfg.MaxBuffer), s.cfg.MaxHalfOpen, func(fr *tcp.ForwarderRequest) {
		r := &Request{st: s, fr: fr, flow: flowOf(fr.ID())}
		defer r.settle(func() { fr.Complete(false) })
		if !s.begin() {
			return
		}
		defer s.pending.Done()
		handle(r)
	})
	s.ns.SetTransportProtocolHandler(tcp.ProtocolNumber, f.HandlePacket)
	return nil
}

// flowOf turns the identity of a forwarded connection round: Local is the application's end.
func flowOf(id tcpipstack.TransportEndpointID) Flow {
	return Flow{
		Local:  netip.AddrPortFrom(fromAddress(id.RemoteAddress), id.RemotePort),
		Remote: netip.AddrPortFrom(fromAddress(id.LocalAddress), id.LocalPort),
	}
}

// Request is an application's SYN, held.
type Request struct {
	st   *Stack
	fr   *tcp.ForwarderRequest
	flow Flow
	once sync.Once
}

// Flow returns the connection that is asked for: Local is the application's source, Remote the destination it wants.
func (r *Request) Flow() Flow { return r.flow }

// settle runs what answers the request, once.
func (r *Request) settle(answer func()) bool {
	first := false
	r.once.Do(func() {
		first = true
		answer()
	})
	return first
}

// Accept completes the application's handshake and returns the connection to it, whose local address is the
// destination that was asked for. It blocks until the connection is open.
func (r *Request) Accept() (*Conn, error) {
	var c *Conn
	var err error
	if !r.settle(func() { c, err = r.accept() }) {
		err = net.ErrClosed
	}
	if err != nil {
		return nil, opError("accept", r.flow, err)
	}
	return c, nil
}

func (r *Request) accept() (*Conn, error) {
	wq := new(waiter.Queue)
	ep, err := r.fr.CreateEndpoint(wq)
	r.fr.Complete(false)
	if err != nil {
		return nil, errnoOf(err)
	}
	tuneEndpoint(ep)
	return newConn(r.st, ep, wq, Flow{Local: r.flow.Remote, Remote: r.flow.Local}, nil), nil
}

// Refuse refuses the request as the error says: ECONNREFUSED and what has no better fit by RST; EHOSTUNREACH,
// ENETUNREACH and EACCES by the ICMP message for it; ETIMEDOUT by silence.
func (r *Request) Refuse(err error) {
	r.settle(func() {
		switch refusalOf(err) {
		case syscall.ETIMEDOUT:
			r.fr.Complete(false)
		default:
			r.fr.Complete(true)
		}
	})
}
