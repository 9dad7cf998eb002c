package stack

import (
	"container/list"
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	tcpipstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Why a request ended before it was answered.
var (
	errGone    = errors.New("the application no longer waits for the connection")
	errEvicted = errors.New("given up for newer connections: too many wait for an answer")
)

// flowOf turns the identity of a forwarded connection round: Local is the application's end.
func flowOf(id tcpipstack.TransportEndpointID) Flow {
	return Flow{
		Local:  netip.AddrPortFrom(fromAddress(id.RemoteAddress), id.RemotePort),
		Remote: netip.AddrPortFrom(fromAddress(id.LocalAddress), id.LocalPort),
	}
}

// Request is an application's SYN, held.
type Request struct {
	f    *forwarder
	id   tcpipstack.TransportEndpointID
	flow Flow
	syn  []byte // its headers, for an ICMP message to quote
	seq  uint32

	ctx    context.Context
	cancel context.CancelCauseFunc

	// Under the forwarder's lock.
	fr       *tcp.ForwarderRequest // nil: the handler's goroutine has yet to begin
	settled  bool                  // somebody answers it, or has
	place    *list.Element
	last     tcpip.MonotonicTime // when the SYN came last
	interval time.Duration       // the longest between two of them
}

func newRequest(f *forwarder, id tcpipstack.TransportEndpointID, syn []byte, seq uint32, now tcpip.MonotonicTime) *Request {
	r := &Request{f: f, id: id, flow: flowOf(id), syn: syn, seq: seq, last: now}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	return r
}

// Context is cancelled as soon as nobody needs an answer: the application has gone (its SYN comes no more), the request
// was given up for newer ones, it has been accepted or refused, or the stack closes. context.Cause says which.
func (r *Request) Context() context.Context { return r.ctx }

// seen notes that the SYN came again. It may have been doubled, so the longest interval counts.
func (r *Request) seen(now tcpip.MonotonicTime) {
	r.interval = max(r.interval, now.Sub(r.last))
	r.last = now
}

// overdue tells whether the next SYN should have come long ago.
func (r *Request) overdue(now tcpip.MonotonicTime) bool {
	next := min(max(2*r.interval, firstSYNInterval), lastSYNInterval)
	return now.Sub(r.last) > next+next/8+synMargin
}

func (r *Request) release() {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	r.f.release(r)
}

// Flow returns the connection that is asked for: Local is the application's source, Remote the destination it wants.
func (r *Request) Flow() Flow { return r.flow }

// settle runs what answers the request, once.
func (r *Request) settle(answer func()) bool {
	r.f.mu.Lock()
	first := !r.settled
	r.settled = true
	r.f.mu.Unlock()
	if first {
		answer()
		r.cancel(nil)
	}
	return first
}

// Accept completes the application's handshake and returns the connection to it, whose local address is the
// destination that was asked for. It blocks until the connection is open.
func (r *Request) Accept() (*Conn, error) {
	var c *Conn
	var err error
	if !r.settle(func() { c, err = r.accept() }) {
		err = net.ErrClosed // also when the application has gone
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
	return newConn(r.f.st, ep, wq, Flow{Local: r.flow.Remote, Remote: r.flow.Local}, nil), nil
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
			r.f.st.unreachable(back, header.ICMPv4HostUnreachable, header.ICMPv6AddressUnreachable, r.syn)
		case syscall.ENETUNREACH:
			r.f.st.unreachable(back, header.ICMPv4NetUnreachable, header.ICMPv6NetworkUnreachable, r.syn)
		case syscall.EACCES, syscall.EPERM:
			r.f.st.unreachable(back, header.ICMPv4AdminProhibited, header.ICMPv6Prohibited, r.syn)
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
