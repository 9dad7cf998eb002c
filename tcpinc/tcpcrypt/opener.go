package tcpcrypt

// Opener tells whether octets are the first frame of a resumed session. It is for a host B that has agreed to resume and
// then fell back to plain TCP, as the first ACK had no ENO option: its peer may encrypt all the same. It is not safe for
// concurrent use.
type Opener struct {
	first, rekeyed *direction // generation 0 and 1
}

// NewOpener uses the ticket up. nonce is sn[i]. Error: ErrTicketUsed.
func NewOpener(t *Ticket, nonce []byte) (*Opener, error) {
	s, ok := t.redeem()
	if !ok {
		return nil, ErrTicketUsed
	}
	defer clear(s[:])
	mk := s.master(nonce)
	defer clear(mk[:])
	_, theirs := ways(t.role)
	first, err := newDirection(t.cipher, theirs, mk, 0)
	if err != nil {
		return nil, err
	}
	rekeyed, err := newDirection(t.cipher, theirs, mk, 0)
	if err == nil {
		err = rekeyed.advance()
	}
	return &Opener{first, rekeyed}, err
}

// FrameLen looks at the first octets of a stream, however few there are. It returns the length in octets of the frame
// that they may begin, 0 when more are needed to know it. ok is false if no frame begins so.
func FrameLen(b []byte) (n int, ok bool) {
	if len(b) > 0 && b[0]&^controlRekey != 0 {
		return 0, false // reserved bits are sent as zero. RFC 8548, Section 4.2
	}
	if len(b) < frameHeaderLen {
		return 0, true
	}
	h, err := parseFrameHeader(b)
	return frameHeaderLen + h.clen, err == nil
}

// Opens reports whether frame, which is whole, is the peer's first one. It is called once, and does not alter frame.
func (o *Opener) Opens(frame []byte) bool {
	d := o.first
	if frame[0]&controlRekey != 0 {
		d = o.rekeyed
	}
	_, err := d.open(append([]byte(nil), frame...))
	return err == nil
}

// Erase forgets the keys.
func (o *Opener) Erase() {
	o.first.erase()
	o.rekeyed.erase()
}
