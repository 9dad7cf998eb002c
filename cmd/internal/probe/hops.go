package probe

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"innertun/cmd/internal/probe/packet"
	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
)

const (
	hopBatch   = 4 // hops that are asked at once
	hopTries   = 2
	hopSilence = 8 // silent hops in a row after which nothing more is expected
	// hopWindow plus the hop is in the window field: a quote of 16 octets of TCP tells by it which packet is meant.
	hopWindow = 0x7000
)

// heard is what one hop said about one kind of segment.
type heard struct {
	by      netip.Addr
	cause   packet.Cause
	rtt     time.Duration
	quoted  int // octets of TCP
	header  int // octets of the TCP header that was sent
	changes []packet.Change
}

// series is one kind of segment, sent with growing time to live from one port, so that routers that spread flows over several
// paths treat all alike.
type series struct {
	name    string
	at      *port
	segment func(hop int) packet.Segment
	// answer takes a segment from the other end and says for which hop it answers; 0: none.
	answer func(packet.Segment) int
	heard  map[int]heard
	sent   map[int][]byte
	times  map[int]time.Time
	// distance is the first hop at which the other end answered; 0: it did not.
	distance int
}

// hops sends the series and compares what routers quote with what was sent.
func (q *inquiry) hops(ctx context.Context) error {
	if q.p.cfg.Hops < 0 {
		q.r.Hops.Detail = "hops were not to be looked for"
		return nil
	}
	q.r.Hops.Detail = ""
	n, err := offer(true, tcpcrypt.TEPs()...)
	if err != nil {
		return err
	}
	options := append(n.AppendOptions(nil, eno.SYN, maxOption), unknownOption...)
	options = append(options, optionTFO, 2)
	all, err := q.synSeries(ctx, "syn", syn{options: options}, q.p.cfg.Hops)
	if all == nil || err != nil {
		return err
	}
	found := []*series{all}
	limit := q.p.cfg.Hops
	if d := all.distance; d > 0 {
		limit = d - 1
	} else if len(all.heard) > 0 {
		limit = slices.Max(keys(all.heard))
	} else {
		limit = 0
	}
	data, err := q.synSeries(ctx, "syn-data", syn{data: []byte(synData)}, limit)
	if err != nil {
		return err
	}
	found = append(found, data)
	if q.r.Plain.Finding == wordOpen && all.distance > 0 {
		ack, err := q.ackSeries(ctx, limit)
		if err != nil {
			return err
		}
		found = append(found, ack)
	}
	q.r.Hops.collect(all.distance, found)
	return nil
}

