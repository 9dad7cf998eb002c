package stack

import (
	"container/list"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	tcpipstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

const (
	sweepPeriod  = time.Second
	fullLogEvery = time.Minute

	// An application that goes away before its connection is open sends nothing: only its SYN comes no more. RFC 6298
	// repeats it after 1 s, then after twice the last interval; Linux since 6.5 after 1 s five times before that
	// (net.ipv4.tcp_syn_linear_timeouts), and never after more than 120 s.
	firstSYNInterval = time.Second
	lastSYNInterval  = 120 * time.Second
	// The kernel's long timers are late by up to an eighth, and either side may be short of CPU. One that is given up
	// too early loses little: its next SYN is a request again.
	synMargin = 2 * time.Second
)

// forwarder holds requests.
type forwarder struct {
	st     *Stack
	tcp    *tcp.Forwarder
	handle func(*Request)
	max    int

	mu       sync.Mutex
	held     map[tcpipstack.TransportEndpointID]*Request
	order    list.List   // of *Request, the oldest first
	sweeper  tcpip.Timer // nil: nothing is held
	logged   tcpip.MonotonicTime
	hasLog   bool
	stopping bool
}

// Forward takes every new connection that reaches the stack, whatever its destination. Each SYN is held until its
// handler, which runs in a goroutine of its own, accepts or refuses it; a handler that does neither leaves the SYN
// without an answer. A request ends by itself, as its Context tells, when its SYN comes no more, and the oldest one when
// Config.MaxRequests are held and another comes: who answers does so within a round trip, so the oldest is the least
// likely to come to anything. Close waits for the handlers.
func (s *Stack) Forward(handle func(*Request)) error {
	if !s.cfg.Promiscuous {
		return errors.New("stack: Forward needs a stack with Config.Promiscuous: other destinations would not reach it")
	}
	f := &forwarder{st: s, handle: handle, max: s.cfg.MaxRequests, held: make(map[tcpipstack.TransportEndpointID]*Request)}
	f.tcp = tcp.NewForwarder(s.ns, min(defaultBuffer, s.cfg.MaxBuffer), f.max, f.run)
	s.mu.Lock()
	defer s.mu.Unlock()
	f.stopping = s.closed
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
	now := f.st.clock.NowMonotonic()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopping {
		return true
	}
	if r, ok := f.held[id]; ok {
		if t.SequenceNumber() == r.seq {
			r.seen(now)
			return true
		}
		// The application has gone and another has its port.
		if !f.end(r, errGone) {
			return true
		}
		f.st.drops.gone.Add(1)
	}
	if len(f.held) >= f.max && !f.makeRoom(now) {
		f.st.drops.requests.Add(1)
		return true
	}
	r := newRequest(f, id, append(slices.Clone(pkt.NetworkHeader().Slice()), t...), t.SequenceNumber(), now)
	f.held[id] = r
	r.place = f.order.PushBack(r)
	if !f.tcp.HandlePacket(id, pkt) {
		r.settled = true
		f.release(r)
		return false
	}
	if f.sweeper == nil {
		f.sweeper = f.st.clock.AfterFunc(sweepPeriod, f.sweep)
	}
	return true
}

func (f *forwarder) run(fr *tcp.ForwarderRequest) {
	f.mu.Lock()
	r := f.held[fr.ID()]
	r.fr = fr
	f.mu.Unlock()
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

// makeRoom ends the oldest request; false if there is none that could be. The lock is held.
func (f *forwarder) makeRoom(now tcpip.MonotonicTime) bool {
	for e := f.order.Front(); e != nil; e = e.Next() {
		r := e.Value.(*Request)
		if r.settled || r.fr == nil {
			continue
		}
		f.logFull(now)
		f.st.drops.evicted.Add(1)
		return f.end(r, errEvicted)
	}
	return false
}

// logFull says, once in a while, that requests are given up for others. The lock is held.
func (f *forwarder) logFull(now tcpip.MonotonicTime) {
	if f.hasLog && now.Sub(f.logged) < fullLogEvery {
		return
	}
	f.hasLog, f.logged = true, now
	counts := make(map[netip.Addr]int)
	var busiest netip.Addr
	for _, r := range f.held {
		a := r.flow.Remote.Addr()
		counts[a]++
		if counts[a] > counts[busiest] {
			busiest = a
		}
	}
	f.st.log.Warn("too many connections wait for an answer: the oldest are given up for new ones",
		"waiting", len(f.held), "busiest", busiest, "waiting_for_busiest", counts[busiest])
}

// end gives a request up in silence; false if it is being answered already. The lock is held.
func (f *forwarder) end(r *Request, why error) bool {
	if r.settled || r.fr == nil {
		return false
	}
	r.settled = true
	r.fr.Complete(false)
	f.release(r)
	r.cancel(why)
	return true
}

// release makes room for another. The lock is held.
func (f *forwarder) release(r *Request) {
	delete(f.held, r.id)
	f.order.Remove(r.place)
}

// sweep ends the requests whose SYN comes no more.
func (f *forwarder) sweep() {
	now := f.st.clock.NowMonotonic()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sweeper = nil
	if f.stopping {
		return
	}
	for e := f.order.Front(); e != nil; {
		r := e.Value.(*Request)
		e = e.Next()
		if r.overdue(now) && f.end(r, errGone) {
			f.st.drops.gone.Add(1)
		}
	}
	if len(f.held) > 0 {
		f.sweeper = f.st.clock.AfterFunc(sweepPeriod, f.sweep)
	}
}

// stop ends what is held and takes no more.
func (f *forwarder) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopping = true
	if f.sweeper != nil {
		f.sweeper.Stop()
		f.sweeper = nil
	}
	for _, r := range f.held {
		if !f.end(r, net.ErrClosed) {
			r.cancel(net.ErrClosed)
		}
	}
}
