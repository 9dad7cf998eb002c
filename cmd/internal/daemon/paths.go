package daemon

import (
	"net/netip"
	"time"

	"innertun/cmd/internal/control"
	"innertun/tcpinc"
	"innertun/tcpinc/eno"
)

// paths is what is remembered of paths, for `innertun paths`.
func (d *daemon) paths() []control.Path {
	now := time.Now()
	all := d.out.dialer.Paths.List(now)
	out := make([]control.Path, len(all))
	for i, p := range all {
		out[i] = pathOf(p, now)
	}
	return out
}

func pathOf(p tcpinc.PathInfo, now time.Time) control.Path {
	out := control.Path{Kind: "network", Network: p.Network, Ratcheted: p.Ratcheted}
	if p.To.IsValid() {
		out.Kind, out.Destination = "destination", p.To.String()
	}
	if p.Fault != eno.NoReason {
		out.Fault, out.Failures = p.Fault.String(), p.Failures
		out.FailedAgo, out.RetryIn = milliseconds(now.Sub(p.Failed)), milliseconds(p.Retry.Sub(now))
	}
	if !p.Encrypted.IsZero() {
		out.Encrypted, out.EncryptedAgo = true, milliseconds(now.Sub(p.Encrypted))
	}
	if p.Inner != tcpinc.PathUnknown {
		out.Inner = p.Inner.String()
		out.InnerAgo, out.InnerFor = milliseconds(now.Sub(p.InnerSeen)), milliseconds(p.InnerUntil.Sub(now))
	}
	return out
}

func (d *daemon) flushPaths(to netip.AddrPort) int {
	paths := d.out.dialer.Paths
	n := 0
	if to.Addr().IsValid() {
		n = paths.FlushDestination(to)
		d.log.Info("forgotten what was known of a destination", "to", to, "entries", n)
	} else {
		n = paths.Flush()
		d.log.Info("forgotten all faults of paths", "entries", n)
	}
	return n
}

// milliseconds is d, at least 0.
func milliseconds(d time.Duration) float64 { return float64(max(d, 0)) / float64(time.Millisecond) }
