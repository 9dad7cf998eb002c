package conns

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// Info is one connection as `innertun conns --json` prints it: every key is always there.
type Info struct {
	ID             uint64  `json:"id"`
	Role           Role    `json:"role"`
	Local          string  `json:"local"`
	Remote         string  `json:"remote"`
	State          State   `json:"state"`
	Encrypted      bool    `json:"encrypted"`
	TEP            string  `json:"tep"`
	Cipher         string  `json:"cipher"`
	SessionID      string  `json:"session_id"`
	Resumed        bool    `json:"resumed"`
	InnerSpace     bool    `json:"inner_space"`
	EarlyData      bool    `json:"early_data"`
	AppAware       bool    `json:"app_aware"`
	Peer           string  `json:"peer"`
	FallbackReason string  `json:"fallback_reason"`
	Downgraded     bool    `json:"downgraded"` // the destination had encryption before
	Error          string  `json:"error"`
	RTT            float64 `json:"rtt_ms"`
	BytesIn        uint64  `json:"bytes_in"`
	BytesOut       uint64  `json:"bytes_out"`
	Rekeys         uint64  `json:"rekeys"`
	ResetsRefused  uint64  `json:"resets_refused"`
	OptionsSent    uint64  `json:"options_sent"` // inner options
	OptionsRecv    uint64  `json:"options_received"`
	OptionsUnknown uint64  `json:"options_unknown"`
	OptionsMissed  uint64  `json:"options_missed"`
	PeerMTU        int     `json:"peer_mtu"` // octets
	Handshake      float64 `json:"handshake_ms"`
	Age            float64 `json:"age_ms"` // since it was added; of an ended one, how long it lasted
}

// Snapshot returns what there is now, by ascending number.
func (r *Registry) Snapshot() []Info {
	type pending struct {
		at   int
		live func() Live
	}
	var ask []pending
	r.mu.Lock()
	r.expire()
	now := r.now()
	infos := make([]Info, 0, len(r.ended)+len(r.active))
	for _, c := range r.ended {
		infos = append(infos, c.info(c.ended))
	}
	for _, c := range r.active {
		if c.live != nil {
			ask = append(ask, pending{len(infos), c.live})
		}
		infos = append(infos, c.info(now))
	}
	r.mu.Unlock()
	for _, p := range ask { // without the lock: it may take others
		live := p.live()
		infos[p.at].RTT, infos[p.at].Rekeys, infos[p.at].ResetsRefused = ms(live.RTT), live.Rekeys, live.Resets
		infos[p.at].Peer = cmp.Or(live.Peer, infos[p.at].Peer)
		infos[p.at].options(&live)
	}
	slices.SortFunc(infos, func(a, b Info) int { return int(int64(a.ID - b.ID)) })
	return infos
}

// info is called with the registry's lock held.
func (c *Conn) info(now time.Time) Info {
	e := &c.est
	i := Info{
		ID: c.id, Role: c.role, Local: text(e.Local), Remote: text(e.Remote), State: c.state,
		Encrypted: e.Encrypted, TEP: e.TEP, Cipher: e.Cipher, SessionID: hexOf(e.SessionID), Resumed: e.Resumed,
		InnerSpace: e.InnerSpace, EarlyData: e.EarlyData, AppAware: e.AppAware, Peer: cmp.Or(c.last.Peer, e.Peer),
		FallbackReason: e.FallbackReason, Downgraded: e.Downgraded, Error: c.err, RTT: ms(c.last.RTT),
		BytesIn: c.BytesIn.Load(), BytesOut: c.BytesOut.Load(), Rekeys: c.last.Rekeys, ResetsRefused: c.last.Resets,
		Handshake: ms(e.Handshake), Age: ms(now.Sub(c.born)),
	}
	i.options(&c.last)
	return i
}

func (i *Info) options(l *Live) {
	o := &l.Options
	i.OptionsSent, i.OptionsRecv, i.OptionsUnknown, i.OptionsMissed = o.Sent, o.Received, o.Unknown, o.Missed
	i.PeerMTU = l.PeerMTU
}

func text(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String()
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
