package stack

import (
	"net"
	"net/netip"
	"sync"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"innertun/stack/shim"
)

// Listener takes connections at one address. It is a net.Listener whose Accept returns a *Conn.
type Listener struct {
	st    *Stack
	ep    tcpip.Endpoint
	at    netip.AddrPort
	ready chan struct{}
	// handshakes tells that the shim knows of the listener.
	handshakes bool

	mu        sync.Mutex // one Accept at a time waits
	closeOnce sync.Once
	closed    chan struct{}
}

// Listen takes connections at an address of the stack; an unspecified address means all of its family. newHandshake is
// called for each incoming SYN and may be nil, or return nil; it must not block. With newHandshake, the port must be given.
func (s *Stack) Listen(at netip.AddrPort, newHandshake func(Flow) Handshake) (*Listener, error) {
	at = unmap(at)
	if newHandshake != nil {
		if at.Port() == 0 {
			return nil, opError("listen", Flow{Local: at}, syscall.EINVAL)
		}
		s.shim.Listen(at, newHandshake) // before the first SYN can come
	}
	l, err := s.listen(at)
	if err == nil {
		l.handshakes = newHandshake != nil
	} else if newHandshake != nil {
		s.shim.Unlisten(at)
	}
	if err != nil {
		return nil, opError("listen", Flow{Local: at}, err)
	}
	return l, nil
}

func (s *Stack) listen(at netip.AddrPort) (*Listener, error) {
	l := &Listener{st: s, closed: make(chan struct{})}
	wq := new(waiter.Queue)
	ep, terr := s.ns.NewEndpoint(tcp.ProtocolNumber, protocolOf(at.Addr()), wq)
	if terr != nil {
		return nil, errnoOf(terr)
	}
	l.ep = ep
	ep.SocketOptions().SetV6Only(true)
	// As every net.Listener: what is left of earlier connections (TIME-WAIT) does not keep the port.
	ep.SocketOptions().SetReuseAddress(true)
	local := tcpip.FullAddress{NIC: nicID, Port: at.Port()}
	if !at.Addr().IsUnspecified() {
		local.Addr = toAddress(at.Addr())
	}
	if err := ep.Bind(local); err != nil {
		ep.Close()
		return nil, errnoOf(err)
	}
	var note waiter.Entry
	note, l.ready = waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	wq.EventRegister(&note)
	if err := ep.Listen(s.cfg.MaxHalfOpen); err != nil {
		ep.Close()
		return nil, errnoOf(err)
	}
	got, terr := ep.GetLocalAddress()
	if terr != nil {
		ep.Close()
		return nil, errnoOf(terr)
	}
	l.at = netip.AddrPortFrom(at.Addr(), got.Port)
	return l, nil
}

// Accept implements net.Listener; the connection is a *Conn.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.AcceptConn()
	if err != nil {
		return nil, err
	}
	return c, nil
}

// AcceptConn returns the next connection. Its handshake has seen the SYN and the first later segment.
func (l *Listener) AcceptConn() (*Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		var peer tcpip.FullAddress
		ep, wq, err := l.ep.Accept(&peer)
		switch err.(type) {
		case nil:
			if c := l.accepted(ep, wq, peer); c != nil {
				return c, nil
			}
		case *tcpip.ErrWouldBlock:
			select {
			case <-l.ready:
			case <-l.closed:
				return nil, opError("accept", Flow{Local: l.at}, net.ErrClosed)
			case <-l.st.closing:
				return nil, opError("accept", Flow{Local: l.at}, net.ErrClosed)
			}
		default:
			return nil, opError("accept", Flow{Local: l.at}, net.ErrClosed)
		}
	}
}

func (l *Listener) accepted(ep tcpip.Endpoint, wq *waiter.Queue, peer tcpip.FullAddress) *Conn {
	local, err := ep.GetLocalAddress()
	if err != nil {
		ep.Close()
		return nil
	}
	f := Flow{
		Local:  netip.AddrPortFrom(fromAddress(local.Addr), local.Port),
		Remote: netip.AddrPortFrom(fromAddress(peer.Addr), peer.Port),
	}
	tuneEndpoint(ep)
	var e *shim.Entry
	if l.handshakes {
		e = l.st.shim.Claim(f)
	}
	c := newConn(l.st, ep, wq, f, e)
	if e != nil && !e.Opened() {
		c.Abort()
		return nil
	}
	return c
}

// Addr returns the address that is listened at, a *net.TCPAddr.
func (l *Listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.at) }

// Close ends the listening. Connections that were accepted go on; those waiting to be are reset.
func (l *Listener) Close() error {
	l.closeOnce.Do(func() {
		close(l.closed)
		l.ep.Close()
		if l.handshakes {
			l.st.shim.Unlisten(l.at)
		}
	})
	return nil
}
