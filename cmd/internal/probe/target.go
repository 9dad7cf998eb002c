package probe

import (
	"bytes"
	"context"
	"net/netip"
	"time"

	"innertun/tcpinc"
	"innertun/tcpinc/eno"
	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt"
)

// inquiry is the probing of one address.
type inquiry struct {
	p    *Prober
	to   netip.AddrPort
	r    *Result
	loss control
	rtt  time.Duration // the least; 0: none yet
}

// Probe asks every question about one address. Questions that make no sense after the answers to others are left out. When
// ctx ends it returns what it has, with the error in the result.
func (p *Prober) Probe(ctx context.Context, target string, to netip.AddrPort) *Result {
	q := &inquiry{p: p, to: to, r: newResult(target, to)}
	begin := p.cfg.Clock.Now()
	err := q.run(ctx)
	if err != nil {
		q.r.Error = err.Error()
	}
	q.r.RTT = milliseconds(q.rtt)
	if q.loss.sent > 0 && q.loss.lost < q.loss.sent {
		q.r.Loss = float64(q.loss.lost) / float64(q.loss.sent)
	}
	q.r.DurationMS = milliseconds(p.cfg.Clock.Now().Sub(begin))
	q.r.tidy()
	return q.r
}

func (q *inquiry) run(ctx context.Context) error {
	from, err := q.p.cfg.Network.Source(q.to.Addr())
	if err != nil {
		q.r.notAsked("there is no way to it")
		return err
	}
	q.r.Local = from.String()
	if err := q.plain(ctx); err != nil {
		return err
	}
	if q.r.Plain.Finding == wordOpen {
		for _, step := range []func(context.Context) error{q.eno, q.unknown, q.data, q.fastOpen, q.connection, q.innerSpace} {
			if err := step(ctx); err != nil {
				return err
			}
		}
	}
	q.r.notAsked("the port is not open")
	return q.hops(ctx)
}

// Words of findings.
const (
	wordOpen        = "open"
	wordClosed      = "closed"
	wordSilent      = "silent"
	wordAnswered    = "answered"
	wordNoCommonTEP = "no-common-tep"
	wordVacuous     = "vacuous"
	wordAbsent      = "absent"
	wordEchoed      = "echoed"
	wordMalformed   = "malformed"
	wordIgnored     = "ignored"
	wordTaken       = "taken"
	wordCookie      = "cookie"
	wordNone        = "none"
	wordUpgraded    = "upgraded"
	wordDataTaken   = "data-taken"
)

// ask sends a SYN again and again until the answers are clear; judge says what a SYN-ACK means. What is silent is followed by
// a plain SYN: was it chance?
func (q *inquiry) ask(ctx context.Context, make func() (syn, func(answer) (word, detail string), error)) (Finding, error) {
	var t tally
	for range q.p.cfg.Tries {
		s, judge, err := make()
		if err != nil {
			return Finding{}, err
		}
		a, err := q.p.once(ctx, q.to, s)
		if err != nil {
			return t.finding(q.loss, wordDropped), err
		}
		t.add(q.word(a, judge))
		if a.reply == Silence {
			if err := q.control(ctx); err != nil {
				return t.finding(q.loss, wordDropped), err
			}
		}
		if t.settled(q.loss) {
			break
		}
	}
	return t.finding(q.loss, wordDropped), nil
}

// word says what an answer is.
func (q *inquiry) word(a answer, judge func(answer) (word, detail string)) (word, detail string) {
	switch a.reply {
	case SYNACK:
		q.heard(a.rtt)
		return judge(a)
	case Reset:
		q.heard(a.rtt)
		return wordReset, ""
	case Notice:
		return wordICMP, a.notice.Cause.String() + " from " + a.notice.By.String()
	}
	return "", ""
}

func (q *inquiry) heard(rtt time.Duration) {
	if q.rtt == 0 || rtt < q.rtt {
		q.rtt = rtt
	}
}

