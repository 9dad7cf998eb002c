package eno

import (
	"bytes"
	"slices"
)

// exchange judges the peer's SYN-form option, settles the TEP and forms the transcript. It reports false after it has
// disabled ENO. RFC 8547, Sections 4.3 to 4.6 and 4.8.
func (n *Negotiation) exchange(options []byte) bool {
	raw, err := FindSYN(options)
	if err != nil {
		n.malformed(err)
		return false
	}
	if raw == nil {
		n.disable(PeerNoENO)
		return false
	}
	n.peer = bytes.Clone(raw) // parsed from the copy: the segment is not ours to keep
	peer, _, err := ParseOption(n.peer)
	if err != nil {
		n.malformed(err)
		return false
	}
	n.out.PeerOption = peer
	n.out.PeerAppAware = peer.Global&AppAware != 0

	switch {
	case peer.Global&PassiveRole != 0 == n.roleB():
		n.disable(RoleConflict)
	case n.cfg.MandatoryAppAware && !n.out.PeerAppAware:
		n.disable(NotAppAware)
	case n.cfg.Passive:
		n.answer(peer)
	case n.cfg.Vacuous:
		n.disable(PolicyOff)
	default:
		n.match(peer)
	}
	if n.out.State == Disabled {
		return false
	}
	n.formTranscript()
	return true
}

// answer forms a passive opener's option: b = 1 and the TEP it prefers most among the valid ones. RFC 8547, Section 4.5.
func (n *Negotiation) answer(peer Option) {
	reply := Option{Global: n.global(), ExplicitGlobal: true}
	if !n.cfg.Vacuous {
		offer, theirs, ok := n.prefer(peer)
		if !ok {
			n.disable(NoCommonTEP)
			return
		}
		ours := Suboption{TEP: offer.TEP}
		if offer.Answer != nil {
			ours = offer.Answer(theirs)
		}
		if ours.TEP != offer.TEP {
			n.disable(NoCommonTEP)
			return
		}
		reply.Suboptions = []Suboption{ours}
		if !ours.V && n.marks(peer) {
			reply.Suboptions = []Suboption{*n.cfg.Mark, ours}
			n.out.Marked = true
		}
		n.agree(ours.Byte(), ours, theirs)
		n.retract = offer.Retract
	}
	own, err := AppendOption(nil, reply)
	if err != nil { // an Answer that does not fit a TCP header
		n.disable(NoRoom)
		return
	}
	n.own = own
}

// retractAnswer replaces a passive opener's answer, not sent yet, by one without suboption data, for want of room. A
// host that does not agree to resume asks for fresh key exchange so. RFC 8548, Section 3.5.
func (n *Negotiation) retractAnswer() {
	if !n.out.Own.V && !n.out.Marked {
		return
	}
	n.out.Marked = false
	if n.retract != nil {
		n.retract()
	}
	ours := Suboption{TEP: n.out.TEP}
	own, err := AppendOption(nil, Option{Global: n.global(), ExplicitGlobal: true, Suboptions: []Suboption{ours}})
	if err != nil {
		return // one octet for a TEP that was there before
	}
	n.own = own
	n.agree(ours.Byte(), ours, n.out.Peer)
	n.formTranscript()
}

// retractOffers replaces an active opener's option, not sent yet, by one without suboption data, for want of room.
func (n *Negotiation) retractOffers() {
	offers := slices.Clone(n.cfg.Offers)
	retracted := false
	for i := range offers {
		if offers[i].Data == nil {
			continue
		}
		offers[i].Data, retracted = nil, true
		if offers[i].Retract != nil {
			offers[i].Retract()
		}
	}
	if !retracted {
		return
	}
	n.cfg.Offers = offers
	if own, err := AppendOption(nil, n.opening()); err == nil {
		n.own = own
	}
}

// prefer returns the first offer that the peer's option makes valid, one that resumes a session before all others.
func (n *Negotiation) prefer(peer Option) (Offer, Suboption, bool) {
	for _, offer := range n.cfg.Offers {
		if offer.Resumes == nil {
			continue
		}
		if theirs, ok := valid(offer, peer); ok && offer.Resumes(theirs) {
			return offer, theirs, true
		}
	}
	for _, offer := range n.cfg.Offers {
		if theirs, ok := valid(offer, peer); ok {
			return offer, theirs, true
		}
	}
	return Offer{}, Suboption{}, false
}

// match settles the TEP of an active opener: the last valid one in host B's option, whoever of the two that is.
// RFC 8547, Section 4.5.
func (n *Negotiation) match(peer Option) {
	own := n.opening()
	ofB := peer
	if n.roleB() {
		ofB = own
	}
	for i := len(ofB.Suboptions) - 1; i >= 0; i-- {
		tep := ofB.Suboptions[i].TEP
		for j, offer := range n.cfg.Offers {
			if offer.TEP != tep {
				continue
			}
			if theirs, ok := valid(offer, peer); ok {
				ours := own.Suboptions[len(own.Suboptions)-1-j] // opening reverses the offers
				n.agree(ofB.Suboptions[i].Byte(), ours, theirs)
				n.out.Marked = n.marks(own) && n.marks(peer)
				return
			}
		}
	}
	n.disable(NoCommonTEP)
}

// valid returns the peer's suboption for the offer's TEP if it names it once, with valid data. No TEP known here defines
// what naming it twice would mean. RFC 8547, Section 4.5.
func valid(offer Offer, peer Option) (Suboption, bool) {
	var theirs Suboption
	count := 0
	for _, s := range peer.Suboptions {
		if s.TEP == offer.TEP {
			theirs = s
			count++
		}
	}
	if count != 1 || offer.Valid != nil && !offer.Valid(theirs) {
		return Suboption{}, false
	}
	return theirs, true
}

func (n *Negotiation) agree(tepByte byte, ours, theirs Suboption) {
	n.out.TEP = ours.TEP
	n.out.TEPByte = tepByte
	n.out.Own, n.out.Peer = ours, theirs
}

// opening is an active opener's option: its offers, least preferred first. RFC 8547, Section 4.5.
func (n *Negotiation) opening() Option {
	o := Option{Global: n.global()}
	o.ExplicitGlobal = o.Global != 0 // else implicit, and an octet saved
	if n.cfg.Mark != nil {
		o.Suboptions = append(o.Suboptions, *n.cfg.Mark)
	}
	for i := len(n.cfg.Offers) - 1; i >= 0; i-- {
		offer := n.cfg.Offers[i]
		o.Suboptions = append(o.Suboptions, Suboption{TEP: offer.TEP, V: offer.Data != nil, Data: offer.Data})
	}
	return o
}

// marks reports whether an option has Mark.
func (n *Negotiation) marks(o Option) bool {
	return n.cfg.Mark != nil && slices.ContainsFunc(o.Suboptions, func(s Suboption) bool {
		return s.TEP == n.cfg.Mark.TEP && s.V == n.cfg.Mark.V && bytes.Equal(s.Data, n.cfg.Mark.Data)
	})
}

func (n *Negotiation) global() Global {
	var g Global
	if n.roleB() {
		g |= PassiveRole
	}
	if n.cfg.AppAware || n.cfg.MandatoryAppAware {
		g |= AppAware
	}
	return g
}

func (n *Negotiation) roleB() bool { return n.cfg.Passive || n.cfg.RoleB }

// formTranscript joins both options as on the wire, host A's first. RFC 8547, Section 4.8.
func (n *Negotiation) formTranscript() {
	a, b := n.own, n.peer
	if n.roleB() {
		a, b = b, a
	}
	n.out.Transcript = append(bytes.Clone(a), b...)
}
