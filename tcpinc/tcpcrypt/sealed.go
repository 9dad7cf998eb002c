package tcpcrypt

import (
	"fmt"
	"slices"

	"innertun/tcpinc/eno"
)

// Where keys are exchanged with the SYNs, host B can send one message beside Init2 that only host A can read, under a key
// that serves nothing else:
//
//	mk_first = CPRF(ss[0], 0x12, K_LEN)
//	k_first  = CPRF(mk_first, CONST_KEY_B, ae_key_len + ae_nonce_len)
//
// It is a frame at offset 0. Every exchange has its own ss[0], so that the key seals once.
const constFirst = "\x12"

// FirstOverhead is how many octets a first message takes besides its own.
const FirstOverhead = frameOverhead

// SessionID is what the connection's will be. Error: ErrPreparedUsed. RFC 8548, Section 3.4.
func (p *Prepared) SessionID(tepByte byte) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.live {
		return nil, ErrPreparedUsed
	}
	id := p.session.secret.sessionID(tepByte, p.session.nonce)
	return slices.Clone(id[:]), nil
}

// SealFirst seals the message of host B. It can be done once. Errors: ErrPreparedUsed, ErrConfig.
func (p *Prepared) SealFirst(message []byte) ([]byte, error) {
	if len(message) > MaxEarlyData {
		return nil, fmt.Errorf("%w: %d octets in a first message, at most %d", ErrConfig, len(message), MaxEarlyData)
	}
	d, err := p.firstKey(eno.RoleB)
	if err != nil {
		return nil, err
	}
	defer d.erase()
	b := make([]byte, len(message)+frameOverhead)
	copy(b[dataStart:], message)
	n, err := d.seal(b, len(message), false, false)
	return b[:n], err
}

// OpenFirst opens, at host A, what SealFirst has sealed. Errors: ErrPreparedUsed; ErrIntegrity, ErrMalformedFrame: it is
// none, or was altered.
func (p *Prepared) OpenFirst(sealed []byte) ([]byte, error) {
	d, err := p.firstKey(eno.RoleA)
	if err != nil {
		return nil, err
	}
	defer d.erase()
	return openOne(d, sealed)
}

func (p *Prepared) firstKey(role eno.Role) (*direction, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.live || p.first || p.session.role != role {
		return nil, ErrPreparedUsed
	}
	p.first = true
	mk := masterKey(take(cprf(p.session.secret[:], constFirst, keyLen)))
	defer clear(mk[:])
	if p.LogFirst {
		p.firstLog = earlyLog{mk.traffic(p.session.cipher, wayAB), mk.traffic(p.session.cipher, wayBA)}
	}
	return newDirection(p.session.cipher, wayBA, mk, 0)
}

// openOne opens what is one frame of data and nothing else.
func openOne(d *direction, sealed []byte) ([]byte, error) {
	if n, ok := FrameLen(sealed); !ok || n == 0 || n != len(sealed) || sealed[0] != 0 {
		return nil, fmt.Errorf("%w: %d octets are not one frame", ErrMalformedFrame, len(sealed))
	}
	p, err := d.open(slices.Clone(sealed))
	if err != nil {
		return nil, err
	}
	if p.fin || p.urgent {
		return nil, fmt.Errorf("%w: flags where there is only data", ErrMalformedFrame)
	}
	return p.data, nil
}
