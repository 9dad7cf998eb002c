package stack

import (
	"context"
	"net"
	"net/netip"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	tcpipstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"innertun/stack/shim"
)

// Dial opens a connection. A zero local address or port is chosen: the address that belongs to the route, and a port
// per destination. h takes part in the opening and may be nil. When ctx ends first, nothing of the attempt is left.
func (s *Stack) Dial(ctx context.Context, f Flow, h Handshake) (*Conn, error) {
	f.Local, f.Remote = unmap(f.Local), unmap(f.Remote)
	c, err := s.dial(ctx, &f, h)
	if err != nil {
		return nil, opError("dial", f, err)
	}
	return c, nil
}

func (s *Stack) dial(ctx context.Context, f *Flow, h Handshake) (*Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !f.Remote.IsValid() || f.Remote.Port() == 0 {
		return nil, syscall.EINVAL
	}
	if !s.begin() {
		return nil, net.ErrClosed
	}
	defer s.pending.Done()

	local, err := s.localAddress(*f)
	if err != nil {
		return nil, err
	}
	next, tries := s.ports.start(local, f.Remote), len(s.ports.ports)
	if p := f.Local.Port(); p != 0 {
		next, tries = func() uint16 { return p }, 1
	}
	for range tries {
		f.Local = netip.AddrPortFrom(local, next())
		if !s.portFree(*f) {
			continue
		}
		a, err := s.newAttempt(*f, h)
		if err == syscall.EADDRINUSE {
			continue
		}
		if err != nil {
			return nil, err
		}
		return a.finish(ctx)
	}
	return nil, syscall.EADDRNOTAVAIL
}

// localAddress is the address the route gives, or the one that was asked for.
func (s *Stack) localAddress(f Flow) (netip.Addr, error) {
	var want tcpip.Address
	if a := f.Local.Addr(); a.IsValid() && !a.IsUnspecified() {
		if a.Is4() != f.Remote.Addr().Is4() {
			return netip.Addr{}, syscall.EAFNOSUPPORT
		}
		want = toAddress(a)
	}
	r, err := s.ns.FindRoute(nicID, want, toAddress(f.Remote.Addr()), protocolOf(f.Remote.Addr()), false)
	if err != nil {
		return netip.Addr{}, errnoOf(err)
	}
	defer r.Release()
	return fromAddress(r.LocalAddress()), nil
}

// portFree tells whether f can be used; a connection of the same name in TIME-WAIT is ended for it. Candidates come in
// turn, so it is the one that has waited longest, and the clock of the sequence numbers has moved on (RFC 6191).
func (s *Stack) portFree(f Flow) bool {
	ep := s.endpoint(f)
	if ep == nil {
		return true
	}
	return s.endTimeWait(f, ep)
}

// endpoint finds who would get the packets of f: the connection, or a listener.
func (s *Stack) endpoint(f Flow) tcpipstack.TransportEndpoint {
	return s.ns.FindTransportEndpoint(protocolOf(f.Local.Addr()), tcp.ProtocolNumber, tcpipstack.TransportEndpointID{
		LocalPort:     f.Local.Port(),
		LocalAddress:  toAddress(f.Local.Addr()),
		RemotePort:    f.Remote.Port(),
		RemoteAddress: toAddress(f.Remote.Addr()),
	}, nicID)
}

func (s *Stack) endTimeWait(f Flow, ep tcpipstack.TransportEndpoint) bool {
	if tep, ok := ep.(*tcp.Endpoint); !ok || tep.EndpointState() != tcp.StateTimeWait {
		return false
	}
	s.shim.Mute(f, ep.Abort) // the peer knows that it is over
	return true
}

// attempt is one connection being opened.
type attempt struct {
	flow        Flow
	st          *Stack
	entry       *shim.Entry // nil: no handshake takes part
	ep          tcpip.Endpoint
	wq          *waiter.Queue
	unreachable chan syscall.Errno
	note        waiter.Entry
	done        chan struct{}
}

// newAttempt sends the SYN. EADDRINUSE: another local port may do.
func (s *Stack) newAttempt(f Flow, h Handshake) (*attempt, error) {
	a := &attempt{flow: f, st: s, wq: new(waiter.Queue), unreachable: make(chan syscall.Errno, 1)}
	ep, err := s.ns.NewEndpoint(tcp.ProtocolNumber, protocolOf(f.Remote.Addr()), a.wq)
	if err != nil {
		return nil, errnoOf(err)
	}
	a.ep = ep
	// Let the port serve other destinations at the same time: without it Bind takes it for all of them.
	ep.SocketOptions().SetReuseAddress(true)
	tuneEndpoint(ep)
	if err := ep.Bind(toFull(f.Local)); err != nil {
		ep.Close()
		return nil, errnoOf(err)
	}
	if _, taken := s.attempts.LoadOrStore(f, a); taken { // Connect would say so, but the Handshake of that one is registered
		ep.Close()
		return nil, syscall.EADDRINUSE
	}
	if h != nil {
		var err error
		if a.entry, err = s.shim.Register(f, h); err != nil {
			s.attempts.CompareAndDelete(f, a)
			ep.Close()
			return nil, err
		}
	}
	a.note, a.done = waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	a.wq.EventRegister(&a.note)
	switch err := ep.Connect(toFull(f.Remote)).(type) {
	case *tcpip.ErrConnectStarted:
		return a, nil
	case *tcpip.ErrBadLocalAddress: // what Connect says of a 4-tuple in use
		a.giveUp()
		return nil, syscall.EADDRINUSE
	default:
		a.giveUp()
		return nil, errnoOf(err)
	}
}

// fail is told that the remote end cannot be reached.
func (a *attempt) fail(errno syscall.Errno) {
	select {
	case a.unreachable <- errno:
	default:
	}
}

func (a *attempt) giveUp() {
	a.st.attempts.CompareAndDelete(a.flow, a)
	a.wq.EventUnregister(&a.note)
	a.ep.Abort()
	a.ep.Close()
	if a.entry != nil {
		a.st.shim.Forget(a.entry)
	}
}

// refused is closed when the handshake has refused what came; never without one.
func (a *attempt) refused() <-chan struct{} {
	if a.entry == nil {
		return nil
	}
	return a.entry.Failed()
}

// finish waits for the outcome.
func (a *attempt) finish(ctx context.Context) (*Conn, error) {
	select {
	case <-ctx.Done():
		a.giveUp()
		return nil, ctx.Err()
	case <-a.st.closing:
		a.giveUp()
		return nil, net.ErrClosed
	case errno := <-a.unreachable:
		a.giveUp()
		return nil, errno
	case <-a.refused():
		a.giveUp()
		return nil, a.entry.Err()
	case <-a.done:
	}
	if err := a.ep.LastError(); err != nil {
		a.giveUp()
		return nil, errnoOf(err)
	}
	a.wq.EventUnregister(&a.note)
	a.st.attempts.CompareAndDelete(a.flow, a)
	return newConn(a.st, a.ep, a.wq, a.flow, a.entry), nil
}
