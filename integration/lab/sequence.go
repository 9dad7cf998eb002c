package lab

import "encoding/binary"

const kindSACK = 5

// RewriteSequence is a firewall that replaces initial sequence numbers by random ones, to help hosts that choose them
// badly. One that does not know of SACK leaves the blocks of RFC 2018 as they are, so that they point nowhere: such boxes
// are out there (Honda et al., IMC 2011, Section 4.3). What ICMP messages quote is left as it is.
type RewriteSequence struct {
	fixSACK bool
	dice    dice
	flows   flows[*shift]
	acted
}

// shift is what is added to the sequence numbers that travel towards each side.
type shift struct {
	isn   [2]uint32
	known [2]bool
	by    [2]uint32
}

// NewRewriteSequence rewrites the sequence numbers of both directions of each connection whose SYN it has seen.
func NewRewriteSequence(fixSACK bool, seed uint64) *RewriteSequence {
	return &RewriteSequence{fixSACK: fixSACK, dice: newDice(seed)}
}

// Packet implements Element.
func (e *RewriteSequence) Packet(p Packet, at Place) {
	t, ok := takeApart(p)
	if !ok {
		at.Send(p)
		return
	}
	key := t.flow(p.To)
	s, ok := e.flows.get(key, at.Now())
	if t.isSYN() {
		if t.flags&ACK == 0 && (!ok || s.known[p.To] && s.isn[p.To] != t.seq) {
			s, ok = new(shift), true
			e.flows.put(key, s, at.Now())
		}
		if ok && !s.known[p.To] {
			s.isn[p.To], s.known[p.To], s.by[p.To] = t.seq, true, e.dice.Uint32()
		}
	}
	if !ok {
		at.Send(p)
		return
	}
	e.act()
	back := s.by[p.To.Other()]
	t.seq += s.by[p.To]
	if t.flags&ACK != 0 {
		t.ack -= back
	}
	if e.fixSACK {
		t.options = mapOption(t.options, kindSACK, func(blocks []byte) {
			for ; len(blocks) >= 4; blocks = blocks[4:] {
				binary.BigEndian.PutUint32(blocks, binary.BigEndian.Uint32(blocks)-back)
			}
		})
	}
	at.Send(t.packet(p.To))
}
