package eno

import (
	"bytes"
	"errors"
	"fmt"
)

// The way of a negotiation. A received segment is on the left of "/", a sent one on the right.
//
//	                          Idle
//	        active:  / SYN+ENO |  | passive:  SYN+ENO, a TEP valid /
//	                           v  v
//	                    SYNSent    SYNReceived
//	   SYN-ACK+ENO / |    |            | / SYN-ACK+ENO
//	                 |    | SYN+ENO /  |
//	                 |    | (simult.)  |
//	                 v    +---------+  |
//	            Confirmed           v  v
//	                 |            Exchanged
//	       / ACK+ENO |                | first ACK, with ENO /   (simult.: and / SYN-ACK+ENO)
//	                 +-----> Enabled <+
//
//	any but Enabled ----> Disabled: a segment up to the first ACK without ENO or ill-formed; no valid TEP; equal
//	roles; a = 0 in mandatory mode; ENO given up between SYNs; no room. No ENO is sent from then on.

// State is how far a negotiation has come.
type State uint8

const (
	Idle        State = iota // nothing sent or received
	SYNSent                  // active opener: its SYN with ENO is out
	SYNReceived              // passive opener: the peer's SYN with ENO was good, the answer is ready
	Exchanged                // both SYN-form options are known; no ACK with ENO has come yet
	Confirmed                // an ACK with ENO has come; ours has not been sent yet
	Enabled                  // ACKs with ENO sent and received: encryption is on for good
	Disabled                 // plain TCP, for good
)

func (s State) String() string {
	switch s {
	case Idle:
		return "idle"
	case SYNSent:
		return "syn-sent"
	case SYNReceived:
		return "syn-received"
	case Exchanged:
		return "exchanged"
	case Confirmed:
		return "confirmed"
	case Enabled:
		return "enabled"
	case Disabled:
		return "disabled"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Offer is one TEP this host is willing to use.
type Offer struct {
	TEP TEP
	// Data, if not nil, is sent by an active opener as suboption data with v = 1.
	Data []byte
	// Valid judges the peer's suboption: its data, by the TEP's specification and by what can be done now (RFC 8547,
	// Section 4.5, rule 2). Nil: all are valid.
	Valid func(peer Suboption) bool
	// Answer gives a passive opener's suboption in return for a valid one; the TEP must be the same. Nil: v = 0, no data.
	Answer func(peer Suboption) Suboption
	// Resumes, if not nil, tells whether a passive opener's Answer to a valid suboption would be one to resume a session:
	// such a TEP is preferred to all others. RFC 8548, Section 3.5.
	Resumes func(peer Suboption) bool
	// Retract, if not nil, hears that a segment has no room for Data, or for what Answer gave: v = 0 is sent instead.
	Retract func()
}

// Config tells what one host brings to one negotiation.
type Config struct {
	Passive bool    // passive opener: answers a SYN
	RoleB   bool    // active opener with b = 1, for a simultaneous open; a passive opener always has b = 1
	Offers  []Offer // most preferred first
	// AppAware sends a = 1. RFC 8547, Section 4.2.
	AppAware bool
	// MandatoryAppAware sends a = 1 and disables ENO if the peer does not.
	MandatoryAppAware bool
	// Vacuous sends an option without TEPs, instead of Offers: "supported but unavailable by configuration". RFC 8547,
	// Section 4.6.
	Vacuous bool
	// Mark, if not nil, is sent before all offers, by a passive opener only in answer to the same from its peer, and never
	// beside suboption data of a TEP that it answers with. It must name no TEP that is negotiated: the experimental one.
	Mark *Suboption
	// MaxSYNs is how many SYN-only segments an active opener sends with ENO before it leaves it out; 0: all.
	MaxSYNs int
}

// ErrConfig tells that a Config makes no sense; the text says why.
var ErrConfig = errors.New("eno: bad configuration")

// Outcome is what a negotiation has come to.
type Outcome struct {
	State  State
	Reason Reason // why it is Disabled
	Err    error  // for Malformed: what was wrong

	// Once Exchanged, Confirmed or Enabled:
	TEP        TEP       // the negotiated TEP
	TEPByte    byte      // as host B sent it, with its "v" bit: the first octet of a session ID
	Own, Peer  Suboption // what each host sent for that TEP
	Transcript []byte    // host A's option, then host B's. RFC 8547, Section 4.8
	Marked     bool      // both hosts sent Mark

	// Whatever the state:
	Role         Role
	PeerOption   Option // all that the peer sent
	AppAware     bool   // the own "a"
	PeerAppAware bool   // the peer's "a"
	Simultaneous bool   // both hosts were active openers
	ENOSent      bool   // a SYN or SYN-ACK with ENO was sent
	SYNsSent     int    // SYN-only segments sent, with ENO or without
}

// Encrypt reports whether the connection must be encrypted as far as this host can know: for the host that confirms
// last (an active opener) from the moment its ACK with ENO is due.
func (o Outcome) Encrypt() bool { return o.State == Confirmed || o.State == Enabled }

// Negotiation is one host's side of one connection's negotiation. It is not safe for concurrent use.
type Negotiation struct {
	cfg       Config
	out       Outcome
	own, peer []byte // the SYN-form options, as on the wire
	retract   func() // of the offer that a passive opener answers to
	sentACK   bool   // an ACK segment with ENO was sent
	gotACK    bool   // an ACK segment with ENO was received
	gotNonSYN bool
}

// New returns a negotiation, or an error that wraps ErrConfig.
func New(cfg Config) (*Negotiation, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	n := &Negotiation{cfg: cfg}
	n.out.Role = RoleA
	if n.roleB() {
		n.out.Role = RoleB
	}
	if !cfg.Passive {
		own, err := AppendOption(nil, n.opening())
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrConfig, err)
		}
		n.own = own
	}
	return n, nil
}

