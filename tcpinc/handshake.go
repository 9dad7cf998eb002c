package tcpinc

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt"
)

// Handshake is the negotiation of one connection. A TCP stack calls AppendOptions, AppendPayload and Receive while the
// connection opens; none of them blocks or keeps a slice. It is safe for concurrent use.
type Handshake struct {
	mu          sync.Mutex
	cfg         Config // filled
	negotiation *eno.Negotiation
	resume      *resumption
	upgrade     upgrade
	firstSYN    time.Time
	rtt         time.Duration

	resets atomic.Pointer[resetGuard] // once there are keys

	early    early
	fleeting fleeting
	cookie   []byte     // active: to be echoed; nil: none
	echoed   int        // passive: octets of the stream that the cookie took
	peer     netip.Addr // passive: where the SYN has come from; invalid: not known
	passive  bool
	shown    bool // passive: the peer's SYN was looked at for data

	gate *gate // nil: nobody waits
}

// AppendOptions appends TCP options for an outgoing segment, at most room octets.
func (h *Handshake) AppendOptions(dst []byte, k Segment, room int) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	if k == SYN && h.firstSYN.IsZero() {
		h.firstSYN = h.cfg.Clock.Now()
	}
	if !h.upgrade.on {
		return h.negotiation.AppendOptions(dst, k, room)
	}
	if k == SYN {
		h.negotiation.AppendOptions(nil, SYN, maxENOOption) // they are in the data; it counts
	}
	return dst
}

// AppendPayload appends the data of an upgraded SYN or SYN-ACK, whole or not at all. Others have none: no TEP here defines
// data in a SYN. RFC 8547, Section 4.7.
func (h *Handshake) AppendPayload(dst []byte, k Segment, room int) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.upgrade.on || k == NonSYN {
		return dst
	}
	var data []byte
	if h.passive {
		data = h.synackData(room)
	} else {
		data = h.synData(room)
	}
	if len(data) > room {
		return dst
	}
	return append(dst, data...)
}

// Receive takes the options of an incoming segment, and the data of an upgraded SYN or SYN-ACK. Other SYN data it does not
// take: it must be neither delivered nor acknowledged (RFC 8547, Section 4.7). An error asks for the connection to be
// aborted: ErrNotUpgraded, or what is wrong with an upgraded segment.
func (h *Handshake) Receive(k Segment, options, payload []byte) (taken bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if k == SYNACK && h.rtt == 0 && !h.firstSYN.IsZero() {
		h.rtt = h.cfg.Clock.Now().Sub(h.firstSYN)
	}
	defer func() {
		if k == SYNACK && err == nil {
			h.gate.answer()
		}
	}()
	switch {
	case k == SYN && !h.passive:
	case k == SYN && h.shown: // repeated: its data was looked at
		if h.upgrade.on {
			return false, nil
		}
	case k != NonSYN && h.cfg.InnerSpace != InnerSpaceOff:
		h.shown = true
		s, o, err := innerspace.ParseSYN(payload)
		if o == innerspace.Upgraded && (k == SYN || h.upgrade.on) {
			if err == nil {
				h.upgrade.on = true
				err = h.receiveUpgraded(k, s)
			}
			return err == nil, err
		}
		if h.upgrade.on {
			return false, ErrNotUpgraded
		}
		if h.fleeting.on {
			return false, nil // options of the header cannot be answered: nobody would know of it later
		}
	case k == NonSYN && h.upgrade.on:
		options = eno.AppendNonSYN(nil) // that this is an answer to the SYN-ACK-U shows that it has arrived
	}
	h.negotiation.Receive(k, options)
	return false, nil
}

// Declined is told that the peer has not taken the data of the SYN.
func (h *Handshake) Declined() error { return ErrNotUpgraded }

// Gate returns what the third segment has to wait for; nil: nothing.
func (h *Handshake) Gate() <-chan struct{} {
	if h.gate == nil {
		return nil
	}
	return h.gate.passage
}

// Outcome returns what the negotiation has come to so far. It is final for an active opener once its connection is
// open, for a passive one once the third segment has come.
func (h *Handshake) Outcome() eno.Outcome {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.negotiation.Outcome()
}

// offered reports whether the SYN offered to resume a session.
func (h *Handshake) offered() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.resume.offered()
}

// declined says that the peer has not agreed to resume.
func (h *Handshake) declined() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.resume.ticket.Missed()
}

// failed says that an offer to resume has led to no encryption.
func (h *Handshake) failed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.resume.ticket.Doubt()
	h.resume.release()
}

// agreed returns what to resume with, nil if keys are to be exchanged.
func (h *Handshake) agreed() (*tcpcrypt.Ticket, []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.resume.agreed(h.negotiation.Outcome())
}

// opener returns what tells frames of a resumed session that the peer may believe in; nil if there is none.
func (h *Handshake) opener() *tcpcrypt.Opener {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.resume.opener()
}

// release gives up keys that were not used: of a session that was offered or accepted, and of an exchange in the SYNs. Nil
// has none.
func (h *Handshake) release() {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.resume.release()
	if h.upgrade.exchange != nil {
		h.upgrade.exchange.Erase()
		h.upgrade.exchange = nil
	}
	if h.upgrade.prepared != nil {
		h.upgrade.prepared.Erase()
	}
}

// SYNsSent counts the SYN-only segments sent, retransmissions included.
func (h *Handshake) SYNsSent() int { return h.Outcome().SYNsSent }

// RTT is the time from the first SYN to the first SYN-ACK: an upper bound of the round-trip time, as a SYN may have been
// lost in between. 0: not known.
func (h *Handshake) RTT() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.rtt
}
