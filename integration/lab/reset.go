package lab

// Attack is what an attacker who forges RSTs knows.
type Attack uint8

const (
	// OnPath: he sees the segments, and his RST has the very next sequence number: censors, and carriers that meter
	// peer-to-peer (N. Weaver et al., "Detecting forged TCP reset packets", NDSS 2009).
	OnPath Attack = iota
	// OffPath: he knows the addresses and ports and has guessed a sequence number in the window, not the next one. RFC
	// 5961, Section 3.2, answers it with a challenge ACK.
	OffPath
	// Blind: he knows addresses and ports and guesses the sequence number.
	Blind
)

// InjectReset sends forged RSTs into connections.
type InjectReset struct {
	cfg   InjectResetConfig
	dice  dice
	flows flows[*victim]
	acted
}

// InjectResetConfig says when and how often.
type InjectResetConfig struct {
	Attack Attack
	To     End  // the victim's side
	Both   bool // the other side too
	After  int  // the number of data segments of a connection, both directions together, before the first; 0: at once, the SYN
	Count  int  // RSTs for each connection and side; 0: 1
	Seed   uint64
}

type victim struct {
	data int
	sent [2]int
}

// NewInjectReset returns an attacker.
func NewInjectReset(cfg InjectResetConfig) *InjectReset {
	if cfg.Count == 0 {
		cfg.Count = 1
	}
	return &InjectReset{cfg: cfg, dice: newDice(cfg.Seed)}
}

// Packet implements Element.
func (e *InjectReset) Packet(p Packet, at Place) {
	t, ok := takeApart(p)
	at.Send(p)
	if !ok || t.flags&RST != 0 {
		return
	}
	key := t.flow(p.To)
	v, known := e.flows.get(key, at.Now())
	if !known || t.flags&(SYN|ACK) == SYN {
		v = new(victim)
		e.flows.put(key, v, at.Now())
	}
	if len(t.payload) > 0 {
		v.data++
	}
	// The last segment towards the victim tells what he expects next.
	if p.To != e.cfg.To && !e.cfg.Both || v.data < e.cfg.After || v.sent[p.To] >= e.cfg.Count {
		return
	}
	v.sent[p.To]++
	e.act()
	forged := fresh(t.source, t.destination, e.guess(t), t.ack, RST|t.flags&ACK)
	at.Send(forged.packet(p.To))
}

// guess is a sequence number for a RST that follows t.
func (e *InjectReset) guess(t parts) uint32 {
	const near = 1 << 12 // in any window that is open
	switch e.cfg.Attack {
	case OffPath:
		return t.end() + 1 + e.dice.Uint32N(near)
	case Blind:
		return e.dice.Uint32()
	}
	return t.end()
}
