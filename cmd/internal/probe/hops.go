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
	// distance is the first hop at which the other end answered, or somebody in its name, or a router refused; 0: none.
	distance int
	reply    string // what the answer was
}

// hops sends the series and compares what routers quote with what was sent.
func (q *inquiry) hops(ctx context.Context) error {
	if q.p.cfg.Hops < 0 {
		q.r.Hops.Detail = "hops were not to be looked for"
		return nil
	}
	q.r.Hops.Detail = ""
	plain, err := q.synSeries(ctx, "plain", syn{}, q.p.cfg.Hops)
	if err != nil {
		return err
	}
	// What follows is not to arrive.
	limit := plain.end() - 1
	options, err := allOptions()
	if err != nil {
		return err
	}
	found := []*series{plain}
	for _, kind := range []struct {
		name string
		syn  syn
	}{{"syn", syn{options: options}}, {"syn-data", syn{data: []byte(synData)}}} {
		run, err := q.synSeries(ctx, kind.name, kind.syn, limit)
		if err != nil {
			return err
		}
		found = append(found, run)
	}
	if q.r.Plain.Finding == wordOpen && plain.distance > 0 {
		run, err := q.ackSeries(ctx, limit)
		if err != nil {
			return err
		}
		found = append(found, run)
	}
	q.r.Hops.collect(plain, found, q.r.believable)
	return nil
}

// allOptions are the options that are asked about, in one SYN.
func allOptions() ([]byte, error) {
	n, err := offer(true, tcpcrypt.TEPs()...)
	if err != nil {
		return nil, err
	}
	options := append(n.AppendOptions(nil, eno.SYN, maxOption), unknownOption...)
	return append(options, optionTFO, 2), nil
}

// end is the first hop that a series does not tell about.
func (s *series) end() int {
	if s.distance > 0 {
		return s.distance
	}
	if hops := keys(s.heard); len(hops) > 0 {
		return hops[len(hops)-1] + 1
	}
	return 1
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
		word := "SYN-ACK"
		if e.segment.Has(packet.RST) {
			word = "RST"
		}
		s.arrived(s.answer(e.segment), word)
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
	if e.notice.Cause != packet.TimeExceeded {
		s.arrived(hop, "ICMP "+e.notice.Cause.String()+" from "+e.notice.By.String())
		return
	}
	s.heard[hop] = heard{by: e.notice.By, rtt: e.at.Sub(s.times[hop]),
		quoted: len(e.notice.Quote.TCP), header: 20 + len(was.Options), changes: packet.Compare(sent, e.notice.Quote)}
}

// arrived notes that a packet that may go so far was answered in another way than by a router it had come to its end at.
func (s *series) arrived(hop int, reply string) {
	if s.sent[hop] != nil && (s.distance == 0 || hop < s.distance) {
		s.distance, s.reply = hop, reply
	}
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

// collect puts the series together, of which plain is one.
func (h *Hops) collect(plain *series, found []*series, lost func(series string) bool) {
	h.Distance = plain.distance
	at := make(map[int]*Hop)
	for hop := 1; hop < plain.end(); hop++ {
		at[hop] = &Hop{Hop: hop}
	}
	for _, s := range found {
		for _, hop := range keys(s.heard) {
			to, said := at[hop], s.heard[hop]
			if to == nil {
				continue // behind where plain SYNs are answered: the path has just changed
			}
			to.Address, to.Quoted, to.RTT = said.by.String(), max(to.Quoted, said.quoted), least(to.RTT, said.rtt)
			for _, c := range said.changes {
				to.Sees = append(to.Sees, s.name+": "+describe(c))
			}
		}
		h.Changes = append(h.Changes, s.changes()...)
		if c, ok := s.stopped(plain); ok && (c.What != whatLost || lost(s.name)) {
			h.Changes = append(h.Changes, c)
		}
	}
	for _, hop := range keys(at) {
		h.Path = append(h.Path, *at[hop])
	}
	if h.Distance == 0 {
		h.Detail = "nothing answered from the other end"
	} else {
		h.Detail = plain.reply
	}
}

// whatLost is that routers behind a hop hear nothing of a segment, whatAnswered that somebody else answered it.
const (
	whatLost     = "lost"
	whatAnswered = "answered"
)

// believable reports whether segments like those of a series got lost where they were asked about: that a router is silent may
// be because it spoke often enough.
func (r *Result) believable(series string) bool {
	if r.Plain.Finding != wordOpen {
		return true
	}
	questions := map[string][]Finding{"syn": {r.ENO.Finding, r.Unknown, r.TFO.Finding}, "syn-data": {r.Data}, "ack": {r.Later}}
	return slices.ContainsFunc(questions[series], func(f Finding) bool { return f.Finding == wordDropped || f.Finding == wordUnsure })
}

// stopped finds where segments of this series are lost, or answered, that would go on if they were plain SYNs.
func (s *series) stopped(plain *series) (Change, bool) {
	last := 0
	for hop := range s.heard {
		last = max(last, hop)
	}
	for _, hop := range keys(plain.heard) {
		_, ok := s.heard[hop]
		if answered := s.distance > 0 && hop >= s.distance; hop <= last && !answered || ok || len(s.sent) == 0 {
			continue
		}
		c := Change{Segment: s.name, Change: packet.Change{What: whatLost}, By: hop, ByAddress: plain.heard[hop].by.String()}
		if s.distance > 0 {
			c.What, c.Seen = whatAnswered, s.reply
		}
		if h, ok := s.heard[last]; ok {
			c.After, c.AfterAddress = last, h.by.String()
		}
		return c, true
	}
	return Change{}, false
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
