package tcpinc

import (
	"bytes"
	"errors"
	"net/netip"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/innerspace"
)

// When there are too many half-open connections, a passive opener answers an upgraded SYN and forgets it:
//
//	active opener                              passive opener
//	SYN-U: ENO, Init1            ------>       judges ENO, and no more
//	                             <------       SYN-ACK-U: ENO, cookie; TCP has a SYN cookie of its own
//	a unit with the cookie       ------>       is where it was
//	Init1                        ------>
//	                             <------       Init2
//
// There is no key exchange, no session is claimed and no early data accepted until the cookie has come back: a SYN with a
// forged source costs little, and destroys nothing.

// fleeting is a Handshake that will be forgotten.
type fleeting struct {
	at  ends
	isn uint32 // the sequence number of the SYN
	on  bool
}

// Fleeting asks a passive opener's Handshake, of which nothing was asked yet, for an answer to an upgraded SYN after which it
// can be forgotten. isn is the sequence number of that SYN. It reports whether it can do that. The connection, if it comes about, is one without Handshake for
// the Listener, which must have the same Config.Cookies.
func (h *Handshake) Fleeting(local, remote netip.AddrPort, isn uint32) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.passive || h.shown || h.cfg.Cookies == nil || h.cfg.InnerSpace == InnerSpaceOff {
		return false
	}
	h.resume.cfg.NoResume = true
	h.fleeting = fleeting{ends{local, remote}, isn, true}
	return true
}

// answerFleeting makes the data of a SYN-ACK by which the connection can be continued later.
func (h *Handshake) answerFleeting(options, payload []byte) error {
	own := h.negotiation.AppendOptions(nil, SYNACK, maxENOOption)
	cookie, err := h.cfg.Cookies.bake(nil, h.fleeting.at, half{uint16(len(payload)), h.fleeting.isn, options, own})
	if err != nil {
		return err
	}
	return h.addCookie(own, uint16(len(payload)), cookie)
}

// addCookie makes the data of that SYN-ACK. early: octets of early data, which are declined.
func (h *Handshake) addCookie(own []byte, early uint16, cookie []byte) (err error) {
	suffix := own
	if early > 0 {
		suffix = innerspace.AppendEarlyData(suffix, innerspace.EarlyData{Octets: early})
	}
	if suffix, err = innerspace.AppendCookie(suffix, cookie); err != nil {
		return err
	}
	h.upgrade.data, err = h.synack(suffix)
	return err
}

// ISN is the sequence number that the peer's SYN had, of a Handshake that a cookie has kept.
func (h *Handshake) ISN() uint32 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fleeting.isn
}

// restore returns the Handshake that a cookie has kept, as it was when the third segment came. Error: ErrCookie, or those of
// NewPassive.
func (cfg Config) restore(cookie []byte, at ends) (*Handshake, error) {
	kept, err := cfg.Cookies.open(cookie, at)
	if err != nil {
		return nil, err
	}
	cfg.NoResume = true
	h, err := cfg.NewPassive()
	if err != nil {
		return nil, err
	}
	// The same negotiation once more: it has no other inputs.
	h.negotiation.Receive(SYN, kept.peer)
	own := h.negotiation.AppendOptions(nil, SYNACK, maxENOOption)
	if !bytes.Equal(own, kept.own) {
		return nil, ErrCookie // of a Listener that is configured otherwise
	}
	if err := h.addCookie(own, kept.early, cookie); err != nil {
		return nil, err
	}
	h.negotiation.Receive(NonSYN, eno.AppendNonSYN(nil))
	h.shown, h.upgrade.on = true, true
	h.fleeting.isn = kept.isn
	h.early.offered, h.early.payload = kept.early > 0, int(kept.early)
	return h, nil
}

// keepCookie notes the cookie of a SYN-ACK-U, the first if there are several.
func (h *Handshake) keepCookie(s innerspace.SYN) error {
	for _, list := range [][]byte{s.Prefix, s.Suffix} {
		it := innerspace.NewIterator(list)
		for o, ok := it.Next(); ok; o, ok = it.Next() {
			cookie, _, err := innerspace.ParseCookie(o)
			switch {
			case errors.Is(err, innerspace.ErrNotOption):
			case err != nil:
				return err
			case h.cookie == nil:
				h.cookie = bytes.Clone(cookie)
			}
		}
	}
	return nil
}

// echo sends the cookie that the peer has asked to have back, before anything else. It returns how many octets of the
// stream that took. A nil Handshake has none.
func (h *Handshake) echo(t Transport) (int, error) {
	if h == nil {
		return 0, nil
	}
	h.mu.Lock()
	cookie := h.cookie
	h.cookie = nil
	h.mu.Unlock()
	if cookie == nil {
		return 0, nil
	}
	option, err := innerspace.AppendCookie(nil, cookie)
	if err != nil {
		return 0, err
	}
	unit, err := innerspace.AppendUnit(nil, option, nil)
	if err != nil {
		return 0, err
	}
	return t.Write(unit)
}