// control sends a plain SYN to know what is lost by chance.
func (q *inquiry) control(ctx context.Context) error {
	a, err := q.p.once(ctx, q.to, syn{})
	if err != nil {
		return err
	}
	q.loss.sent++
	if a.reply == Silence {
		q.loss.lost++
	} else {
		q.heard(a.rtt)
	}
	return nil
}

// plain asks whether the port is open at all. Every try is a control for later questions.
func (q *inquiry) plain(ctx context.Context) error {
	var t tally
	sum := func() {
		q.r.Plain = t.finding(control{}, wordSilent)
		if q.r.Plain.Answered == 0 && t.sent > 0 {
			q.r.Plain.Finding, q.r.Plain.Detail, q.r.Plain.Confidence = wordSilent, "nothing came back", t.silence(control{})
		}
		if q.r.Plain.Finding == wordReset {
			q.r.Plain.Finding = wordClosed
		}
	}
	for range q.p.cfg.Tries {
		a, err := q.p.once(ctx, q.to, syn{})
		if err != nil {
			sum()
			return err
		}
		q.loss.sent++
		if a.reply == Silence {
			q.loss.lost++
		}
		t.add(q.word(a, func(answer) (string, string) { return wordOpen, "" }))
		if _, n := t.most(); n >= agreeing {
			break
		}
	}
	sum()
	return nil
}

// offer is a negotiation of ENO as an active opener.
func offer(mark bool, teps ...eno.TEP) (*eno.Negotiation, error) {
	var cfg eno.Config
	for _, tep := range teps {
		cfg.Offers = append(cfg.Offers, eno.Offer{TEP: tep})
	}
	if mark {
		m := innerspace.Mark()
		cfg.Mark = &m
	}
	return eno.New(cfg)
}

const maxOption = 40

