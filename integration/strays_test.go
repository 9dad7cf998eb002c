package integration

import (
	"slices"
	"testing"

	"innertun/integration/decode"
)

// ofAny tells whether a segment belongs to one of a daemon's connections. What is left of an earlier one may come when a
// capture has begun.
func ofAny(s *decode.Segment, all []record) bool {
	src, dst := s.Src.String(), s.Dst.String()
	return slices.ContainsFunc(all, func(r record) bool {
		return r.Local == src && r.Remote == dst || r.Local == dst && r.Remote == src
	})
}

// strange returns the segments that belong to no connection that daemons on this one's host have had before those of the
// capture.
func strange(t *testing.T, strays []*decode.Segment, flows []*decode.Flow, d *daemon) []*decode.Segment {
	t.Helper()
	if len(strays) == 0 {
		return nil
	}
	if !d.Exited() {
		d.conns(t) // notes them
	}
	return slices.DeleteFunc(strays, func(s *decode.Segment) bool {
		if slices.ContainsFunc(flows, func(f *decode.Flow) bool {
			return f.A == s.Src && f.B == s.Dst || f.A == s.Dst && f.B == s.Src
		}) {
			return false
		}
		src, dst := s.Src.String(), s.Dst.String()
		return d.host.HasHad(src, dst) || d.host.HasHad(dst, src)
	})
}
