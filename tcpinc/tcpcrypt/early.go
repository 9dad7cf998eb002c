package tcpcrypt

import (
	"errors"
	"fmt"
)

// Early data travels in a SYN that offers to resume a session, under keys that serve nothing else:
//
//	mk_early = CPRF(ss[i], 0x10 | nonce, K_LEN), where nonce is that of the host that sends the SYN
//	k_early  = CPRF(mk_early, CONST_KEY_A or CONST_KEY_B, ae_key_len + ae_nonce_len)
//
// Frame offsets begin at 0 there. As no secret is offered twice, no key of these seals twice. The peer's part in the nonces
// is missing: whoever copies the SYN can have the data taken once by a host that the real one has not reached.
const constEarly = "\x10"

// EarlyOverhead is how many octets early data takes besides its own.
const EarlyOverhead = frameOverhead

// MaxEarlyData is how many octets of early data there can be.
const MaxEarlyData = MaxFrameLen - frameOverhead

// ErrEarlyUsed says that early data of the ticket was sealed or opened before, or that the ticket is used up.
var ErrEarlyUsed = errors.New("tcpcrypt: the ticket's early keys were used before")

// SealEarly appends early data, up to MaxEarlyData octets, as one frame. nonce is that of the offer, this host's. It can be
// done once with a ticket, and does not use it up. Errors: ErrEarlyUsed, ErrConfig.
func (t *Ticket) SealEarly(dst, data, nonce []byte) ([]byte, error) {
	if len(data) > MaxEarlyData {
		return dst, fmt.Errorf("%w: %d octets of early data, at most %d", ErrConfig, len(data), MaxEarlyData)
	}
	ours, _ := ways(t.role)
	d, err := t.earlyKeys(nonce, ours)
	if err != nil {
		return dst, err
	}
	defer d.erase()
	b := make([]byte, len(data)+frameOverhead)
	copy(b[dataStart:], data)
	n, err := d.seal(b, len(data), false, false)
	if err != nil {
		return dst, err
	}
	return append(dst, b[:n]...), nil
}

// OpenEarly returns the early data of the peer, which has offered the session with that nonce. It can be done once with a
// ticket, and does not use it up. Errors: ErrEarlyUsed; ErrIntegrity, ErrMalformedFrame: it is none, or was altered.
func (t *Ticket) OpenEarly(payload, nonce []byte) ([]byte, error) {
	_, theirs := ways(t.role)
	d, err := t.earlyKeys(nonce, theirs)
	if err != nil {
		return nil, err
	}
	defer d.erase()
	return openOne(d, payload)
}

func (t *Ticket) earlyKeys(nonce []byte, w way) (*direction, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.live || t.early != nil {
		return nil, ErrEarlyUsed
	}
	mk := t.secret.earlyMaster(nonce)
	defer clear(mk[:])
	t.early = &earlyLog{}
	if t.LogEarly {
		t.early = &earlyLog{mk.traffic(t.cipher, wayAB), mk.traffic(t.cipher, wayBA)}
	}
	return newDirection(t.cipher, w, mk, 0)
}

// earlyLog is the keys of early data, or of a first message, for the key log; without one they are nil.
type earlyLog struct{ ab, ba []byte }

// erase is for keys of which no connection has come. Nil has none.
func (k *earlyLog) erase() {
	if k != nil {
		clear(k.ab)
		clear(k.ba)
		k.ab, k.ba = nil, nil
	}
}

// earlyMaster is mk_early.
func (s *secret) earlyMaster(nonce []byte) masterKey {
	return masterKey(take(cprf(s[:], constEarly+string(nonce), keyLen)))
}

// logEarly hands the keys of what the SYNs held to the key log, once the session ID of the connection is known.
func (c *Conn) logEarly() {
	if c.cfg.KeyLog == nil {
		return
	}
	if t := c.cfg.Ticket; t != nil {
		t.mu.Lock()
		early := t.early
		t.mu.Unlock()
		if early != nil && early.ab != nil {
			c.cfg.KeyLog(c.logEntry(*early, true))
		}
	}
	if p := c.cfg.Prepared; p != nil {
		p.mu.Lock()
		first := p.firstLog
		p.firstLog = earlyLog{}
		p.mu.Unlock()
		if first.ab != nil {
			c.cfg.KeyLog(c.logEntry(first, false))
		}
	}
}

func (c *Conn) logEntry(k earlyLog, early bool) KeyLogEntry {
	return KeyLogEntry{SessionID: append([]byte(nil), c.sessionID[:]...), Early: early, First: !early, KAB: k.ab, KBA: k.ba, Cipher: c.cipher}
}
