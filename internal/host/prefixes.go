package host

import (
	"net/netip"
	"slices"
)

// addrRange is a range of addresses of one family, both ends included.
type addrRange struct{ first, last netip.Addr }

// cover returns the addresses of one family that are in include and not in exclude, as ascending ranges that neither
// overlap nor touch (an nftables interval set takes no others).
func cover(include, exclude []netip.Prefix, is4 bool) []addrRange {
	var out []addrRange
	cuts := merge(exclude, is4)
	for _, r := range merge(include, is4) {
		first := r.first
		for _, cut := range cuts {
			if cut.last.Less(first) || r.last.Less(cut.first) {
				continue
			}
			if first.Less(cut.first) {
				out = append(out, addrRange{first, cut.first.Prev()})
			}
			first = cut.last.Next() // the zero Addr, after the last address there is
			if !first.IsValid() {
				break
			}
		}
		if first.IsValid() && !r.last.Less(first) {
			out = append(out, addrRange{first, r.last})
		}
	}
	return out
}

func merge(prefixes []netip.Prefix, is4 bool) []addrRange {
	var ranges []addrRange
	for _, p := range prefixes {
		if p.IsValid() && p.Addr().Is4() == is4 {
			p = p.Masked()
			ranges = append(ranges, addrRange{p.Addr(), lastOf(p)})
		}
	}
	slices.SortFunc(ranges, func(a, b addrRange) int { return a.first.Compare(b.first) })
	var out []addrRange
	for _, r := range ranges {
		if n := len(out); n > 0 {
			after := out[n-1].last.Next()
			if !after.IsValid() || !after.Less(r.first) {
				if out[n-1].last.Less(r.last) {
					out[n-1].last = r.last
				}
				continue
			}
		}
		out = append(out, r)
	}
	return out
}

// lastOf returns the highest address of a masked prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}