// eno offers everything, then each TEP alone.
func (q *inquiry) eno(ctx context.Context) (err error) {
	q.r.ENO.Finding, err = q.askENO(ctx, true, tcpcrypt.TEPs()...)
	if err != nil || q.r.ENO.Finding.Finding != wordAnswered {
		return err
	}
	for _, tep := range tcpcrypt.TEPs() {
		picked := q.r.ENO.TEP
		f, err := q.askENO(ctx, false, tep)
		q.r.ENO.TEP = picked
		if f.Finding == wordAnswered {
			q.r.ENO.TEPs = append(q.r.ENO.TEPs, tcpinc.TEPName(tep))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (q *inquiry) askENO(ctx context.Context, mark bool, teps ...eno.TEP) (Finding, error) {
	return q.ask(ctx, func() (syn, func(answer) (string, string), error) {
		n, err := offer(mark, teps...)
		if err != nil {
			return syn{}, nil, err
		}
		option := n.AppendOptions(nil, eno.SYN, maxOption)
		return syn{options: option}, func(a answer) (string, string) {
			word, detail := judgeENO(n, option, a.segment.Options)
			if out := n.Outcome(); word == wordAnswered {
				q.r.ENO.TEP = tcpinc.TEPName(out.TEP)
				q.r.Inner.Mark = q.r.Inner.Mark || out.Marked
			}
			return word, detail
		}, nil
	})
}

// judgeENO says what the options of a SYN-ACK are to an ENO option.
func judgeENO(n *eno.Negotiation, sent, options []byte) (word, detail string) {
	got, err := eno.FindSYN(options)
	switch {
	case err != nil:
		return wordMalformed, err.Error()
	case got == nil:
		return wordAbsent, ""
	case bytes.Equal(got, sent):
		return wordEchoed, ""
	}
	n.Receive(eno.SYNACK, options)
	out := n.Outcome()
	switch {
	case out.State != eno.Disabled:
		return wordAnswered, ""
	case out.Reason == eno.Malformed && out.Err != nil:
		return wordMalformed, out.Err.Error()
	case out.PeerOption.Vacuous():
		return wordVacuous, ""
	}
	return wordNoCommonTEP, out.Reason.String()
}

// unknownOption belongs to an experiment of this project: an option of kind 253 with an ExID. RFC 6994.
var unknownOption = []byte{innerspace.KindExperiment, 8, byte(innerspace.ExIDCookie >> 8), byte(innerspace.ExIDCookie & 0xff), 0x70, 0x72, 0x6f, 0x62}

// unknown sends an option that nobody knows.
func (q *inquiry) unknown(ctx context.Context) (err error) {
	q.r.Unknown, err = q.ask(ctx, func() (syn, func(answer) (string, string), error) {
		return syn{options: unknownOption}, func(a answer) (string, string) {
			if optionOf(a.segment.Options, unknownOption[0]) != nil {
				return wordEchoed, ""
			}
			return wordIgnored, ""
		}, nil
	})
	return err
}

// synData is what a service gets that takes data of a SYN from anybody: empty lines, which most protocols of text ignore.
const synData = "\r\n\r\n\r\n\r\n"

// data sends data in a SYN.
func (q *inquiry) data(ctx context.Context) (err error) {
	q.r.Data, err = q.ask(ctx, func() (syn, func(answer) (string, string), error) {
		return syn{data: []byte(synData)}, func(a answer) (string, string) {
			if a.taken > 0 {
				return wordTaken, ""
			}
			return wordIgnored, ""
		}, nil
	})
	return err
}

// optionTFO is the kind of the option of TCP Fast Open. RFC 7413, Section 4.1.1.
const optionTFO = 34

// fastOpen asks for a cookie.
func (q *inquiry) fastOpen(ctx context.Context) (err error) {
	q.r.TFO.Finding, err = q.ask(ctx, func() (syn, func(answer) (string, string), error) {
		return syn{options: []byte{optionTFO, 2}}, func(a answer) (string, string) {
			switch o := optionOf(a.segment.Options, optionTFO); {
			case o == nil:
				return wordNone, ""
			case len(o) == 2:
				return wordEchoed, ""
			default:
				q.r.TFO.Cookie = len(o) - 2
				return wordCookie, ""
			}
		}, nil
	})
	return err
}

// optionOf returns an option, nil if there is none of this kind.
func optionOf(options []byte, kind byte) []byte {
	it := eno.NewIterator(options)
	for o, ok := it.Next(); ok; o, ok = it.Next() {
		if o[0] == kind {
			return o
		}
	}
	return nil
}

// innerSpace sends an upgraded SYN. A server that takes data of a SYN from anybody, and has not said that it speaks Inner
// Space, would hand it to its application: it is not asked.
func (q *inquiry) innerSpace(ctx context.Context) (err error) {
	if !q.r.Inner.Mark && q.r.Data.Finding == wordTaken {
		q.r.Inner.Detail = "the server takes SYN data from anybody: its application would get it"
		return nil
	}
	q.r.Inner.Finding, err = q.ask(ctx, func() (syn, func(answer) (string, string), error) {
		data, err := q.upgradedSYN()
		return syn{data: data}, func(a answer) (string, string) {
			if a.taken == 0 {
				return wordIgnored, ""
			}
			_, opening, err := innerspace.ParseSYN(a.segment.Payload)
			switch {
			case err != nil:
				return wordMalformed, err.Error()
			case opening == innerspace.Upgraded:
				return wordUpgraded, ""
			}
			return wordDataTaken, ""
		}, err
	})
	return err
}

// upgradedSYN makes the data of one: ENO and Init1. docs/inner-space.md.
func (q *inquiry) upgradedSYN() ([]byte, error) {
	teps := tcpcrypt.TEPs()
	n, err := offer(false, teps...)
	if err != nil {
		return nil, err
	}
	x, err := tcpcrypt.NewExchange(teps[0], tcpcrypt.Ciphers(), q.p.cfg.Rand)
	if err != nil {
		return nil, err
	}
	suffix, err := innerspace.AppendInit(n.AppendOptions(nil, eno.SYN, maxOption), x.Init1())
	if err != nil {
		return nil, err
	}
	return innerspace.AppendSYN(nil, innerspace.SYN{Suffix: suffix})
}
