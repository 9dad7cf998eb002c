package tcpinc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/innerspace"
)

// echoTime is how long a connection without Handshake, which may be plain, is kept from the application while an echo cookie
// may come: it follows the third segment at once, or, if that is lost, after the first retransmission timeout. RFC 6298,
// Section 2.
const echoTime = 3 * time.Second

// echoHeadLen is how many octets of a unit with a cookie are the same in all but two lengths.
const echoHeadLen = innerspace.HeaderLen + 4

// judgeEcho looks at the first octets of a stream: is this a unit that holds an echo cookie, and nothing else? need is how
// many octets in all it takes to go on, if undecided.
func judgeEcho(b []byte) (v verdict, need int) {
	unit := [echoHeadLen]byte{0, 0, 0, 0, innerspace.KindExperiment, 0}
	binary.BigEndian.PutUint16(unit[6:], uint16(innerspace.ExIDCookie))
	for i := range min(len(b), echoHeadLen) {
		if i != 2 && i != 3 && i != 5 && b[i] != unit[i] {
			return plaintext, 0
		}
	}
	if len(b) >= innerspace.HeaderLen {
		h, _, err := innerspace.ParseHeader(b)
		least := minCookieLen + echoHeadLen - innerspace.HeaderLen
		if err != nil || h.Options < least || h.Options > innerspace.MaxCookie+echoHeadLen-innerspace.HeaderLen+innerspace.Padding(innerspace.MaxCookie) {
			return plaintext, 0
		}
		if len(b) >= echoHeadLen {
			n := int(b[5])
			if n < least || n+innerspace.Padding(n) != h.Options {
				return plaintext, 0
			}
			need = innerspace.HeaderLen + h.Options
			if len(b) >= need {
				return cookie, need
			}
			return undecided, need
		}
	}
	return undecided, echoHeadLen
}

// readEcho reads the unit with the cookie from the beginning of a stream, and no octet beyond it, until ctx ends. It returns
// what it has read and whether that is one; undecided: no more has come.
func readEcho(ctx context.Context, t Transport) (b []byte, v verdict) {
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		t.SetReadDeadline(time.Unix(1, 0))
		close(over)
	})
	defer func() {
		if !stop() {
			<-over
		}
		t.SetReadDeadline(time.Time{})
	}()
	for {
		v, need := judgeEcho(b)
		if v != undecided {
			return b, v
		}
		have := len(b)
		b = slices.Grow(b, need-have)
		n, err := t.Read(b[have:need])
		b = b[:have+n]
		if n == 0 && err != nil { // it comes again, if it is not the deadline
			return b, v
		}
	}
}

// welcome finds out what a connection without Handshake is. It returns the Handshake that the cookie at its beginning has kept;
// or the connection, if it is a plain one and policy allows that; or an error, for which it is to be reset.
func (l *Listener) welcome(ctx context.Context, t Transport) (*Handshake, *Conn, error) {
	wait := ctx
	if l.cfg.Policy != Require {
		var cancel context.CancelFunc
		wait, cancel = withTimeout(ctx, l.cfg.Config.Clock, echoTime, ErrNoAnswer)
		defer cancel()
	}
	b, v := readEcho(wait, t)
	cause := context.Cause(ctx)
	switch {
	case v == cookie:
		return l.restore(t, b)
	case v == undecided && len(b) >= echoHeadLen: // a part of one
		return nil, nil, fmt.Errorf("%w: %d octets of it", ErrCookie, len(b))
	case errors.Is(cause, net.ErrClosed):
		return nil, nil, cause
	case l.cfg.Policy == Require:
		return nil, nil, &RequiredError{Remote: addrPort(t.RemoteAddr()), Reason: eno.PeerNoENO, Err: cause}
	}
	c := Plain(t, eno.PeerNoENO)
	g := guard(t, nil, l.cfg.Config.Clock)
	g.first, g.echoes = b, true
	c.stream = g
	return nil, c, nil
}

// restore goes on with a connection whose stream has begun with the unit b.
func (l *Listener) restore(t Transport, b []byte) (*Handshake, *Conn, error) {
	token, _, err := innerspace.ParseCookie(b[innerspace.HeaderLen:])
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrCookie, err)
	}
	h, err := l.cfg.Config.restore(token, ends{addrPort(t.LocalAddr()), addrPort(t.RemoteAddr())})
	if err != nil {
		return nil, nil, err
	}
	h.echoed = len(b)
	out := h.Outcome()
	switch {
	case out.Encrypt():
		if l.cfg.Restored != nil {
			l.cfg.Restored(t, h)
		}
		return h, nil, nil
	case l.cfg.Policy == Require:
		return nil, nil, &RequiredError{Remote: addrPort(t.RemoteAddr()), Reason: out.Reason, Err: out.Err}
	}
	return nil, plainPassive(t, h, out, l.cfg.Config), nil
}
