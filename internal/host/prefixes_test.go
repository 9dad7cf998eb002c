package host

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestCover(t *testing.T) {
	for _, c := range []struct {
		include, exclude, want []string // want: first and last of each range
		is4                    bool
	}{
		{is4: true},
		{include: []string{"0.0.0.0/0", "::/0"}, want: []string{"0.0.0.0", "255.255.255.255"}, is4: true},
		{include: []string{"0.0.0.0/0", "::/0"}, want: []string{"::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}},
		{include: []string{"10.0.0.0/8"}, exclude: []string{"0.0.0.0/0"}, is4: true},
		{include: []string{"10.1.2.3/8"}, exclude: []string{"10.0.0.0/9"}, want: []string{"10.128.0.0", "10.255.255.255"}, is4: true},
		{include: []string{"10.0.0.0/9", "10.128.0.0/9", "10.3.0.0/16"}, want: []string{"10.0.0.0", "10.255.255.255"}, is4: true},
		{
			include: []string{"198.18.0.0/15"}, exclude: []string{"198.18.7.0/24", "198.18.7.9/32", "198.18.8.0/24"},
			want: []string{"198.18.0.0", "198.18.6.255", "198.18.9.0", "198.19.255.255"}, is4: true,
		},
		{include: []string{"255.255.255.0/24"}, exclude: []string{"255.255.255.255/32"}, want: []string{"255.255.255.0", "255.255.255.254"}, is4: true},
		{include: []string{"fd00::/8"}, exclude: []string{"fd00::/128", "10.0.0.0/8"}, want: []string{"fd00::1", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}},
	} {
		var got []string
		for _, r := range cover(prefixes(c.include...), prefixes(c.exclude...), c.is4) {
			got = append(got, r.first.String(), r.last.String())
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v without %v: %v, want %v", c.include, c.exclude, got, c.want)
		}
	}
}

// TestCoverAsSets asks each address of a small world.
func TestCoverAsSets(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		some := func(n int) (out []netip.Prefix) {
			for range random.IntN(n) {
				base := [4]byte{255, 255, 255, byte(random.IntN(256))}
				out = append(out, netip.PrefixFrom(netip.AddrFrom4(base), 24+random.IntN(9)))
			}
			return out
		}
		include, exclude := some(5), some(6)
		ranges := cover(include, exclude, true)
		for i := 1; i < len(ranges); i++ {
			if !ranges[i-1].last.Next().Less(ranges[i].first) {
				t.Fatalf("%v without %v: ranges %v overlap or touch", include, exclude, ranges)
			}
		}
		for last := range 256 {
			addr := netip.AddrFrom4([4]byte{255, 255, 255, byte(last)})
			in := func(p netip.Prefix) bool { return p.Contains(addr) }
			want := slices.ContainsFunc(include, in) && !slices.ContainsFunc(exclude, in)
			got := slices.ContainsFunc(ranges, func(r addrRange) bool { return !addr.Less(r.first) && !r.last.Less(addr) })
			if got != want {
				t.Fatalf("%v without %v: %v is %v", include, exclude, addr, got)
			}
		}
	}
}
