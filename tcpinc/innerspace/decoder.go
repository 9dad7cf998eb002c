package innerspace

import (
	"encoding/binary"
	"fmt"
)

// Item is what a Decoder found: a span of payload, an option, or nothing yet.
type Item struct {
	Payload []byte // a part of what was handed in
	Option  Option // likewise, or in the Decoder, until its next use; never padding

	// Position is where in the payload the item stands: octets of payload before it.
	Position uint64
}

// Decoder finds the units in an ordered stream that comes in any pieces. It needs no more memory than itself, whatever
// comes. A single instance is used for one direction only; its zero value is ready.
//
//	            4 octets               all words read             all octets read
//	inHeader ------------> inOptions -----------------> inPayload ----------------> inHeader
//	                        | ^   |  EOL
//	                        +-+   +-----> inPadding (the same, without a look)
//	any of them: what does not parse -> the error stays
type Decoder struct {
	state    decoding
	rest     int // octets left of the options or payload of the unit
	payload  int // octets of payload that follow the options
	held     int // octets in hold
	position uint64
	units    uint64
	err      error
	hold     [MaxOption]byte // a header or an option of which a part has come
}

type decoding uint8

const (
	inHeader decoding = iota
	inOptions
	inPadding
	inPayload
)

// Next consumes n octets at the start of b, 1 at least unless b is empty or there is an error, and returns what it found
// there. An Item with neither payload nor option says that b has no more. Errors stay: ErrUnit, ErrOptions.
func (d *Decoder) Next(b []byte) (n int, item Item, err error) {
	if d.state == inPayload && d.err == nil { // the way of nearly all octets
		n = min(len(b), d.rest)
		item = Item{Payload: b[:n:n], Position: d.position}
		d.position += uint64(n)
		d.rest -= n
		if d.rest == 0 {
			d.state = inHeader
		}
		return n, item, nil
	}
	for d.err == nil && n < len(b) {
		var k int
		switch d.state {
		case inHeader:
			k, d.err = d.header(b[n:])
		case inOptions:
			var o Option
			o, k, d.err = d.option(b[n:])
			if o != nil {
				return n + k, Item{Option: o, Position: d.position}, nil
			}
		case inPadding:
			k = min(len(b)-n, d.rest)
			d.spent(k)
		case inPayload:
			k, item, err = d.Next(b[n:])
			return n + k, item, err
		}
		n += k
	}
	return n, Item{}, d.err
}

// header takes a header from b, or what there is of it.
func (d *Decoder) header(b []byte) (int, error) {
	n := 0
	head := b
	if d.held > 0 || len(b) < HeaderLen {
		n = copy(d.hold[d.held:HeaderLen], b)
		if d.held += n; d.held < HeaderLen {
			return n, nil
		}
		head, d.held = d.hold[:HeaderLen], 0
	} else {
		n = HeaderLen
	}
	h, ok := headerOf(binary.BigEndian.Uint32(head))
	if !ok {
		return n, fmt.Errorf("%w: header %#08x after %d units and %d octets of payload", ErrUnit, head[:HeaderLen], d.units, d.position)
	}
	d.units++
	d.payload, d.rest, d.state = h.Payload, h.Options, inOptions
	d.spent(0)
	return n, nil
}

// spent takes k octets off what is left of the options, and goes on behind them.
func (d *Decoder) spent(k int) {
	d.rest -= k
	if d.rest > 0 {
		return
	}
	d.rest, d.state = d.payload, inPayload
	if d.rest == 0 {
		d.state = inHeader
	}
}

// option takes one option, or padding, from b, or what there is of it.
func (d *Decoder) option(b []byte) (Option, int, error) {
	b = b[:min(len(b), d.rest)]
	whole, held := b, 0
	if d.held > 0 {
		held = d.held
		whole = d.hold[:held+copy(d.hold[held:], b)]
	}
	size, err := optionLen(whole)
	if err == nil && (size == 0 && len(whole)-held == d.rest || size-held > d.rest) {
		err = fmt.Errorf("%w: kind %d runs past its end", ErrOptions, whole[0])
	}
	if err != nil {
		return nil, 0, fmt.Errorf("%w, after %d octets of payload", err, d.position)
	}
	if size == 0 || size > len(whole) {
		if held == 0 {
			copy(d.hold[:], whole)
		}
		d.held = len(whole)
		d.rest -= len(b)
		return nil, len(b), nil
	}
	d.held = 0
	k := size - held
	if whole[0] == KindEnd {
		d.state = inPadding
	}
	d.spent(k)
	if size == 1 {
		return nil, k, nil
	}
	return Option(whole[:size:size]), k, nil
}

// Need returns how many octets are sure to be left of what the Decoder is in: of a header, of options, or of a payload;
// Payload says which. Whoever reads no more than that at a time reads nothing beyond it.
func (d *Decoder) Need() (n int, payload bool) {
	if d.state == inHeader {
		return HeaderLen - d.held, false
	}
	return d.rest, d.state == inPayload
}

// Skip tells that n octets of payload, at most Need, were read past the Decoder.
func (d *Decoder) Skip(n int) {
	if d.state != inPayload || n < 0 || n > d.rest {
		panic("innerspace: Skip of what is not payload")
	}
	d.position += uint64(n)
	if d.rest -= n; d.rest == 0 {
		d.state = inHeader
	}
}

// Position returns how many octets of payload were found.
func (d *Decoder) Position() uint64 { return d.position }

// Finish returns the lasting error, if there is one, and ErrTruncated if the stream must not end here: within a unit.
func (d *Decoder) Finish() error {
	switch {
	case d.err != nil:
		return d.err
	case d.state != inHeader || d.held > 0:
		return fmt.Errorf("%w: within a unit, after %d octets of payload", ErrTruncated, d.position)
	}
	return nil
}
