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

// strange returns the segments that belong to no connection the daemon has had before those of the capture.
func strange(t *testing.T, strays []*decode.Segment, flows []*decode.Flow, d *daemon) []*decode.Segment {
	t.Helper()
	if len(strays) == 0 {
		return nil
	}
	earlier := slices.DeleteFunc(d.conns(t), func(r record) bool {
		return slices.ContainsFunc(flows, func(f *decode.Flow) bool { return f.A.String() == r.Local && f.B.String() == r.Remote })
	})
	return slices.DeleteFunc(strays, func(s *decode.Segment) bool { return ofAny(s, earlier) })
}
