package probe

import (
	"context"
	"errors"
	"io"
	"time"

	"innertun/cmd/internal/probe/packet"
	"innertun/tcpinc"
	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
)

// Words of what becomes of ENO behind the SYN. RFC 8547, Section 4.6.
const (
	wordKept      = "kept"
	wordNotKept   = "not-kept"
	wordAccepted  = "accepted"
	wordCompleted = "completed"
	wordFailed    = "failed"
	// wordUnconfirmed: the server's application said nothing, so that no frame came.
	wordUnconfirmed = "unconfirmed"
)

// connection opens connections, to see what becomes of options behind the SYN, and of tcpcrypt.
func (q *inquiry) connection(ctx context.Context) error {
	if q.r.ENO.Finding.Finding != wordAnswered {
		q.r.Crypt.Detail = "no ENO came back"
		return q.repeat(ctx, &q.r.Later, nil, func() (attempt, error) {
			later, detail, err := q.goesOn(ctx)
			return attempt{later: later, laterDetail: detail}, err
		})
	}
	return q.repeat(ctx, &q.r.Later, &q.r.Crypt.Finding, func() (attempt, error) { return q.encrypt(ctx) })
}

// attempt is what one connection has shown.
type attempt struct {
	later, laterDetail string
	crypt, cryptDetail string
}

// repeat makes connections until one succeeds or two agree.
func (q *inquiry) repeat(ctx context.Context, later, crypt *Finding, try func() (attempt, error)) error {
	var laters, crypts tally
	for range q.p.cfg.Tries {
		a, err := try()
		if err != nil {
			return err
		}
		if a.crypt == wordCompleted { // once is proof; earlier failures were chance
			laters.words, crypts.words = nil, nil
		}
		laters.add(a.later, a.laterDetail)
		crypts.add(a.crypt, a.cryptDetail)
		if _, n := laters.most(); n >= agreeing || a.crypt == wordCompleted {
			break
		}
		if laters.silent >= agreeing {
			break
		}
	}
	*later = laters.finding(q.loss, wordUnsure)
	if crypt != nil {
		*crypt = crypts.finding(q.loss, wordUnsure)
	}
	return ctx.Err()
}

// goesOn has a server without ENO see the option in the third segment and in the FIN: is it acknowledged all the same?
func (q *inquiry) goesOn(ctx context.Context) (word, detail string, err error) {
	ended, err := q.ends(ctx, eno.AppendNonSYN(nil))
	switch {
	case errors.Is(err, errReset):
		return wordReset, "", ctx.Err()
	case err != nil && !errors.Is(err, errSilent):
		return "", "", err
	case ended:
		return wordAccepted, "", nil
	}
	return q.withoutOption(ctx)
}

// withoutOption is what it means that segments with the option go unanswered: does one without fare better?
func (q *inquiry) withoutOption(ctx context.Context) (word, detail string, err error) {
	if ended, _ := q.ends(ctx, nil); ended {
		return wordDropped, "segments without the option are answered", ctx.Err()
	}
	return "", "", ctx.Err()
}

// ends opens a connection and ends it; option is on all segments behind the SYN. It reports whether the FIN was acknowledged.
func (q *inquiry) ends(ctx context.Context, option []byte) (bool, error) {
	c, err := q.p.open(ctx, q.to, syn{bare: true}, func(packet.Segment) []byte { return option })
	if err != nil {
		return false, err
	}
	defer c.finish()
	_ = c.CloseWrite()
	ended := c.settle(func() bool { return c.acked == c.sent })
	if !ended {
		_ = c.Abort() // as much patience again would be no use
	}
	if c.reset && !ended {
		return false, errReset
	}
	return ended, nil
}

// encrypt opens a connection with ENO and exchanges keys of tcpcrypt.
func (q *inquiry) encrypt(ctx context.Context) (a attempt, err error) {
	n, err := offer(false, tcpcrypt.TEPs()...)
	if err != nil {
		return a, err
	}
	begin := q.p.cfg.Clock.Now()
	c, err := q.p.open(ctx, q.to, syn{bare: true, options: n.AppendOptions(nil, eno.SYN, maxOption)}, func(synack packet.Segment) []byte {
		n.Receive(eno.SYNACK, synack.Options)
		return n.AppendOptions(nil, eno.NonSYN, maxOption)
	})
	if err != nil {
		if errors.Is(err, errSilent) || errors.Is(err, errReset) {
			err = ctx.Err()
		}
		return a, err
	}
	defer c.finish()
	q.heard(c.rtt)
	out := n.Outcome()
	if !out.Encrypt() {
		return attempt{crypt: wordFailed, cryptDetail: "this time the answer had no ENO: " + out.Reason.String()}, nil
	}
	crypt, err := tcpcrypt.New(c, tcpcrypt.Config{Role: eno.RoleA, TEP: out.TEP, TEPByte: out.TEPByte, Transcript: out.Transcript,
		Clock: q.p.cfg.Clock, Rand: q.p.cfg.Rand})
	if err != nil {
		return a, err
	}
	first := c.acked
	if err = crypt.Handshake(ctx); err == nil {
		defer crypt.Close()
		cipher, took := crypt.State().Cipher.String(), milliseconds(q.p.cfg.Clock.Now().Sub(begin))
		a.later = wordKept
		if a.crypt, a.cryptDetail = confirm(crypt); a.crypt != wordFailed {
			q.r.Crypt.TEP, q.r.Crypt.Cipher, q.r.Crypt.Handshake = tcpinc.TEPName(out.TEP), cipher, took
		}
		return a, ctx.Err()
	}
	if ctx.Err() != nil {
		return a, ctx.Err()
	}
	a = attempt{crypt: wordFailed, cryptDetail: err.Error()}
	switch {
	case errors.Is(err, errReset):
		a.later, a.laterDetail = wordNotKept, "reset after the third segment"
	case errors.Is(err, tcpcrypt.ErrBadMagic):
		a.later, a.laterDetail = wordNotKept, "the server went on in plain TCP"
	case errors.Is(err, io.EOF), errors.Is(err, tcpcrypt.ErrTruncated):
		a.later, a.laterDetail = wordNotKept, "the server ended the connection after the third segment"
	case errors.Is(err, errSilent) && c.acked != first:
		a.later, a.laterDetail = wordNotKept, "the server took Init1 and said nothing"
	case errors.Is(err, errSilent):
		a.later, a.laterDetail, err = q.withoutOption(ctx)
		return a, err
	}
	return a, nil
}

// confirm ends the encrypted stream and waits for the other end to do so too: the key exchange alone does not show that both
// have the same keys, as what was changed on the way of ENO is found out by the first frame. RFC 8548, Section 3.3.
func confirm(crypt *tcpcrypt.Conn) (word, detail string) {
	err := crypt.CloseWrite()
	var b [1]byte
	for err == nil {
		var n int
		if n, err = crypt.Read(b[:]); n > 0 {
			return wordCompleted, ""
		}
	}
	switch {
	case errors.Is(err, io.EOF):
		return wordCompleted, ""
	case errors.Is(err, errSilent):
		return wordUnconfirmed, "keys were exchanged, and no frame came to show that they are the same"
	}
	return wordFailed, "keys were exchanged, but are not the same: " + err.Error()
}

// least returns the lesser of two durations in milliseconds, of which 0 is none.
func least(had float64, d time.Duration) float64 {
	if ms := milliseconds(d); had == 0 || ms < had {
		return ms
	}
	return had
}