func (cfg Config) check() error {
	if len(cfg.Offers) == 0 && !cfg.Vacuous {
		return fmt.Errorf("%w: no TEP to offer", ErrConfig)
	}
	if len(cfg.Offers) > 0 && cfg.Vacuous {
		return fmt.Errorf("%w: a vacuous option has no TEPs", ErrConfig)
	}
	if cfg.Mark != nil && (cfg.Vacuous || cfg.Mark.TEP.Negotiable()) {
		return fmt.Errorf("%w: the mark is for beside TEPs, and none itself", ErrConfig)
	}
	seen := make(map[TEP]bool)
	for _, offer := range cfg.Offers {
		if !offer.TEP.Negotiable() {
			return fmt.Errorf("%w: TEP %s cannot be negotiated", ErrConfig, offer.TEP)
		}
		if seen[offer.TEP] {
			return fmt.Errorf("%w: TEP %s is offered twice", ErrConfig, offer.TEP)
		}
		seen[offer.TEP] = true
	}
	return nil
}

// Outcome returns what the negotiation has come to so far.
func (n *Negotiation) Outcome() Outcome {
	out := n.out
	out.AppAware = n.cfg.AppAware || n.cfg.MandatoryAppAware
	out.Transcript = bytes.Clone(out.Transcript)
	return out
}

// AppendOptions appends the ENO option for an outgoing segment, or nothing. Suboption data that does not fit into room
// octets when the option is sent for the first time is given up: see Offer.Retract. An option that does not fit even so
// is left out whole and disables ENO (NoRoom): part of the offers would do, but then retransmissions, which may have
// another room, could differ, and a header that small is a fault of the stack to be reported, not one to be lived with.
func (n *Negotiation) AppendOptions(dst []byte, k Segment, room int) []byte {
	switch k {
	case SYN:
		return n.appendSYN(dst, room)
	case SYNACK:
		return n.appendSYNACK(dst, room)
	case NonSYN:
		return n.appendNonSYN(dst, room)
	}
	return dst
}

func (n *Negotiation) appendSYN(dst []byte, room int) []byte {
	if n.cfg.Passive {
		return dst
	}
	// Between retransmissions an active opener may give up ENO. RFC 8547, Section 4.6.
	if limit := n.cfg.MaxSYNs; limit > 0 && n.out.SYNsSent >= limit && (n.out.State == Idle || n.out.State == SYNSent) {
		n.disable(SYNENODropped)
	}
	n.out.SYNsSent++
	if n.out.State == Idle {
		if len(n.own) > room {
			n.retractOffers()
		}
		n.out.State = SYNSent
	}
	return n.appendOwn(dst, room)
}

func (n *Negotiation) appendSYNACK(dst []byte, room int) []byte {
	switch n.out.State {
	case SYNReceived, Exchanged, Confirmed, Enabled: // a passive opener's; a simultaneous one's; a repeated one
	default:
		return dst
	}
	if n.out.State == SYNReceived && len(n.own) > room {
		n.retractAnswer()
	}
	if dst = n.appendOwn(dst, room); n.out.State == Disabled {
		return dst
	}
	if n.out.State == SYNReceived {
		n.out.State = Exchanged
	}
	n.sentACK = true
	n.settle()
	return dst
}