func keys[V any](m map[int]V) (out []int) {
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// synSeries sends SYNs, none of which leaves anything at the other end.
func (q *inquiry) synSeries(ctx context.Context, name string, s syn, limit int) (*series, error) {
	at, err := q.p.listen(q.to)
	if err != nil {
		return nil, err
	}
	defer at.close()
	first := q.p.random()
	isn := func(hop int) uint32 { return first + uint32(hop)<<16 }
	run := &series{name: name, at: at, segment: func(hop int) packet.Segment {
		return packet.Segment{Flags: packet.SYN, Seq: isn(hop), Options: s.fullOptions(q.to.Addr(), first), Payload: s.data}
	}, answer: func(got packet.Segment) int {
		q.p.refuse(got)
		hop := int(got.Ack-first) >> 16
		if taken := got.Ack - 1 - isn(hop); !got.Has(packet.ACK) || taken > uint32(len(s.data)) || hop < 1 {
			return 0
		}
		return hop
	}}
	defer func() {
		for hop := range run.sent {
			if _, ok := run.heard[hop]; !ok {
				at.forget(isn(hop), len(s.data))
			}
		}
	}()
	return run, q.p.sendSeries(ctx, run, limit)
}

// ackSeries sends ACKs with options on an open connection.
func (q *inquiry) ackSeries(ctx context.Context, limit int) (*series, error) {
	c, err := q.p.open(ctx, q.to, syn{bare: true}, func(packet.Segment) []byte { return nil })
	if err != nil {
		return &series{name: "ack"}, ctx.Err()
	}
	defer c.finish()
	options := append(eno.AppendNonSYN(nil), unknownOption...)
	run := &series{name: "ack", at: c.port, segment: func(int) packet.Segment {
		return packet.Segment{Flags: packet.ACK, Seq: c.sent, Ack: c.received, Options: options}
	}, answer: func(got packet.Segment) int {
		c.take(got)
		return 0
	}}
	return run, q.p.sendSeries(ctx, run, limit)
}

// sendSeries sends a series up to the hop where the other end answers, or limit.
func (p *Prober) sendSeries(ctx context.Context, s *series, limit int) error {
	s.heard, s.sent, s.times = make(map[int]heard), make(map[int][]byte), make(map[int]time.Time)
	last := 0 // the last hop that said something
	for first := 1; first <= limit && s.distance == 0 && first-last <= hopSilence; first += hopBatch {
		batch := min(first+hopBatch-1, limit)
		for range hopTries {
			if err := p.sendBatch(ctx, s, first, batch); err != nil {
				return err
			}
			if s.complete(first, batch) {
				break
			}
		}
		for hop := range s.heard {
			last = max(last, hop)
		}
	}
	return nil
}

func (p *Prober) sendBatch(ctx context.Context, s *series, first, last int) error {
	for hop := first; hop <= last && (s.distance == 0 || hop < s.distance); hop++ {
		if _, ok := s.heard[hop]; ok {
			continue
		}
		if err := p.turn(ctx); err != nil {
			return err
		}
		out := s.segment(hop)
		out.Hops, out.ID, out.Window = uint8(hop), hopWindow+uint16(hop), hopWindow+uint16(hop)
		s.times[hop] = p.cfg.Clock.Now()
		s.sent[hop] = s.at.send(out)
	}
	for until := p.cfg.Clock.Now().Add(p.cfg.Timeout); !s.complete(first, last); {
		e, ok := s.at.wait(ctx, until)
		if !ok {
			break
		}
		s.take(e)
	}
	return ctx.Err()
}

// complete reports whether nothing more is to be heard of these hops.
func (s *series) complete(first, last int) bool {
	for hop := first; hop <= last && (s.distance == 0 || hop < s.distance); hop++ {
		if _, ok := s.heard[hop]; !ok {
			return false
		}
	}
	return true
}

func (s *series) take(e event) {
	if e.notice == nil {
		if hop := s.answer(e.segment); s.sent[hop] != nil && (s.distance == 0 || hop < s.distance) {
			s.distance = hop
		}
		return
	}
	hop := s.hopOf(e.notice.Quote)
	sent := s.sent[hop]
	if _, ok := s.heard[hop]; ok || sent == nil {
		return
	}
	was, err := packet.Parse(sent)
	if err != nil {
		return
	}
	s.heard[hop] = heard{by: e.notice.By, cause: e.notice.Cause, rtt: e.at.Sub(s.times[hop]),
		quoted: len(e.notice.Quote.TCP), header: 20 + len(was.Options), changes: packet.Compare(sent, e.notice.Quote)}
}

// hopOf says which packet a quote is of, by whatever of it came back.
func (s *series) hopOf(q packet.Quote) int {
	if w, ok := q.Window(); ok && s.sent[int(w)-hopWindow] != nil {
		return int(w) - hopWindow
	}
	if hop := int(q.ID) - hopWindow; s.sent[hop] != nil {
		return hop
	}
	for _, hop := range keys(s.sent) {
		if s.segment(hop).Seq == q.Seq {
			return hop
		}
	}
	return 0
}

// collect puts the series together.
func (h *Hops) collect(distance int, found []*series) {
	h.Distance = distance
	at := make(map[int]*Hop)
	for _, s := range found {
		for hop, said := range s.heard {
			if at[hop] == nil {
				at[hop] = &Hop{Hop: hop}
			}
			to := at[hop]
			to.Address, to.Quoted, to.RTT = said.by.String(), max(to.Quoted, said.quoted), least(to.RTT, said.rtt)
			if said.cause != packet.TimeExceeded {
				to.Sees = append(to.Sees, s.name+" is answered "+said.cause.String())
			}
			for _, c := range said.changes {
				to.Sees = append(to.Sees, s.name+": "+describe(c))
			}
		}
		h.Changes = append(h.Changes, s.changes()...)
	}
	last := distance - 1
	for hop := range at {
		last = max(last, hop)
	}
	for hop := 1; hop <= last; hop++ {
		if at[hop] == nil {
			at[hop] = &Hop{Hop: hop}
		}
		slices.Sort(at[hop].Sees)
		h.Path = append(h.Path, *at[hop])
	}
	byHop(h.Path)
	if distance == 0 {
		h.Detail = "nothing answered from the other end"
	}
}

// changes finds, for each kind of change, the first hop that saw it and the last before it that did not.
func (s *series) changes() (out []Change) {
	known := make(map[string]bool)
	hops := keys(s.heard)
	for i, hop := range hops {
		for _, c := range s.heard[hop].changes {
			if known[c.What] {
				continue
			}
			known[c.What] = true
			change := Change{Segment: s.name, Change: c, By: hop, ByAddress: s.heard[hop].by.String()}
			for _, before := range slices.Backward(hops[:i]) {
				if h := s.heard[before]; shows(c.What, h) {
					change.After, change.AfterAddress = before, h.by.String()
					break
				}
			}
			out = append(out, change)
		}
	}
	return out
}

// shows reports whether a quote was long enough to show a change of this kind.
func shows(what string, h heard) bool {
	switch what {
	case "source", "destination", "class", "sequence", "length":
		return true
	case "acknowledgment", "flags", "window":
		return h.quoted >= 16
	case "checksum":
		return h.quoted >= 18
	case "payload":
		return h.quoted > h.header
	}
	return h.quoted >= h.header
}

func describe(c packet.Change) string {
	if strings.HasSuffix(c.What, " removed") {
		return c.What
	}
	if strings.HasSuffix(c.What, " added") {
		return fmt.Sprintf("%s (%s)", c.What, c.Seen)
	}
	return fmt.Sprintf("%s %s -> %s", c.What, c.Sent, c.Seen)
}

// tidy makes empty lists of those that are nil, for JSON.
func (r *Result) tidy() {
	if r.ENO.TEPs == nil {
		r.ENO.TEPs = []string{}
	}
	if r.Hops.Path == nil {
		r.Hops.Path = []Hop{}
	}
	for i := range r.Hops.Path {
		if r.Hops.Path[i].Sees == nil {
			r.Hops.Path[i].Sees = []string{}
		}
	}
	if r.Hops.Changes == nil {
		r.Hops.Changes = []Change{}
	}
}
