package lab

import "math/bits"

// BitErrors turns over single bits of packets. With Valid unset the checksum tells: a noisy link, whose packets the
// receiver drops. With Valid set it does not, as when memory in a router, a broken offload engine or a meddler spoils
// data before the checksum is made (J. Stone and C. Partridge, "When the CRC and TCP checksum disagree", SIGCOMM 2000);
// only TCP payload is spoilt then.
type BitErrors struct {
	probability float64
	valid       bool
	dice        dice
	acted
}

// NewBitErrors spoils one bit of a packet with a probability in [0, 1].
func NewBitErrors(probability float64, valid bool, seed uint64) *BitErrors {
	return &BitErrors{probability: probability, valid: valid, dice: newDice(seed)}
}

// Packet implements Element.
func (e *BitErrors) Packet(p Packet, at Place) {
	if e.dice.Float64() < e.probability {
		p = e.spoil(p)
	}
	at.Send(p)
}

func (e *BitErrors) spoil(p Packet) Packet {
	if !e.valid {
		p = Complete(p) // or the error would be covered up
	}
	s, ok := ParseSegment(p.Data)
	if !ok {
		return p
	}
	area := s.TCP
	if e.valid {
		area = s.Payload()
	}
	if len(area) == 0 {
		return p
	}
	e.act()
	turn := func() {
		bit := e.dice.IntN(len(area) * 8)
		area[bit/8] ^= 1 << (bit % 8)
	}
	if !e.valid {
		turn()
		return p
	}
	// Header lengths are multiples of 4, so the payload begins at an even place.
	s.change(area, p.Partial, turn)
	return p
}

// onesIn is the number of bits that are set.
func onesIn(b []byte) (n int) {
	for _, octet := range b {
		n += bits.OnesCount8(octet)
	}
	return n
}