// appendOwn appends this host's SYN-form option, the same octets each time.
func (n *Negotiation) appendOwn(dst []byte, room int) []byte {
	if n.out.State == Disabled {
		return dst
	}
	if len(n.own) > room {
		if n.out.State != Enabled {
			n.disable(NoRoom)
		}
		return dst
	}
	n.out.ENOSent = true
	return append(dst, n.own...)
}

// appendNonSYN sends ENO until a non-SYN segment has come. RFC 8547, Section 4.6.
func (n *Negotiation) appendNonSYN(dst []byte, room int) []byte {
	switch n.out.State {
	case Exchanged, Confirmed, Enabled:
	default:
		return dst
	}
	if n.gotNonSYN && n.sentACK || n.out.TEP == 0 {
		return dst
	}
	if room < headerSize {
		if !n.sentACK {
			n.disable(NoRoom)
		}
		return dst
	}
	n.sentACK = true
	n.settle()
	return AppendNonSYN(dst)
}

// Receive takes the TCP options of an incoming segment of this connection, one that TCP accepts.
func (n *Negotiation) Receive(k Segment, options []byte) {
	if n.out.State == Disabled {
		return
	}
	switch k {
	case SYN:
		n.receiveSYN(options)
	case SYNACK:
		n.receiveSYNACK(options)
	case NonSYN:
		n.receiveNonSYN(options)
	}
}

func (n *Negotiation) receiveSYN(options []byte) {
	switch n.out.State {
	case Idle:
		if n.cfg.Passive && n.exchange(options) {
			n.out.State = SYNReceived
		}
	case SYNSent: // a simultaneous open
		n.out.Simultaneous = true
		if n.exchange(options) {
			n.out.State = Exchanged
		}
	case SYNReceived, Exchanged: // repeated, up to the first ACK
		n.compare(options)
	}
}

func (n *Negotiation) receiveSYNACK(options []byte) {
	if n.cfg.Passive {
		return
	}
	switch n.out.State {
	case SYNSent:
		if !n.exchange(options) {
			return
		}
	case Exchanged:
		if !n.compare(options) {
			return
		}
	default: // repeated: the first ACK is what counts
		return
	}
	n.gotACK = true
	n.out.State = Confirmed
	n.settle()
}

func (n *Negotiation) receiveNonSYN(options []byte) {
	switch n.out.State {
	case Idle, SYNSent, SYNReceived: // of an earlier connection: TCP answers it with RST
		return
	case Exchanged:
		if n.out.TEP == 0 { // a vacuous option has done its work
			n.disable(PolicyOff)
			return
		}
		if !HasNonSYN(options) {
			n.disable(Stripped)
			return
		}
		n.gotACK = true
		n.out.State = Confirmed
	}
	n.gotNonSYN = true
	n.settle()
}

// settle enables encryption once an ACK with ENO was both sent and received. RFC 8547, Section 4.6.
func (n *Negotiation) settle() {
	if n.out.State == Confirmed && n.sentACK && n.gotACK {
		n.out.State = Enabled
	}
}

// compare disables ENO if a repeated SYN or the SYN-ACK of a simultaneous open lacks the peer's option or alters it.
func (n *Negotiation) compare(options []byte) bool {
	raw, err := FindSYN(options)
	switch {
	case err != nil:
		n.malformed(err)
	case raw == nil:
		n.disable(PeerNoENO)
	case !bytes.Equal(raw, n.peer):
		n.malformed(errAltered)
	default:
		return true
	}
	return false
}

var errAltered = fmt.Errorf("%w: altered between two SYN segments", ErrMalformed)

func (n *Negotiation) malformed(err error) {
	n.disable(Malformed)
	n.out.Err = err
}

// disable falls back to plain TCP; what was negotiated so far is void.
func (n *Negotiation) disable(reason Reason) {
	n.out = Outcome{
		State:        Disabled,
		Reason:       reason,
		Role:         n.out.Role,
		PeerOption:   n.out.PeerOption,
		PeerAppAware: n.out.PeerAppAware,
		Simultaneous: n.out.Simultaneous,
		ENOSent:      n.out.ENOSent,
		SYNsSent:     n.out.SYNsSent,
	}
}
