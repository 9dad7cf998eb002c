package lab

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"time"
)

// Flood sends SYNs with forged sources towards end B at a fixed rate, from the first packet after Start on, and loses what
// is sent back to those sources. IPv4.
type Flood struct {
	// Target is where the SYNs go.
	Target netip.AddrPort
	// Sources has the forged addresses.
	Sources netip.Prefix
	// Rate is how many there are a second, in bursts of one millisecond.
	Rate int
	// SYN returns the TCP options, of a length that is a multiple of 4, and the payload of the i-th; nil: MSS 1460 and none.
	SYN func(i int) (options, payload []byte)

	on, running atomic.Bool
	sent        atomic.Int64
}

// Packet implements Element.
func (f *Flood) Packet(p Packet, at Place) {
	if p.To == A && len(p.Data) >= 20 && p.Data[0]>>4 == 4 {
		if dst, _ := netip.AddrFromSlice(p.Data[16:20]); f.Sources.Contains(dst) {
			return
		}
	}
	if f.on.Load() && !f.running.Swap(true) {
		f.run(at)
	}
	at.Send(p)
}

// Start begins the flood.
func (f *Flood) Start() { f.on.Store(true) }

// Stop ends it for good.
func (f *Flood) Stop() { f.on.Store(false) }

func (f *Flood) run(at Place) {
	begin := at.Now()
	var tick func()
	tick = func() {
		if !f.on.Load() {
			return
		}
		due := int64(at.Now().Sub(begin).Seconds() * float64(f.Rate))
		for i := f.sent.Load(); i < due; i++ {
			at.Send(Packet{Data: f.Segment(int(i)), To: B})
			f.sent.Add(1)
		}
		at.After(time.Millisecond, tick)
	}
	at.After(0, tick)
}

// Acted implements Actor: the SYNs sent.
func (f *Flood) Acted() int64 { return f.sent.Load() }

// Segment returns the i-th SYN, an IPv4 packet.
func (f *Flood) Segment(i int) []byte {
	options, payload := []byte{2, 4, 5, 180}, []byte(nil)
	if f.SYN != nil {
		options, payload = f.SYN(i)
	}
	tcp := 20 + len(options) + len(payload)
	b := make([]byte, 20+tcp)
	b[0], b[8], b[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	src := f.Sources.Masked().Addr().As4()
	host := uint32(i) & (1<<(32-f.Sources.Bits()) - 1)
	binary.BigEndian.PutUint32(src[:], binary.BigEndian.Uint32(src[:])|host)
	dst := f.Target.Addr().As4()
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	binary.BigEndian.PutUint16(b[10:], ^fold(add(0, b[:20])))
	t := b[20:]
	binary.BigEndian.PutUint16(t, uint16(1024+i%60000))
	binary.BigEndian.PutUint16(t[2:], f.Target.Port())
	binary.BigEndian.PutUint32(t[4:], uint32(i)*0x9e3779b1)
	t[12], t[13] = byte(20+len(options))<<2, SYN
	binary.BigEndian.PutUint16(t[14:], 65535)
	copy(t[20:], options)
	copy(t[20+len(options):], payload)
	sum := add(add(add(0, src[:]), dst[:]), t) + 6 + uint32(len(t))
	binary.BigEndian.PutUint16(t[16:], ^fold(sum))
	return b
}
