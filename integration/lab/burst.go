package lab

// BurstLoss is a radio link or a queue that overflows: losses come in bursts (Gilbert-Elliott: E. Gilbert, "Capacity of a
// burst-noise channel", 1960; E. O. Elliott, 1963). A link is good or bad; before each packet it may change. The two
// directions change independently.
type BurstLoss struct {
	cfg BurstConfig
	bad [2]bool
	rng [2]dice
	acted
}

// BurstConfig has probabilities in [0, 1]. On average Worsen/(Worsen+Recover) of the packets meet a bad link, in bursts of
// 1/Recover packets.
type BurstConfig struct {
	Worsen   float64 // that a good link turns bad
	Recover  float64 // that a bad one turns good
	LossGood float64
	LossBad  float64
	Seed     uint64
}

// NewBurstLoss returns a link that begins good.
func NewBurstLoss(cfg BurstConfig) *BurstLoss {
	return &BurstLoss{cfg: cfg, rng: [2]dice{newDice(cfg.Seed), newDice(cfg.Seed + 1)}}
}

// Packet implements Element.
func (l *BurstLoss) Packet(p Packet, at Place) {
	r := l.rng[p.To]
	change, lose := r.Float64(), r.Float64()
	switch {
	case l.bad[p.To] && change < l.cfg.Recover:
		l.bad[p.To] = false
	case !l.bad[p.To] && change < l.cfg.Worsen:
		l.bad[p.To] = true
	}
	probability := l.cfg.LossGood
	if l.bad[p.To] {
		probability = l.cfg.LossBad
	}
	if lose < probability {
		l.act()
		return
	}
	at.Send(p)
}
