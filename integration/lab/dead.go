package lab

import (
	"net/netip"
	"time"
)

// Dead is a link that goes down: packets that come after a number of others, or after a time since the first, are lost.
// With Back set it comes up again after so long.
type Dead struct {
	cfg   DeadConfig
	seen  int
	begin time.Time
	died  time.Time
	acted
}

// DeadConfig says when; both limits zero: at once.
type DeadConfig struct {
	AfterPackets int
	AfterTime    time.Duration
	Back         time.Duration // 0: never
}

// NewDead returns a link that works at first.
func NewDead(cfg DeadConfig) *Dead { return &Dead{cfg: cfg} }

// Packet implements Element.
func (d *Dead) Packet(p Packet, at Place) {
	now := at.Now()
	if d.begin.IsZero() {
		d.begin = now
	}
	d.seen++
	if d.died.IsZero() && d.seen > d.cfg.AfterPackets && now.Sub(d.begin) >= d.cfg.AfterTime {
		d.died = now
	}
	if d.died.IsZero() || d.cfg.Back > 0 && now.Sub(d.died) >= d.cfg.Back {
		at.Send(p)
		return
	}
	d.act()
}

func portless(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), 0) }
