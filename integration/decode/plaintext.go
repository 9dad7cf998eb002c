package decode

import (
	"bytes"
	"fmt"
)

// FindPlaintext returns a description of every place where one of the markers occurs on the wire: in a segment, or
// across segments in what one side of a connection sent. It goes by payload only. Streams with holes are searched
// segment by segment.
func FindPlaintext(segs []Segment, markers [][]byte) (found []string) {
	for i := range segs {
		for _, m := range markers {
			if at := bytes.Index(segs[i].Payload, m); at >= 0 {
				found = append(found, fmt.Sprintf("%v: %.32q at octet %d", &segs[i], m, at))
			}
		}
	}
	flows, _ := Flows(segs)
	for _, f := range flows {
		for _, d := range []Direction{AtoB, BtoA} {
			st, err := f.Reassemble(d)
			if err != nil {
				continue
			}
			for _, m := range markers {
				if at := bytes.Index(st.Data, m); at >= 0 {
					found = append(found, fmt.Sprintf("%v>%v, direction %d: %.32q at octet %d", f.A, f.B, d, m, at))
				}
			}
		}
	}
	return found
}

// Markers returns n pieces of data, of size octets each, from places all over it, to be searched for on the wire.
func Markers(data []byte, n, size int) (markers [][]byte) {
	if len(data) < size {
		return nil
	}
	for i := range n {
		at := (len(data) - size) / max(n-1, 1) * i
		markers = append(markers, data[at:at+size])
	}
	return markers
}
