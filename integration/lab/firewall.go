package lab

import "time"

// Firewall is a stateful packet filter with A inside: connections are opened from A, and from B only if Inbound. What
// belongs to no connection is dropped or reset. Strict, it also follows sequence numbers and drops what cannot be part of
// the connection, as Linux's conntrack and pf do (G. van Rooij, "Real stateful TCP packet filtering in IP Filter", 2000).
type Firewall struct {
	cfg   FirewallConfig
	flows flows[*tracked]
	acted
}

// FirewallConfig says how strict a firewall is.
type FirewallConfig struct {
	Inbound bool          // let B open connections too
	Strict  bool          // follow sequence numbers
	Answer  Answer        // to what is blocked
	Idle    time.Duration // an idle connection is forgotten after it; 0: 1 h
}

// tracked is one connection; the arrays are by the side that segments travel towards.
type tracked struct {
	known  [2]bool
	end    [2]uint32 // the highest sequence number sent, plus one
	edge   [2]uint32 // the highest that its receiver has allowed
	scale  [2]uint8  // of the windows that the segments announce
	scaled [2]bool
	window [2]uint32 // the widest announced
	open   bool      // a segment after the SYNs has come
}

// NewFirewall returns a firewall.
func NewFirewall(cfg FirewallConfig) *Firewall {
	if cfg.Idle == 0 {
		cfg.Idle = time.Hour
	}
	return &Firewall{cfg: cfg, flows: flows[*tracked]{timeout: cfg.Idle}}
}

// Packet implements Element.
func (e *Firewall) Packet(p Packet, at Place) {
	t, ok := takeApart(p)
	if !ok {
		at.Send(p)
		return
	}
	key := t.flow(p.To)
	c, known := e.flows.get(key, at.Now())
	if t.flags&(SYN|ACK|RST) == SYN && (!known || c.open) {
		if p.To == A && !e.cfg.Inbound {
			e.block(p, t, at)
			return
		}
		c, known = new(tracked), true
		e.flows.put(key, c, at.Now())
	}
	if !known || e.cfg.Strict && !c.plausible(t, p.To) {
		e.block(p, t, at)
		return
	}
	c.note(t, p.To)
	if t.flags&RST != 0 {
		e.flows.remove(key)
	}
	at.Send(p)
}

func (e *Firewall) block(p Packet, t parts, at Place) {
	e.act()
	if t.flags&RST == 0 {
		e.cfg.Answer.do(p, t, at)
	}
}

const (
	kindWindowScale = 3
	maxScale        = 14 // RFC 7323, Section 2.3
	unscaledWindow  = 65535
)

// plausible reports whether a segment lies within what its receiver allowed, and acknowledges only what was sent.
func (c *tracked) plausible(t parts, to End) bool {
	back := to.Other()
	if t.flags&SYN != 0 {
		return true // a retransmission, or the answer
	}
	if c.known[to] && c.known[back] {
		slack := max(c.window[back], unscaledWindow)
		if after(t.end(), c.edge[to]) || after(c.end[to]-slack, t.end()) && c.end[to]-t.end() > slack {
			return false
		}
	}
	return t.flags&ACK == 0 || !c.known[back] || !after(t.ack, c.end[back])
}

func (c *tracked) note(t parts, to End) {
	back := to.Other()
	if t.flags&SYN != 0 {
		for kind, o := range eachOption(t.options) {
			if kind == kindWindowScale && len(o) == 3 {
				c.scale[to], c.scaled[to] = min(o[2], maxScale), true
			}
		}
	} else {
		c.open = true
	}
	if t.flags&RST != 0 {
		return
	}
	if !c.known[to] || after(t.end(), c.end[to]) {
		c.end[to], c.known[to] = t.end(), true
	}
	if t.flags&ACK == 0 {
		return
	}
	window := uint32(t.window)
	if t.flags&SYN == 0 && c.scaled[to] && c.scaled[back] {
		window <<= c.scale[to]
	}
	c.window[to] = max(c.window[to], window)
	if edge := t.ack + max(window, 1); c.edge[back] == 0 || after(edge, c.edge[back]) {
		c.edge[back] = edge
	}
}

// after reports whether sequence number a comes after b (RFC 9293, Section 3.4).
func after(a, b uint32) bool { return int32(a-b) > 0 }
