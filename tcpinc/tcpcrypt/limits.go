package tcpcrypt

import "time"

// Defaults of KeyLimits. With them AES-GCM seals at most 2^30 blocks in at most 2^24 frames under a key, so that telling
// it from a random permutation succeeds with a probability below 2^-67. 2^24 frames is the bound of TLS 1.3 as well.
// RFC 8446, Section 5.5.
const (
	DefaultKeyOctets = 16 << 30
	DefaultKeyFrames = 1 << 24
	DefaultKeyTime   = time.Hour
)

// KeyLimits say how long a traffic key is used before this host begins the next generation. A peer that goes on with a
// key of its own to twice the limits is asked for a new one. RFC 8548, Section 3.8.
type KeyLimits struct {
	Octets uint64 // of frames, headers included; never exceeded by more than one frame. 0: DefaultKeyOctets
	Frames uint64 // 0: DefaultKeyFrames
	// Time is how long a key may serve. One under which no data has gone either way since may become older. 0:
	// DefaultKeyTime; negative: without limit.
	Time time.Duration
}

func (l KeyLimits) filled() KeyLimits {
	const most = 1 << 62 // twice that is still a number
	if l.Octets == 0 {
		l.Octets = DefaultKeyOctets
	}
	if l.Frames == 0 {
		l.Frames = DefaultKeyFrames
	}
	if l.Time == 0 {
		l.Time = DefaultKeyTime
	}
	l.Octets, l.Frames = min(l.Octets, most), min(l.Frames, most)
	return l
}

// fits reports whether the current key may serve for one more frame of size octets. The first one always fits.
func (d *direction) fits(octets, frames uint64, size int) bool {
	return d.keyFrames < frames && (d.keyOctets+uint64(size) <= octets || d.keyFrames == 0)
}

// patience is how many rekeys may be unanswered before the limits that were configured give way to the default ones, if
// these are wider: a peer that cannot answer for a while, as its own data has no room, is not run away from.
const patience = 16

// worn reports whether the sending key must not seal one more frame of size octets.
func (c *Conn) worn(size int) bool {
	d, l := c.out.dir, &c.cfg.KeyLimits
	if d.fits(l.Octets, l.Frames, size) {
		return false
	}
	// A peer that has ended its stream owes no answers.
	return c.in.finished.Load() || c.unanswered() < patience || !d.fits(max(l.Octets, DefaultKeyOctets), max(l.Frames, DefaultKeyFrames), size)
}

// overdue reports whether the peer has used its key to twice the limits and is yet to be asked for a new one.
func (c *Conn) overdue() bool {
	d, l := c.in.dir, &c.cfg.KeyLimits
	return (d.keyFrames >= 2*l.Frames || d.keyOctets >= 2*l.Octets) && c.unanswered() <= 0 && !c.aims() && !c.asks()
}

// unanswered is how many generations this host is ahead of its peer; negative: behind it.
func (c *Conn) unanswered() int64 {
	return int64(c.out.counters.generation.Load()) - int64(c.in.counters.generation.Load())
}

// wantRekey begins the generation that follows after: with a frame of data if one comes soon, else in an empty one. With a rekey
// unanswered there is no empty one, and only data will carry it. RFC 8548, Section 3.8.
func (c *Conn) wantRekey(after uint32) {
	if !c.out.finished.Load() {
		c.out.aim(after)
		c.sendLater()
	}
}
