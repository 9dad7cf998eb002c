package stack

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	tcpipstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// forwarder holds requests.
type forwarder struct {
	st     *Stack
	tcp    *tcp.Forwarder
	handle func(*Request)
	max    int

	mu   sync.Mutex
	held map[tcpipstack.TransportEndpointID][]byte // the headers of each SYN, for an ICMP message to quote
}

// Forward takes every new connection that reaches the stack, whatever its destination. Each SYN is held until its
// handler, which runs in a goroutine of its own, accepts or refuses it; a handler that does neither leaves the SYN
// without an answer. At most Config.MaxHalfOpen requests are held, later ones are dropped (their SYN comes again).
// Close waits for the handlers.
func (s *Stack) Forward(handle func(*Request)) error {
	if !s.cfg.Promiscuous {
		return errors.New("stack: Forward needs a stack with Config.Promiscuous: other destinations would not reach it")
	}
	f := &forwarder{st: s, handle: handle, max: s.cfg.MaxHalfOpen, held: make(map[tcpipstack.TransportEndpointID][]byte)}
	f.tcp = tcp.NewForwarder(s.ns, min(defaultBuffer, s.cfg.MaxBuffer), f.max, f.run)
	s.forwarder.Store(f)
	return nil
}

// catch takes the segments that belong to no connection for Forward. The netstack reads its handler without a lock, so
// this one is set before the first packet can come; SYNs before Forward are dropped, and come again.
func (s *Stack) catch() {
	s.ns.SetTransportProtocolHandler(tcp.ProtocolNumber, func(id tcpipstack.TransportEndpointID, pkt *tcpipstack.PacketBuffer) bool {
		f := s.forwarder.Load()
		return f == nil || f.packet(id, pkt)
	})
}

// packet is given each segment that belongs to no connection.
func (f *forwarder) packet(id tcpipstack.TransportEndpointID, pkt *tcpipstack.PacketBuffer) bool {
	t := header.TCP(pkt.TransportHeader().Slice())
	if t.Flags()&(header.TCPFlagSyn|header.TCPFlagAck) != header.TCPFlagSyn {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.held[id]; ok {
		return true // repeated
	}
	if len(f.held) >= f.max {
		f.st.drops.requests.Add(1)
		return true
	}
	f.held[id] = append(slices.Clone(pkt.NetworkHeader().Slice()), t...)
	if !f.tcp.HandlePacket(id, pkt) {
		delete(f.held, id)
		return false
	}
	return true
}

func (f *forwarder) run(fr *tcp.ForwarderRequest) {
	id := fr.ID()
	f.mu.Lock()
	r := &Request{st: f.st, fr: fr, flow: flowOf(id), syn: f.held[id]}
	f.mu.Unlock()
	r.release = func() {
		f.mu.Lock()
		delete(f.held, id)
		f.mu.Unlock()
	}
	defer r.settle(func() {
		fr.Complete(false)
		r.release()
	})
	if !f.st.begin() {
		return
	}
	defer f.st.pending.Done()
	f.handle(r)
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
	st      *Stack
	fr      *tcp.ForwarderRequest
	flow    Flow
	syn     []byte
	once    sync.Once
	release func() // makes room for another
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
	r.release()
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
		back := Flow{Local: r.flow.Remote, Remote: r.flow.Local}
		errno := refusalOf(err)
		r.fr.Complete(answersByRST(errno))
		r.release()
		switch errno {
		case syscall.EHOSTUNREACH, syscall.EHOSTDOWN:
			r.st.unreachable(back, header.ICMPv4HostUnreachable, header.ICMPv6AddressUnreachable, r.syn)
		case syscall.ENETUNREACH:
			r.st.unreachable(back, header.ICMPv4NetUnreachable, header.ICMPv6NetworkUnreachable, r.syn)
		case syscall.EACCES, syscall.EPERM:
			r.st.unreachable(back, header.ICMPv4AdminProhibited, header.ICMPv6Prohibited, r.syn)
		}
	})
}

func answersByRST(errno syscall.Errno) bool {
	switch errno {
	case syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.EHOSTDOWN, syscall.ENETUNREACH, syscall.EACCES, syscall.EPERM:
		return false
	}
	return true
}
