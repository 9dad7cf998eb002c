package tcpinc

import (
	"sync"
	"time"

	"innertun/tcpinc/eno"
)

// Handshake is the negotiation of one connection. A TCP stack calls AppendOptions, AppendPayload and Receive while the
// connection opens; none of them blocks or keeps a slice. It is safe for concurrent use.
type Handshake struct {
	mu          sync.Mutex
	negotiation *eno.Negotiation
	clock       Clock
	firstSYN    time.Time
	rtt         time.Duration
}

// AppendOptions appends TCP options for an outgoing segment, at most room octets.
func (h *Handshake) AppendOptions(dst []byte, k Segment, room int) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	if k == SYN && h.firstSYN.IsZero() {
		h.firstSYN = h.clock.Now()
	}
	return h.negotiation.AppendOptions(dst, k, room)
}

// AppendPayload appends nothing: no TEP here defines data in a SYN. RFC 8547, Section 4.7.
func (h *Handshake) AppendPayload(dst []byte, k Segment, room int) []byte { return dst }

// Receive takes the options of an incoming segment. It never takes SYN data, which therefore must be neither delivered
// nor acknowledged (RFC 8547, Section 4.7), and never asks for the connection to be aborted.
func (h *Handshake) Receive(k Segment, options, payload []byte) (taken bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if k == SYNACK && h.rtt == 0 && !h.firstSYN.IsZero() {
		h.rtt = h.clock.Now().Sub(h.firstSYN)
	}
	h.negotiation.Receive(k, options)
	return false, nil
}

// Outcome returns what the negotiation has come to so far. It is final for an active opener once its connection is
// open, for a passive one once the third segment has come.
func (h *Handshake) Outcome() eno.Outcome {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.negotiation.Outcome()
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
