package lab

import (
	"net/netip"
	"sync/atomic"
	"time"
)

// Where the SYNs of a Flood come from unless it says so: RFC 2544's block, beside the hosts', and one of RFC 4193.
var (
	forged4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 19}), 16)
	forged6 = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 6: 0x0b, 7: 0xad}), 64)
)

// Flood sends SYNs with forged sources towards end B, from the first packet after Start on, and loses what is sent back to
// those sources.
type Flood struct {
	// Target is where the SYNs go; zero: where the first SYN goes that passes towards B.
	Target netip.AddrPort
	// Sources has the forged addresses, of Target's family; zero: 198.19.0.0/16 or fd00:0:0:bad::/64.
	Sources netip.Prefix
	// Rate is how many there are a second, in bursts of one millisecond; 0: Burst alone.
	Rate int
	// Burst is how many there are at once when it begins, ahead of the packet that it begins with.
	Burst int
	// Count is how many there are in all; 0: it ends with Stop.
	Count int
	// Wait is how long after the first packet it begins.
	Wait time.Duration
	// Seed changes sequence numbers and ports.
	Seed uint64
	// SYN returns the TCP options, of a length that is a multiple of 4, and the payload of the i-th; nil: MSS 1460 and none.
	SYN func(i int) (options, payload []byte)

	on, running atomic.Bool
	sent        atomic.Int64
}

// Packet implements Element.
func (f *Flood) Packet(p Packet, at Place) {
	if p.To == A && f.Forged(p.Data) {
		return
	}
	if f.on.Load() && !f.running.Load() && f.aimed(p) {
		f.running.Store(true)
		if f.Wait > 0 {
			at.After(f.Wait, func() { f.run(at) })
		} else {
			f.run(at)
		}
	}
	at.Send(p)
}

// aimed reports whether there is a target, which a SYN may have told.
func (f *Flood) aimed(p Packet) bool {
	if !f.Target.IsValid() {
		s, ok := ParseSegment(p.Data)
		if !ok || p.To != B || s.Flags()&(SYN|ACK) != SYN {
			return false
		}
		f.Target = s.Destination
	}
	return true
}

func (f *Flood) sources() netip.Prefix {
	switch {
	case f.Sources.IsValid():
		return f.Sources
	case f.Target.Addr().Is4():
		return forged4
	}
	return forged6
}

// Forged reports whether a packet goes to, or comes from, one of the forged sources.
func (f *Flood) Forged(pkt []byte) bool {
	var from, to netip.Addr
	switch {
	case len(pkt) >= ipv4HeaderLen && pkt[0]>>4 == 4:
		from, to = netip.AddrFrom4([4]byte(pkt[12:])), netip.AddrFrom4([4]byte(pkt[16:]))
	case len(pkt) >= ipv6HeaderLen && pkt[0]>>4 == 6:
		from, to = netip.AddrFrom16([16]byte(pkt[8:])), netip.AddrFrom16([16]byte(pkt[24:]))
	}
	if f.Sources.IsValid() {
		return f.Sources.Contains(from) || f.Sources.Contains(to)
	}
	return forged4.Contains(from) || forged4.Contains(to) || forged6.Contains(from) || forged6.Contains(to)
}

// Start begins the flood.
func (f *Flood) Start() { f.on.Store(true) }

// Stop ends it for good.
func (f *Flood) Stop() { f.on.Store(false) }

func (f *Flood) run(at Place) {
	begin := at.Now()
	var tick func()
	tick = func() {
		due := int64(f.Burst) + int64(at.Now().Sub(begin).Seconds()*float64(f.Rate))
		if f.Count > 0 {
			due = min(due, int64(f.Count))
		}
		for i := f.sent.Load(); i < due && f.on.Load(); i++ {
			at.Send(Packet{Data: f.Segment(int(i)), To: B})
			f.sent.Add(1)
		}
		if f.on.Load() && f.Rate > 0 && (f.Count == 0 || due < int64(f.Count)) {
			at.After(time.Millisecond, tick)
		}
	}
	tick()
}

// Acted implements Actor: the SYNs sent.
func (f *Flood) Acted() int64 { return f.sent.Load() }

// Segment returns the i-th SYN, an IP packet.
func (f *Flood) Segment(i int) []byte {
	n := uint64(i)
	port := 1024 + (n+f.Seed%60000)%60000
	t := fresh(netip.AddrPortFrom(source(f.sources(), n), uint16(port)), f.Target, uint32(n*0x9e3779b1+f.Seed), 0, SYN)
	t.window, t.options = 65535, []byte{2, 4, 5, 180}
	if f.SYN != nil {
		t.options, t.payload = f.SYN(i)
	}
	return t.packet(B).Data
}

// source is the i-th address of a prefix, from its first again behind the last or behind 2^32.
func source(p netip.Prefix, i uint64) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	if bits := len(b)*8 - p.Bits(); bits < 32 {
		i &= 1<<bits - 1
	}
	for at := len(b) - 1; at >= len(b)-4; at, i = at-1, i>>8 {
		b[at] |= byte(i)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
