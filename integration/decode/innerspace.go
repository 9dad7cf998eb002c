package decode

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Inner Space, as docs/inner-space.md has it: options and payload in the data of upgraded SYNs, and in units of the stream.
const (
	magicA = 0x1e5a9c71
	magicB = 0xc3a7

	lenSYN  = 2
	lenUnit = 1

	kindExperiment = 253
	exIDInit       = 0x4960
	fullPart       = 251 // octets after the ExID of an option that a message goes on after
)

// InnerOption is one option that travels in the data.
type InnerOption struct {
	Kind     byte
	ExID     uint16 // of kind 253
	Data     []byte // after kind and length, and after the ExID
	Raw      []byte
	Position int // payload octets before it
}

// Upgraded is the data of a SYN-U or SYN-ACK-U.
type Upgraded struct {
	Prefix, Suffix []InnerOption
	Payload        []byte
}

// ParseUpgraded takes the data of a SYN or SYN-ACK apart; nil without an error: it is not upgraded.
func ParseUpgraded(b []byte) (*Upgraded, error) {
	if len(b) < 12 || binary.BigEndian.Uint32(b) != magicA || binary.BigEndian.Uint16(b[8:]) != magicB {
		return nil, nil
	}
	payload, words := int(binary.BigEndian.Uint16(b[4:])), binary.BigEndian.Uint16(b[6:])
	options, prefix := int(words>>2)*4, int(binary.BigEndian.Uint16(b[10:])>>2)*4
	if words&3 != lenSYN || prefix > options || 12+options+payload != len(b) {
		return nil, nil
	}
	u := &Upgraded{Payload: b[12+options:]}
	var err error
	if u.Prefix, err = innerOptions(b[12:12+prefix], 0); err == nil {
		u.Suffix, err = innerOptions(b[12+prefix:12+options], 0)
	}
	return u, err
}

func innerOptions(b []byte, position int) (all []InnerOption, err error) {
	for len(b) > 0 {
		switch {
		case b[0] == 0:
			return all, nil
		case b[0] == 1:
			b = b[1:]
			continue
		case len(b) < 2 || b[1] < 2 || int(b[1]) > len(b):
			return nil, errors.New("inner option with a bad length")
		}
		o := InnerOption{Kind: b[0], Raw: b[:b[1]], Data: b[2:b[1]], Position: position}
		if o.Kind == kindExperiment {
			if len(o.Data) < 2 {
				return nil, errors.New("inner option of kind 253 without ExID")
			}
			o.ExID, o.Data = binary.BigEndian.Uint16(o.Data), o.Data[2:]
		}
		all, b = append(all, o), b[b[1]:]
	}
	return all, nil
}

// Options are all of them, in the order in which they count.
func (u *Upgraded) Options() []InnerOption {
	return append(u.Prefix[:len(u.Prefix):len(u.Prefix)], u.Suffix...)
}

// eno returns the ENO options among them, whole.
func (u *Upgraded) eno() (all [][]byte) {
	for _, o := range u.Options() {
		if o.Kind == KindENO {
			all = append(all, o.Raw)
		}
	}
	return all
}

// init returns the Init1 or Init2 among them, put together again; nil: there is none.
func (u *Upgraded) init() (message []byte, err error) { return u.message(exIDInit) }

// message returns the message with an ExID among the options, put together again; nil: there is none.
func (u *Upgraded) message(exID uint16) (message []byte, err error) {
	ended := false
	for _, o := range u.Options() {
		if o.Kind != kindExperiment || o.ExID != exID {
			continue
		}
		if ended {
			return nil, fmt.Errorf("more than one message of ExID %#04x in a SYN", exID)
		}
		message = append(message, o.Data...)
		ended = len(o.Data) < fullPart
	}
	if message != nil && !ended {
		return nil, fmt.Errorf("a message of ExID %#04x that ends with a full part", exID)
	}
	return message, nil
}

// unpack takes the octets of the frames for units, if they are, and leaves the payload.
func (p *Plain) unpack() error {
	b := p.Data
	p.Data, p.Inner = nil, []InnerOption{}
	for at := 0; at < len(b); p.Units++ {
		rest := b[at:]
		if len(rest) < 4 {
			return p.cut(len(rest))
		}
		payload, words := int(binary.BigEndian.Uint16(rest)), binary.BigEndian.Uint16(rest[2:])
		if words&3 != lenUnit {
			return fmt.Errorf("unit %d at octet %d: Len is %d", p.Units, at, words&3)
		}
		options := 4 + int(words>>2)*4
		if len(rest) < options+payload {
			return p.cut(len(rest))
		}
		all, err := innerOptions(rest[4:options], len(p.Data))
		if err != nil {
			return fmt.Errorf("unit %d at octet %d: %w", p.Units, at, err)
		}
		p.Inner = append(p.Inner, all...)
		p.Data = append(p.Data, rest[options:options+payload]...)
		at += options + payload
	}
	return nil
}

func (p *Plain) cut(left int) error {
	if p.FINp {
		return fmt.Errorf("the stream ends %d octets into a unit", left)
	}
	p.Truncated += left
	return nil
}
