package probe

import (
	"context"
	"encoding/binary"
	"net/netip"
	"time"

	"innertun/cmd/internal/probe/packet"
)

// Reply is what came back for one SYN.
type Reply uint8

const (
	Silence Reply = iota
	SYNACK
	Reset
	Notice // an ICMP error
)

// answer is what one SYN came to.
type answer struct {
	reply   Reply
	segment packet.Segment // of SYNACK and Reset
	notice  *packet.Notice // of Notice
	taken   int            // octets of SYN data that a SYNACK acknowledges
	rtt     time.Duration
}

// syn is a SYN to be sent.
type syn struct {
	options []byte // behind those that every SYN has
	bare    bool   // without timestamps, window scale and SACK
	data    []byte
}

const (
	synWindow = 64240
	// mssV4 and mssV6 are for a link of 1500 octets. RFC 6691.
	mssV4, mssV6 = 1460, 1440
)

// fullOptions are the options of a SYN: those of an ordinary host, then the ones that are asked about.
func (s syn) fullOptions(to netip.Addr, stamp uint32) []byte {
	mss := uint16(mssV4)
	if to.Is6() {
		mss = mssV6
	}
	o := binary.BigEndian.AppendUint16([]byte{2, 4}, mss)
	if !s.bare {
		o = append(o, 4, 2)                                                            // SACK permitted
		o = append(binary.BigEndian.AppendUint32(append(o, 8, 10), stamp), 0, 0, 0, 0) // timestamps
		o = append(o, 3, 3, 7)                                                         // window scale
	}
	return append(o, s.options...)
}

// once sends a SYN and waits for what comes back. However it ends, the other end is told to forget it.
func (p *Prober) once(ctx context.Context, to netip.AddrPort, s syn) (answer, error) {
	if err := p.turn(ctx); err != nil {
		return answer{}, err
	}
	at, err := p.listen(to)
	if err != nil {
		return answer{}, err
	}
	defer at.close()
	isn := p.random()
	out := packet.Segment{Flags: packet.SYN, Seq: isn, Window: synWindow, Options: s.fullOptions(to.Addr(), isn), Payload: s.data}
	sent := p.cfg.Clock.Now()
	at.send(out)
	for until := sent.Add(p.cfg.Timeout); ; {
		e, ok := at.wait(ctx, until)
		if !ok {
			at.forget(isn, len(s.data))
			return answer{}, ctx.Err()
		}
		if a, ok := judgeReply(out, e); ok {
			a.rtt = e.at.Sub(sent)
			if a.reply == SYNACK {
				at.send(packet.Segment{Flags: packet.RST, Seq: a.segment.Ack})
			} else if a.reply == Notice {
				at.forget(isn, len(s.data))
			}
			return a, nil
		}
		if e.notice == nil {
			p.refuse(e.segment)
		}
	}
}

// forget resets a connection that may be there or not, at each of the places where the other end may be.
func (a *port) forget(isn uint32, data int) {
	a.send(packet.Segment{Flags: packet.RST, Seq: isn + 1})
	if data > 0 {
		a.send(packet.Segment{Flags: packet.RST, Seq: isn + 1 + uint32(data)})
	}
}

// judgeReply says what an event is to a SYN; false: nothing that answers it. RFC 9293, Section 3.10.7.3.
func judgeReply(sent packet.Segment, e event) (answer, bool) {
	if n := e.notice; n != nil {
		return answer{reply: Notice, notice: n}, n.Quote.Seq == sent.Seq
	}
	s := e.segment
	taken := s.Ack - sent.Seq - 1
	if !s.Has(packet.ACK) || taken > uint32(len(sent.Payload)) {
		return answer{}, false
	}
	switch {
	case s.Has(packet.RST):
		return answer{reply: Reset, segment: s}, true
	case s.Has(packet.SYN):
		return answer{reply: SYNACK, segment: s, taken: int(taken)}, true
	}
	return answer{}, false
}

// Finding is the answer to one question.
type Finding struct {
	Finding string `json:"finding"` // one word; "" if the question was not asked, see Detail
	Detail  string `json:"detail"`
	// Confidence is 0 to 1: of silence, that it is no chance; of an answer, the share of answers that say so.
	Confidence float64 `json:"confidence"`
	Sent       int     `json:"sent"`     // how often it was asked
	Answered   int     `json:"answered"` // how often something came back
}

// Words that are the same for every question that is a SYN.
const (
	wordReset   = "reset"   // RST came back
	wordDropped = "dropped" // nothing came back, where plain SYNs are answered
	wordICMP    = "icmp"    // an ICMP error came back
	wordUnsure  = "unsure"  // too few answers to tell
)

// sure is when silence counts as a finding, and agreeing is how many answers of one kind do.
const (
	sure     = 0.999
	agreeing = 2
)

// control counts plain SYNs, which tell how much is lost by chance.
type control struct{ sent, lost int }

// all is the probability that n SYNs in a row are lost by chance, by what is known of plain ones: the predictive probability
// where every rate of loss was equally likely before (Laplace's rule of succession, n times).
func (c control) all(n int) float64 {
	p := 1.0
	for i := range n {
		p *= float64(c.lost+1+i) / float64(c.sent+2+i)
	}
	return p
}

// tally counts the answers to one question.
type tally struct {
	sent, silent int
	words        map[string]int
	detail       map[string]string
}

func (t *tally) add(word, detail string) {
	t.sent++
	if word == "" {
		t.silent++
		return
	}
	if t.words == nil {
		t.words, t.detail = make(map[string]int), make(map[string]string)
	}
	t.words[word]++
	t.detail[word] = detail
}

// most returns the word said most often.
func (t *tally) most() (word string, n int) {
	for w, k := range t.words {
		if k > n || k == n && w < word {
			word, n = w, k
		}
	}
	return word, n
}

// settled reports whether another try would not change the finding.
func (t *tally) settled(c control) bool {
	_, n := t.most()
	return n >= agreeing || n == 0 && t.silence(c) >= sure
}

// silence is how unlikely it is that so many were lost by chance.
func (t *tally) silence(c control) float64 { return 1 - c.all(t.silent) }

// finding sums up; silent is the word for silence.
func (t *tally) finding(c control, silent string) Finding {
	f := Finding{Sent: t.sent, Answered: t.sent - t.silent}
	word, n := t.most()
	counted := 0
	for _, k := range t.words {
		counted += k
	}
	switch {
	case n > 0:
		f.Finding, f.Detail, f.Confidence = word, t.detail[word], float64(n)/float64(counted)
	case t.sent > 0:
		f.Finding, f.Confidence = silent, t.silence(c)
		if f.Confidence < sure {
			f.Finding, f.Detail = wordUnsure, "nothing came back, but plain SYNs are lost too"
		}
	}
	return f
}
