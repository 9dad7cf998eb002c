package shim

import (
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
)

// A client may use its port again while the server's end of the earlier connection is in TIME-WAIT. The netstack opens a
// new connection then if the SYN has a higher sequence number than all it has seen. A client that has sent faster than its
// clock of initial sequence numbers runs (64 ns an octet in Linux, 16 MB/s) comes with a lower one; it must be let in for
// its later timestamp (RFC 6191), which the netstack does not look at. So the SYNs of closed connections are remembered.
//
// Old duplicates are told by their SYN: those of the last connection have its sequence number, and those of still earlier
// ones, an earlier timestamp.

const (
	maxPast  = 16384
	pastTime = 60 * time.Second // more than the netstack's TIME-WAIT
)

// pastSYN is the SYN of a connection that was accepted and is closed.
type pastSYN struct {
	seq     seqnum.Value
	ts      uint32
	expires tcpip.MonotonicTime
}

// past remembers them, bounded. Its zero value is empty.
type past struct {
	mu    sync.Mutex
	syns  map[Flow]pastSYN
	order []Flow // the oldest first; those of them that have come again are there twice
}

func (p *past) add(f Flow, s pastSYN, now tcpip.MonotonicTime) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.syns == nil {
		p.syns = make(map[Flow]pastSYN)
	}
	for len(p.order) > 0 {
		oldest := p.order[0]
		if o, ok := p.syns[oldest]; ok && len(p.order) < maxPast && now.Before(o.expires) {
			break
		}
		delete(p.syns, oldest)
		p.order = p.order[1:]
	}
	p.syns[f] = s
	p.order = append(p.order, f)
}

// renews tells whether a SYN begins a new connection of a name that was in use: later by its timestamp, and not the old one.
func (p *past) renews(f Flow, seq seqnum.Value, options []byte, now tcpip.MonotonicTime) bool {
	ts, ok := timestamp(options)
	if !ok {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	old, ok := p.syns[f]
	return ok && now.Before(old.expires) && seq != old.seq && int32(ts-old.ts) > 0
}
