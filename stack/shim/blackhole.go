package shim

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	tcpipstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// baseMTU is the size, in octets, that every path is thought to take: that of RFC 4821, Section 7.7, where IPv6 sets it
	// (RFC 8200, Section 5). What is not larger is never the path's fault.
	baseMTU = header.IPv6MinimumMTU

	// maxAgain is how often a segment is sent again, and nothing of it acknowledged, before its size is blamed. So Linux
	// with tcp_mtu_probing (tcp_retries1).
	maxAgain = 3

	// watchTime is how long segments are looked at after a timeout: the netstack counts it and sends the segment at once.
	watchTime = time.Second

	// suspectTime is how long no timer has to expire before nothing is suspected: the netstack's greatest timeout.
	suspectTime = 2 * time.Minute

	maxSuspects = 4096 // of some 100 octets
)

// holes finds connections whose large segments get lost and whose small ones might not: paths that drop what is too big
// and do not say so (RFC 2923, Section 2.1). Segments are looked at only while timers expire somewhere in the netstack.
type holes struct {
	timeouts *tcpip.StatCounter // of the whole netstack
	seen     atomic.Uint64      // of these, those that need no look any more

	mu       sync.Mutex
	last     uint64
	until    tcpip.MonotonicTime
	suspects map[Flow]suspect
}

// suspect is the last large segment of a connection that has left.
type suspect struct {
	seq      uint32
	again    int
	timeouts uint64 // of the netstack, then
}

// stirring tells whether a timer has expired a moment ago.
func (h *holes) stirring() bool { return h.timeouts.Value() != h.seen.Load() }

// look sees outgoing packets before they change. The caller may hold locks of the netstack's.
func (s *Shim) look(pkts tcpipstack.PacketBufferList) {
	for _, pkt := range pkts.AsSlice() {
		if f, seq, ok := large(pkt); ok && s.holes.sent(f, seq, s.clock.NowMonotonic()) {
			s.worker.narrow(f)
		}
	}
}

// large names the connection and the sequence number of a packet with data, if it is larger than baseMTU on its path.
func large(pkt *tcpipstack.PacketBuffer) (Flow, uint32, bool) {
	size := pkt.Data().Size()
	if g := pkt.GSOOptions; g.Type != tcpipstack.GSONone && g.MSS > 0 {
		size = min(size, int(g.MSS)) // a super-segment
	}
	ip, t := pkt.NetworkHeader().Slice(), header.TCP(pkt.TransportHeader().Slice())
	if len(ip)+len(t)+size <= baseMTU || pkt.TransportProtocolNumber != header.TCPProtocolNumber ||
		len(t) < header.TCPMinimumSize || t.Flags().Contains(header.TCPFlagSyn) {
		return Flow{}, 0, false
	}
	src, dst := addresses(pkt.NetworkProtocolNumber, ip)
	f := Flow{Local: netip.AddrPortFrom(src, t.SourcePort()), Remote: netip.AddrPortFrom(dst, t.DestinationPort())}
	return f, t.SequenceNumber(), true
}

// sent counts a large segment, and reports whether its size may be why it is not acknowledged. The first that is seen after
// a timeout is taken for one that is sent again. If the timeout was another connection's, one time less would be enough: the
// Host knows of those with fewer timeouts in all.
func (h *holes) sent(f Flow, seq uint32, now tcpip.MonotonicTime) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch n := h.timeouts.Value(); {
	case n != h.last:
		if h.suspects == nil || now.Sub(h.until) > suspectTime {
			h.suspects = make(map[Flow]suspect)
		}
		h.last, h.until = n, now.Add(watchTime)
	case now.After(h.until):
		h.seen.Store(n)
		return false
	}
	x, known := h.suspects[f]
	switch {
	case known && x.seq == seq:
		x.again++
	case known && x.timeouts == h.last:
		x.again = 0
	default:
		x.again = 1
	}
	if !known && len(h.suspects) >= maxSuspects {
		for other := range h.suspects {
			delete(h.suspects, other)
			break
		}
	}
	x.seq, x.timeouts = seq, h.last
	h.suspects[f] = x
	return x.again >= maxAgain
}

// acquit forgets what is known of a connection.
func (h *holes) acquit(f Flow) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.suspects, f)
}

// narrow has the netstack send smaller segments on a connection, unless it has not sent them again often enough.
func (s *Shim) narrow(f Flow) {
	if s.host.Timeouts(f) < maxAgain {
		return
	}
	s.holes.acquit(f)
	mtu := baseMTU
	if e := s.table.get(f); e != nil && e.active { // as in tooBig
		e.told(mtu)
		mtu -= reserve
	}
	s.host.Narrow(f, mtu)
}
