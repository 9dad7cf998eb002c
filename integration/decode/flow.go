package decode

import (
	"fmt"
	"net/netip"
)

// Direction is one way of a connection.
type Direction int

const (
	AtoB Direction = iota // from the active opener
	BtoA
)

// Flow is one connection: all segments from one initial SYN to the end, in the order of the capture.
type Flow struct {
	A, B     netip.AddrPort // A is the active opener
	Segments []*Segment
}

// Direction returns the way in which a segment of the flow went.
func (f *Flow) Direction(s *Segment) Direction {
	if s.Src == f.A {
		return AtoB
	}
	return BtoA
}

// Flows sorts segments into connections, in the order of their first segments. A SYN with another initial sequence
// number on the same addresses and ports begins a new connection. Segments of connections whose SYN is not in the
// capture are returned as strays.
func Flows(segs []Segment) (flows []*Flow, strays []*Segment) {
	type pair struct{ a, b netip.AddrPort }
	open := make(map[pair]*Flow)
	for i := range segs {
		s := &segs[i]
		f := open[pair{s.Src, s.Dst}]
		if f == nil {
			f = open[pair{s.Dst, s.Src}]
		}
		if s.has(SYN) && !s.has(ACK) && (f == nil || f.A != s.Src || f.Segments[0].Seq != s.Seq) {
			delete(open, pair{s.Dst, s.Src})
			f = &Flow{A: s.Src, B: s.Dst}
			open[pair{s.Src, s.Dst}] = f
			flows = append(flows, f)
		}
		if f == nil {
			strays = append(strays, s)
			continue
		}
		f.Segments = append(f.Segments, s)
	}
	return flows, strays
}

// Stream is what one side sent, put together again.
type Stream struct {
	Data []byte // contiguous octets from the first after the SYN
	// SYNPayload is the number of octets at the start of Data that were sent in the SYN or SYN-ACK.
	SYNPayload int
	FIN        bool // a FIN follows Data
	RST        bool // the side reset the connection
	// ends holds, for each offset at which a segment ended, that segment.
	ends map[int]*Segment
}

// afterSYN is the stream without the data of the SYN or SYN-ACK, which is no part of the octet stream proper.
func (st *Stream) afterSYN() *Stream {
	if st.SYNPayload == 0 {
		return st
	}
	out := *st
	out.Data, out.ends = st.Data[st.SYNPayload:], make(map[int]*Segment)
	for end, s := range st.ends {
		out.ends[end-st.SYNPayload] = s
	}
	return &out
}

// pushed tells whether the segment that carries the octet before the offset has PSH set.
func (st *Stream) pushed(offset int) bool {
	best := -1
	for end := range st.ends {
		if end >= offset && (best < 0 || end < best) {
			best = end
		}
	}
	return best >= 0 && st.ends[best].has(PSH)
}

// Reassemble returns what one side of the flow sent. Octets that the capture lacks, and octets retransmitted with
// another value, are errors: RFC 8548, Section 3.6 forbids the latter.
func (f *Flow) Reassemble(d Direction) (*Stream, error) {
	st := &Stream{ends: make(map[int]*Segment)}
	first, found := uint32(0), false
	finAt := -1
	var pending []*Segment
	var acked uint32 // by the other side, the latest
	for _, s := range f.Segments {
		if f.Direction(s) != d {
			if s.has(ACK) {
				acked = s.Ack
			}
			continue
		}
		if s.Flags == ACK && s.Length == 1 && s.Seq+1 == acked {
			continue // a probe of a window that was zero: an octet of any value, which the receiver has and does not look at
		}
		if s.has(SYN) {
			if found {
				continue // Negotiate has compared it with the first
			}
			first, found = s.Seq+1, true
			st.SYNPayload = s.Length
		}
		st.RST = st.RST || s.has(RST)
		if !found {
			if s.has(RST) {
				continue
			}
			return nil, fmt.Errorf("%v: before the SYN", s)
		}
		if s.Length > len(s.Payload) {
			return nil, fmt.Errorf("%v: the capture holds only %d octets of it", s, len(s.Payload))
		}
		if s.has(FIN) {
			finAt = int(int32(s.seqOfData()-first)) + s.Length
		}
		if s.Length == 0 || s.has(RST) {
			continue
		}
		pending = append(pending, s)
		var err error
		if pending, err = st.absorb(pending, first); err != nil {
			return nil, err
		}
	}
	if len(pending) > 0 {
		return nil, fmt.Errorf("octets %d and following are missing from the capture; it goes on with %v", len(st.Data), pending[0])
	}
	st.FIN = finAt >= 0 && finAt == len(st.Data)
	return st, nil
}

// seqOfData is the sequence number of the first payload octet.
func (s *Segment) seqOfData() uint32 {
	if s.has(SYN) {
		return s.Seq + 1
	}
	return s.Seq
}

// absorb takes over all pending segments that fit to what is there, and returns the others.
func (st *Stream) absorb(pending []*Segment, first uint32) ([]*Segment, error) {
	for progress := true; progress; {
		progress = false
		rest := pending[:0]
		for _, s := range pending {
			// Streams of a capture stay far below 2 GiB behind or ahead of what is there.
			offset := len(st.Data) + int(int32(s.seqOfData()-(first+uint32(len(st.Data)))))
			if offset > len(st.Data) {
				rest = append(rest, s)
				continue
			}
			if err := st.merge(s, offset); err != nil {
				return nil, err
			}
			progress = true
		}
		pending = rest
		if len(pending) == 0 {
			break
		}
	}
	return pending, nil
}

func (st *Stream) merge(s *Segment, offset int) error {
	if offset < 0 { // a keep-alive or a probe repeats the octet before
		if -offset >= len(s.Payload) {
			return nil
		}
		return st.merge(&Segment{Number: s.Number, Src: s.Src, Dst: s.Dst, Seq: s.Seq, Flags: s.Flags,
			Payload: s.Payload[-offset:], Length: len(s.Payload) + offset}, 0)
	}
	known := min(len(st.Data)-offset, len(s.Payload))
	for i := range known {
		if st.Data[offset+i] != s.Payload[i] {
			return fmt.Errorf("%v: octet %d of the stream was retransmitted with another value", s, offset+i)
		}
	}
	st.Data = append(st.Data, s.Payload[known:]...)
	if end := offset + len(s.Payload); st.ends[end] == nil || s.has(PSH) {
		st.ends[end] = s
	}
	return nil
}
