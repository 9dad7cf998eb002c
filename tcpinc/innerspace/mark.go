package innerspace

import (
	"bytes"
	"slices"

	"innertun/tcpinc/eno"
)

// The mark "I speak Inner Space" in an ENO option: the experimental TEP with these two octets. It is never negotiated.
const markData = "IS" // 0x49 0x53

// Mark returns the suboption that is the mark.
func Mark() eno.Suboption {
	return eno.Suboption{TEP: eno.Experimental, V: true, Data: []byte(markData)}
}

// IsMark reports whether s is the mark.
func IsMark(s eno.Suboption) bool {
	return s.TEP == eno.Experimental && s.V && bytes.Equal(s.Data, []byte(markData))
}

// AppendMark appends the mark to the suboptions of an ENO option. It is to be the first of them, before any TEP, as the least
// preferred is: on the wire 81 a0 49 53 (RFC 8547, Section 4.5).
func AppendMark(dst []eno.Suboption) []eno.Suboption { return append(dst, Mark()) }

// HasMark reports whether an ENO option has the mark, in whatever place.
func HasMark(o eno.Option) bool { return slices.ContainsFunc(o.Suboptions, IsMark) }
