package tcpinc

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt"
)

// An upgraded opening carries what would be options of the header in the data of SYN and SYN-ACK, and the key exchange
// with them. docs/inner-space.md.
//
//	active opener                                   passive opener
//	SYN-U: ENO, Init1 (or a session)     ------>    judges ENO; with Init1 for the TEP it picks: keys
//	keys                                 <------    SYN-ACK-U: ENO, Init2 (or the session)
//	frames                               ------>    the first one shows that A has seen all this
//
// The ENO options are those of RFC 8547 and are judged by its rules. None is in the header, so none is stripped: neither
// host waits for another in the third segment.

// InnerSpaceMode says when Inner Space is used.
type InnerSpaceMode uint8

const (
	// InnerSpaceOff: never.
	InnerSpaceOff InnerSpaceMode = iota
	// InnerSpaceAuto: with peers that have said by the mark in their ENO option that they have it; by a SYN with data only
	// to destinations known to take that.
	InnerSpaceAuto
	// InnerSpaceOn: at first contact too, by an upgraded SYN beside an ordinary one.
	InnerSpaceOn
)

func (m InnerSpaceMode) String() string {
	switch m {
	case InnerSpaceOff:
		return "off"
	case InnerSpaceAuto:
		return "auto"
	case InnerSpaceOn:
		return "on"
	}
	return fmt.Sprintf("inner-space(%d)", uint8(m))
}

// ParseInnerSpaceMode returns the mode that String would write as name.
func ParseInnerSpaceMode(name string) (InnerSpaceMode, error) {
	for m := InnerSpaceOff; m <= InnerSpaceOn; m++ {
		if m.String() == name {
			return m, nil
		}
	}
	return 0, fmt.Errorf("unknown inner_space %q (known: off, auto, on)", name)
}

var (
	// ErrNotUpgraded says that the peer answered an upgraded SYN as an ordinary one, or did not take its data. The
	// connection is reset: a Dialer goes on with an ordinary one.
	ErrNotUpgraded = errors.New("tcpinc: the answer to an upgraded SYN is an ordinary one")

	// ErrInnerSpaceMissing says that a destination which spoke Inner Space before does not now, and that policy lets nothing
	// be taken away: the connection was reset. Who knows the reason has the PathMemory forget the destination.
	ErrInnerSpaceMissing = errors.New("tcpinc: the destination spoke Inner Space before and does not now, and encryption is required")

	// ErrSYNPayload says that an upgraded SYN-ACK has payload, for which there is no use: it was aborted.
	ErrSYNPayload = errors.New("tcpinc: an upgraded SYN-ACK with payload")
)

// traitInnerSpace is the trait of sessions whose hosts speak Inner Space: resumed ones need no mark, for which there is no
// room.
const traitInnerSpace = 1

// upgrade is what Inner Space does in the opening of one connection.
type upgrade struct {
	on       bool   // active: the SYN is upgraded; passive: the peer's was
	suffix   []byte // active: the options of the own SYN
	data     []byte // what the own SYN or SYN-ACK carries; nil: not made yet
	exchange *tcpcrypt.Exchange
	prepared *tcpcrypt.Prepared // nil: keys are exchanged in the stream, or come from a session

	others []byte // the peer's options that are for the application, if for anyone

	hello  []byte // active: what the SYN-ACK has told of the peer; nil: nothing
	proven bool   // passive: the own SYN-ACK tells of this host
	bare   []byte // passive: data without that, if there is no room for it
}

// newUpgraded makes a Handshake whose SYN is an upgraded one.
func (cfg Config) newUpgraded(h *Handshake) error {
	// Where the options are in the data of the segment there is room for a whole one.
	option := h.negotiation.AppendOptions(nil, SYN, maxENOOption)
	suffix := option
	if first := h.resume.cfg.TEPs[0]; h.resume.ticket == nil {
		x, err := tcpcrypt.NewExchange(first, cfg.Ciphers, cfg.random())
		if err != nil {
			return err
		}
		if suffix, err = innerspace.AppendInit(suffix, x.Init1()); err != nil {
			return err
		}
		h.upgrade.exchange = x
	}
	h.upgrade.on, h.upgrade.suffix = true, append(suffix, cfg.Own.Suffix...)
	return nil
}

// maxEarlySYN bounds the data of a SYN with early data, in octets, with options of 20 octets in the header to the least MTU of
// IPv6. The peer's MSS is not known yet, and a SYN is not made smaller when it is sent again: on a path through a tunnel a
// fuller one would come to nothing.
const maxEarlySYN = 1280 - 40 - 40

// synData makes the data of an active opener's SYN, for which there are room octets; too long if there is not enough. It is
// made once: a repeated SYN is the same, octet for octet.
func (h *Handshake) synData(room int) []byte {
	if h.upgrade.data != nil {
		return h.upgrade.data
	}
	s := innerspace.SYN{Prefix: h.cfg.Own.Prefix, Suffix: h.upgrade.suffix}
	s.Payload = h.sealEarly(min(room, maxEarlySYN) - s.Len() - innerspace.Padding(len(s.Suffix)))
	data, err := innerspace.AppendSYN(nil, s)
	if err != nil {
		return nil // options of a known length, and less payload than there may be
	}
	h.upgrade.data = data
	return data
}

// maxENOOption is the longest ENO option in octets.
const maxENOOption = 40

