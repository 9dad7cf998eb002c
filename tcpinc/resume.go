package tcpinc

import (
	"crypto/rand"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
)

// Resumption in the opening of a connection. RFC 8548, Sections 3.2 and 3.5:
//
//	active opener             passive opener
//	takes a ticket
//	half | nonce  ---SYN--->  names a secret of a session here: claims the ticket, answers with half | nonce.
//	                          Else, or without room for that: v = 0, fresh key exchange
//	resumes iff the peer's    resumes iff it has answered so and the first ACK confirms ENO
//	half is the other one
//
// A ticket that does not come to be used is erased: its secret was offered, so it is spent.

// maxSYNOption is how long an ENO option in a SYN can be, in octets: what a TCP stack with the usual other options leaves.
const maxSYNOption = 21

// resumption is what one Handshake has to do with cached sessions.
type resumption struct {
	cfg    Config
	active bool
	ticket *tcpcrypt.Ticket // nil: none was offered, or agreed to
	nonce  []byte           // of this host
	theirs []byte           // the peer's, of the suboption that matched
	void   bool             // there was no room for it
}

// wants says which sessions the configuration lets resume.
func (cfg Config) wants(s tcpcrypt.Session) bool {
	return slices.Contains(cfg.TEPs, s.TEP) && slices.Contains(cfg.Ciphers, s.Cipher) &&
		(cfg.InnerSpace != InnerSpaceOff || s.Traits&traitInnerSpace == 0) &&
		cfg.mayResume(s.Note)
}

// resumes is whether sessions are resumed at all.
func (cfg Config) resumes() bool { return cfg.Sessions != nil && !cfg.NoResume }

// resumeNonceLen is the length of this host's nonces.
func (cfg Config) resumeNonceLen() int {
	if cfg.ResumeNonce == 0 {
		return tcpcrypt.MaxResumeNonceLen
	}
	return max(cfg.ResumeNonce, 0)
}

func (cfg Config) drawNonce() ([]byte, error) {
	random := cfg.Rand
	if random == nil {
		random = rand.Reader
	}
	nonce := make([]byte, cfg.resumeNonceLen())
	_, err := io.ReadFull(random, nonce)
	return nonce, err
}

// offer takes a ticket for a peer and returns the offers of a SYN: the ticket's TEP, and of the others what there is room
// for. Without a ticket it returns the offers as they are.
func (r *resumption) offer(to netip.AddrPort, offers []eno.Offer, roleB bool) ([]eno.Offer, error) {
	if !r.cfg.resumes() {
		return offers, nil
	}
	nonce, err := r.cfg.drawNonce()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoRandomness, err)
	}
	room := maxSYNOption - 2 - 1 - tcpcrypt.ResumeHalfLen - len(nonce) // for other TEPs: kind and length, this TEP, its data
	if roleB || r.cfg.appAware() {
		room-- // the global suboption
	}
	if roleB && (room < 1 || len(offers) < 2) {
		return offers, nil // host A ignores the suboption unless its own matches, and there must be another TEP then
	}
	t := r.cfg.Sessions.Take(to, r.cfg.wants)
	if t == nil {
		return offers, nil
	}
	r.ticket, r.nonce = t, nonce
	resumed := []eno.Offer{{TEP: t.TEP(), Data: t.Suboption(nonce), Retract: r.retract, Valid: func(peer eno.Suboption) bool {
		switch {
		case r.matches(peer):
			return true
		case roleB && !r.void:
			return false // host A ignores the suboption that it was sent
		}
		return freshValid(peer, roleB)
	}}}
	for _, o := range offers {
		if o.TEP != t.TEP() && len(resumed) <= room {
			resumed = append(resumed, o)
		}
	}
	return resumed, nil
}

// answer makes an offer one by which a passive opener agrees to resume.
func (r *resumption) answer(o eno.Offer) eno.Offer {
	if !r.cfg.resumes() {
		return o
	}
	o.Retract = r.retract
	o.Resumes = func(peer eno.Suboption) bool {
		return peer.V && r.cfg.resumes() && r.cfg.Sessions.Knows(o.TEP, peer.Data, r.cfg.wants)
	}
	o.Answer = func(peer eno.Suboption) eno.Suboption {
		fresh := eno.Suboption{TEP: o.TEP}
		if !peer.V || !r.cfg.resumes() {
			return fresh
		}
		t := r.cfg.Sessions.Claim(o.TEP, peer.Data, r.cfg.wants)
		if t == nil {
			return fresh
		}
		nonce, err := r.cfg.drawNonce()
		if err != nil {
			t.Erase()
			return fresh
		}
		r.ticket, r.nonce = t, nonce
		r.matches(peer)
		return eno.Suboption{TEP: o.TEP, V: true, Data: t.Suboption(nonce)}
	}
	return o
}

// matches reports whether the peer's suboption names the ticket's secret.
func (r *resumption) matches(peer eno.Suboption) bool {
	if r.ticket == nil || r.void || !peer.V || !r.ticket.Live() {
		return false
	}
	nonce, ok := r.ticket.Match(peer.Data)
	if ok {
		r.theirs = slices.Clone(nonce)
	}
	return ok
}

// retract is told that there is no room for the suboption.
func (r *resumption) retract() {
	r.void = true
	r.ticket.Erase()
}

// offered reports whether an active opener's SYN offered to resume.
func (r *resumption) offered() bool { return r.active && r.ticket != nil && !r.void }

// agreed returns the ticket to resume with and sn[i], once a negotiation has succeeded; nil if keys are to be exchanged.
func (r *resumption) agreed(out eno.Outcome) (*tcpcrypt.Ticket, []byte) {
	if r.ticket == nil || r.void || out.TEP != r.ticket.TEP() || !out.Own.V || !out.Peer.V {
		return nil, nil
	}
	return r.ticket, r.ticket.SessionNonce(r.nonce, r.theirs)
}

// opener returns what tells the frames of a peer that believes it has resumed; nil if there was no talk of it.
func (r *resumption) opener() *tcpcrypt.Opener {
	if r.ticket == nil || r.void || r.active {
		return nil
	}
	o, err := tcpcrypt.NewOpener(r.ticket, r.ticket.SessionNonce(r.nonce, r.theirs))
	if err != nil {
		return nil
	}
	return o
}

// release gives up what is not used.
func (r *resumption) release() {
	if r.ticket != nil {
		r.ticket.Erase()
	}
}
