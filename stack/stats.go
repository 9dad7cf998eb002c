package stack

import "sync/atomic"

// drops counts what the stack itself turned away.
type drops struct {
	requests, evicted, gone atomic.Uint64
}

// Stats are counts since the stack was made, but for the first four, which are of now.
type Stats struct {
	Flows          int // handshakes in progress that carry options, those below included
	HalfOpen       int // of these, those that other hosts have begun and not completed
	Established    int // connections in ESTABLISHED or CLOSE-WAIT
	Endpoints      int // connections in whatever state, and listeners
	Fragments      uint64
	BadChecksums   uint64
	UnknownENO     uint64 // segments with ENO of no known connection, answered with RST
	Refused        uint64 // connections that a Handshake refused
	WithoutRoom    uint64 // SYNs answered without a Handshake because there were too many
	Fleeting       uint64 // SYNs answered by a Handshake that was not kept, for want of room
	UnsentResets   uint64 // RSTs not sent because too many were waiting
	ResetsHeld     uint64 // RSTs that a Guard held
	ResetsDropped  uint64 // RSTs that a Guard dropped
	ResetsTaken    uint64 // RSTs that were held and delivered later; the other held ones were refused
	DroppedRequest uint64 // SYNs dropped because too many requests were being answered
	EvictedRequest uint64 // requests of Forward given up for newer ones
	GoneRequest    uint64 // requests of Forward whose application went away
	SYNCookies     uint64 // SYNs answered with a cookie
	SegmentsSent   uint64
	Retransmitted  uint64
	SegmentsValid  uint64 // received
	ResetsSent     uint64
	ResetsReceived uint64
}

// Stats returns what was counted.
func (s *Stack) Stats() Stats {
	t, c := s.ns.Stats().TCP, &s.shim.Counters
	all, halfOpen := s.shim.Flows()
	return Stats{
		Flows:          all,
		HalfOpen:       halfOpen,
		Established:    int(t.CurrentEstablished.Value()),
		Endpoints:      len(s.ns.RegisteredEndpoints()),
		Fragments:      c.Fragments.Load(),
		BadChecksums:   c.BadSums.Load() + t.ChecksumErrors.Value(),
		UnknownENO:     c.Unknown.Load(),
		Refused:        c.Refused.Load(),
		WithoutRoom:    c.NoRoom.Load(),
		Fleeting:       c.Fleeting.Load(),
		UnsentResets:   c.LostOwn.Load(),
		ResetsHeld:     c.HeldRSTs.Load(),
		ResetsDropped:  c.DroppedRSTs.Load(),
		ResetsTaken:    c.TakenRSTs.Load(),
		DroppedRequest: s.drops.requests.Load(),
		EvictedRequest: s.drops.evicted.Load(),
		GoneRequest:    s.drops.gone.Load(),
		SYNCookies:     t.ListenOverflowSynCookieSent.Value(),
		SegmentsSent:   t.SegmentsSent.Value(),
		Retransmitted:  t.Retransmits.Value(),
		SegmentsValid:  t.ValidSegmentsReceived.Value(),
		ResetsSent:     t.ResetsSent.Value(),
		ResetsReceived: t.ResetsReceived.Value(),
	}
}