// receiveUpgraded takes the data of the peer's SYN or SYN-ACK, which is an upgraded one.
func (h *Handshake) receiveUpgraded(k Segment, s innerspace.SYN) error {
	options, err := enoOptions(s)
	if err != nil {
		return err
	}
	if h.fleeting.on && len(options) > maxENOOption {
		options = nil // that is more than a cookie holds: as if there were none
	}
	h.negotiation.Receive(k, options)
	h.upgrade.others = otherOptions(s)
	if h.fleeting.on && k == SYN {
		return h.answerFleeting(options, s.Payload)
	}
	init, has, err := initMessage(s)
	if err != nil {
		return err
	}
	if k == SYN {
		return h.answerUpgraded(s.Payload, init, has)
	}
	if len(s.Payload) > 0 {
		return ErrSYNPayload
	}
	if err := h.judgeEarly(s); err != nil {
		return err
	}
	if err := h.keepCookie(s); err != nil {
		return err
	}
	h.negotiation.AppendOptions(nil, NonSYN, maxENOOption) // the SYN-ACK-U has confirmed it
	out := h.negotiation.Outcome()
	x := h.upgrade.exchange
	if !out.Encrypt() || !has || x == nil || out.TEP != x.TEP() {
		return nil
	}
	h.upgrade.exchange = nil // Finish erases it
	if h.upgrade.prepared, err = x.Finish(out.Transcript, init); err != nil {
		return err
	}
	h.upgrade.prepared.LogFirst = h.cfg.KeyLog != nil
	h.upgrade.hello, err = openProof(h.upgrade.prepared, s)
	return err
}

// answerUpgraded makes the data of the SYN-ACK.
func (h *Handshake) answerUpgraded(payload, init1 []byte, has bool) error {
	suffix := h.negotiation.AppendOptions(nil, SYNACK, maxENOOption)
	out := h.negotiation.Outcome()
	ticket, _ := h.resume.agreed(out)
	if has && ticket == nil && out.State == eno.Exchanged && lastTEP(out.PeerOption) == out.TEP {
		init2, p, err := tcpcrypt.AnswerExchange(out.TEP, h.cfg.Ciphers, h.cfg.random(), out.Transcript, init1)
		if err != nil {
			return err
		}
		h.upgrade.prepared = p
		if suffix, err = innerspace.AppendInit(suffix, init2); err != nil {
			return err
		}
	}
	if len(payload) > 0 {
		suffix = innerspace.AppendEarlyData(suffix, h.openEarly(payload))
	}
	var err error
	if h.upgrade.data, err = h.synack(suffix); err != nil || h.upgrade.prepared == nil {
		return err
	}
	return h.addProof(out, suffix)
}

// synack is the data of a SYN-ACK with those options and the configured ones.
func (h *Handshake) synack(suffix []byte) ([]byte, error) {
	return innerspace.AppendSYN(nil, innerspace.SYN{Prefix: h.cfg.Own.Prefix, Suffix: slices.Concat(suffix, h.cfg.Own.Suffix)})
}

// lastTEP is the one that Init1 in a SYN is for.
func lastTEP(o eno.Option) eno.TEP {
	if len(o.Suboptions) == 0 {
		return 0
	}
	return o.Suboptions[len(o.Suboptions)-1].TEP
}

// enoOptions returns the ENO options among the inner ones, all of them: more than one is none. RFC 8547, Section 4.1.
func enoOptions(s innerspace.SYN) ([]byte, error) {
	var found []byte
	for _, list := range [][]byte{s.Prefix, s.Suffix} {
		it := innerspace.NewIterator(list)
		for o, ok := it.Next(); ok; o, ok = it.Next() {
			if o.Kind() == eno.Kind {
				found = append(found, o...)
			}
		}
		if it.Err() != nil {
			return nil, it.Err()
		}
	}
	return found, nil
}

// otherOptions returns those that play no part in the opening.
func otherOptions(s innerspace.SYN) (others []byte) {
	for _, list := range [][]byte{s.Prefix, s.Suffix} {
		it := innerspace.NewIterator(list)
		for o, ok := it.Next(); ok; o, ok = it.Next() {
			id, _, _ := o.ExID()
			switch {
			case o.Kind() == eno.Kind:
			case o.Known() && (id == innerspace.ExIDInit || id == innerspace.ExIDProof || id == innerspace.ExIDCookie || id == innerspace.ExIDEarlyData):
			default:
				others = append(others, o...)
			}
		}
	}
	return others
}

// synOptions returns the options of the peer's SYN or SYN-ACK that are not this package's business.
func (h *Handshake) synOptions() []byte {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.upgrade.others
}

// initMessage returns the Init1 or Init2 among the options of a SYN or SYN-ACK.
func initMessage(s innerspace.SYN) (message []byte, ok bool, err error) {
	for _, list := range [][]byte{s.Prefix, s.Suffix} {
		m, has, err := innerspace.Message(list, innerspace.ExIDInit)
		if err != nil {
			return nil, false, err
		}
		if has {
			message, ok = m, true
		}
	}
	return message, ok, nil
}

// random is where keys come from.
func (cfg Config) random() io.Reader {
	if cfg.Rand == nil {
		return tcpcrypt.Pooled(rand.Reader, cfg.KeyPool)
	}
	return cfg.Rand
}

// upgraded reports whether both SYN segments were upgraded.
func (h *Handshake) upgraded() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.upgrade.on
}

// prepared returns the keys that the SYNs have exchanged; nil: there is an exchange in the stream, or a session.
func (h *Handshake) prepared() *tcpcrypt.Prepared {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.upgrade.prepared
}

// traits is what a session is to inherit.
func (h *Handshake) traits() uint8 {
	if h.innerSpace() {
		return traitInnerSpace
	}
	return 0
}

// innerSpace reports whether the stream consists of Inner Space units.
func (h *Handshake) innerSpace() bool {
	if h == nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	out := h.negotiation.Outcome()
	if ticket, _ := h.resume.agreed(out); ticket != nil && ticket.Traits()&traitInnerSpace != 0 {
		return true
	}
	return h.upgrade.on || out.Encrypt() && out.Marked
}
