package tcpinc

import (
	"time"

	"innertun/tcpinc/eno"
)

// probeTime is how long one attempt has to find out whether a fault is still there, before another may try. It covers a
// race and a time for Init2.
const probeTime = 15 * time.Second

// fault is what made a path, or a network, fail with ENO. It is spared ENO until a time; then one attempt at a time finds out
// whether it is still so. Each that fails doubles the time. The zero value is no fault.
type fault struct {
	why   eno.Reason
	count int // failures in a row
	at    time.Time
	until time.Time // from when it is tried again
	probe time.Time // until when somebody is finding out
}

// spared reports whether ENO is not to be tried now.
func (f *fault) spared(now time.Time) bool {
	return f.why != eno.NoReason && (now.Before(f.until) || now.Before(f.probe))
}

// try is called by an attempt that does try, once f is not spared any more.
func (f *fault) try(now time.Time) {
	if f.why != eno.NoReason {
		f.probe = now.Add(probeTime)
	}
}

// fail notes a failure; the time to be spared is first, doubled up to limit. Attempts that were under way together count
// once. A fault not seen for as long as limit is a new one.
func (f *fault) fail(why eno.Reason, now time.Time, first, limit time.Duration) {
	switch {
	case f.why != eno.NoReason && now.Before(f.until):
		return
	case now.Sub(f.until) >= limit:
		f.count = 0
	}
	f.count++
	f.why, f.at, f.until, f.probe = why, now, now.Add(growing(first, limit, f.count)), time.Time{}
}

// growing is first, doubled for each time after the first one, at most limit.
func growing(first, limit time.Duration, times int) time.Duration {
	d := min(first, limit)
	for range times - 1 {
		if d >= limit/2 {
			return limit
		}
		d *= 2
	}
	return d
}
