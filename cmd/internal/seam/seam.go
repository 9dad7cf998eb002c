// Package seam joins the protocols of tcpinc to the netstacks of stack: tcpinc's Handshake takes part in the openings of
// stack's connections.
package seam

import (
	"context"
	"net/netip"

	"innertun/stack"
	"innertun/tcpinc"
)

// handshake is a tcpinc.Handshake as a stack knows it. The two Segment types, and the two Verdicts,
// number the same things alike.
type handshake struct {
	inner *tcpinc.Handshake
	flow  stack.Flow // of a passive one
}

var (
	_ stack.Handshake = handshake{}
	_ stack.Guard     = handshake{}
	_ stack.Signer    = handshake{}

	_ stack.Decliner = handshake{}
	_ stack.Gate     = handshake{}
	_ stack.Opener   = handshake{}
	_ stack.Fleeting = handshake{}
)

func (h handshake) AppendOptions(dst []byte, k stack.Segment, room int) []byte {
	return h.inner.AppendOptions(dst, tcpinc.Segment(k), room)
}

func (h handshake) AppendPayload(dst []byte, k stack.Segment, room int) []byte {
	return h.inner.AppendPayload(dst, tcpinc.Segment(k), room)
}

func (h handshake) Receive(k stack.Segment, options, payload []byte) (taken bool, err error) {
	return h.inner.Receive(tcpinc.Segment(k), options, payload)
}

func (h handshake) Incoming(seg stack.Header) stack.Verdict {
	return stack.Verdict(h.inner.Incoming(header(seg)))
}

func (h handshake) AppendResetOptions(dst []byte, seg stack.Header, room int) []byte {
	return h.inner.AppendResetOptions(dst, header(seg), room)
}

func header(seg stack.Header) tcpinc.Header {
	return tcpinc.Header{Seq: seg.Seq, Offset: seg.Offset, Flags: seg.Flags, Options: seg.Options}
}

func (h handshake) EarlyOpen() bool { return h.inner.EarlyOpen() }

func (h handshake) Fleeting(seq uint32) bool {
	return h.inner.Fleeting(h.flow.Local, h.flow.Remote, seq)
}

func (h handshake) Declined() error { return h.inner.Declined() }

func (h handshake) Gate() <-chan struct{} { return h.inner.Gate() }

// Connect returns what a tcpinc.Dialer opens its connections with: s.
func Connect(s *stack.Stack) tcpinc.ConnectFunc {
	return func(ctx context.Context, local, remote netip.AddrPort, h *tcpinc.Handshake) (tcpinc.Transport, error) {
		flow := stack.Flow{Local: local, Remote: remote}
		var sh stack.Handshake // nil, not a handshake of nothing
		if h != nil {
			sh = handshake{inner: h}
		}
		c, err := s.Dial(ctx, flow, sh)
		if err != nil {
			return nil, err
		}
		return c, nil
	}
}

// Listen takes connections at an address of s, which it fills into cfg as what to accept from. An unspecified address
// means all of its family. Where there is Inner Space and no Config.Cookies, it makes some.
func Listen(s *stack.Stack, at netip.AddrPort, cfg tcpinc.ListenConfig) (*tcpinc.Listener, error) {
	if cfg.Config.InnerSpace != tcpinc.InnerSpaceOff && cfg.Config.Cookies == nil {
		cfg.Config.Cookies = tcpinc.NewCookies(cfg.Config.Clock, cfg.Config.Rand)
	}
	newHandshake, err := passive(cfg)
	if err != nil {
		return nil, err
	}
	l, err := s.Listen(at, newHandshake)
	if err != nil {
		return nil, err
	}
	cfg.Addr, cfg.Close = l.Addr(), l.Close
	cfg.Accept = func() (tcpinc.Transport, *tcpinc.Handshake, error) {
		c, err := l.AcceptConn()
		if err != nil {
			return nil, nil, err
		}
		h, _ := c.Handshake().(handshake)
		return c, h.inner, nil
	}
	cfg.Restored = func(t tcpinc.Transport, h *tcpinc.Handshake) {
		if c, ok := t.(*stack.Conn); ok {
			c.Guard(handshake{inner: h}, h.ISN())
		}
	}
	upper, err := tcpinc.Listen(cfg)
	if err != nil {
		l.Close()
		return nil, err
	}
	return upper, nil
}

// passive returns what makes the Handshake of each incoming connection; nil under a policy that does without.
func passive(cfg tcpinc.ListenConfig) (func(stack.Flow) stack.Handshake, error) {
	if h, err := cfg.NewHandshake(); h == nil {
		return nil, err // and no error from here on: it depends on cfg alone
	}
	return func(f stack.Flow) stack.Handshake {
		h, err := cfg.NewHandshake()
		if err != nil {
			return nil
		}
		h.SetPeer(f.Remote.Addr())
		return handshake{h, f}
	}, nil
}
