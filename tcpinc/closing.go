package tcpinc

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt"
)

// A host that aborts a connection with Inner Space says why, in an option behind all that it has sent, and resets the
// connection once the peer has done so on reading that, or after a time. A peer that has read it needs no RST: the
// connection is over.
//
//	A                                     B
//	data, close: refused  ------>   delivers the data, then the reason
//	                      <------   RST
//	RST                   ------>   (to nobody)

// farewellTime bounds how long an abort waits for its reason to be read.
const farewellTime = time.Second

// CloseError is the end of a connection that the peer has aborted, with its reason: errors.Is with syscall.ECONNRESET holds.
// On an encrypted connection nobody else can have said it.
type CloseError struct{ Reason innerspace.CloseReason }

func (e *CloseError) Error() string { return "the peer has reset the connection: " + e.Reason.String() }
func (e *CloseError) Unwrap() error { return syscall.ECONNRESET }

// departer is the optional part of a Transport that waits until the peer has ended the connection, or it was ended here.
type departer interface {
	WaitGone(limit time.Duration) bool
}

// AbortWith resets the connection, and tells the peer why if it has Inner Space, as far as that can be done within a
// second: the peer's calls then fail with a *CloseError. It may be called while data flows, which it stops; Abort, which does
// not wait, cuts it short.
func (c *Conn) AbortWith(reason innerspace.CloseReason) error {
	if c.inner != nil {
		c.leave(reason)
	}
	return c.Abort()
}

// leave tells the peer why the connection is about to be reset, and gives it time to read that.
func (c *Conn) leave(reason innerspace.CloseReason) {
	c.resets.standDown() // the peer's RST is the answer
	start := c.clock.Now()
	if c.inner.Leave(innerspace.AppendClose(nil, reason), farewellTime) {
		if d, ok := c.lower.(departer); ok {
			d.WaitGone(farewellTime - c.clock.Now().Sub(start))
		}
	}
}

// failing tells the peer of an error that this host has found in what it sent.
func (c *Conn) failing(err error) {
	var said *CloseError
	if !errors.As(err, &said) { // else it is over, and waits for nothing but a RST
		c.leave(ReasonFor(err))
	}
}

// AbortFor is AbortWith the reason that an error is: ReasonFor.
func (c *Conn) AbortFor(why error) error { return c.AbortWith(ReasonFor(why)) }

// ReasonFor says in a word why a connection is aborted because of an error. It has no text: what an error says is for those
// at home. A reason of another peer is passed on.
func ReasonFor(err error) innerspace.CloseReason {
	var from *CloseError
	if errors.As(err, &from) {
		return innerspace.CloseReason{Code: from.Reason.Code}
	}
	for _, known := range []struct {
		code innerspace.CloseCode
		is   []error
	}{
		{innerspace.CloseIdentity, []error{ErrPeerIdentity}},
		{innerspace.ClosePolicy, []error{ErrEncryptionRequired, ErrInnerSpaceMissing}},
		{innerspace.CloseResources, []error{ErrCrowded, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS}},
		{innerspace.CloseProtocol, []error{ErrHello, ErrEarlyMismatch, ErrInitInPlain, tcpcrypt.ErrIntegrity, tcpcrypt.ErrMalformedFrame,
			tcpcrypt.ErrTruncated, tcpcrypt.ErrRekeyRequest, innerspace.ErrUnit, innerspace.ErrOptions, innerspace.ErrBody,
			innerspace.ErrSequence, innerspace.ErrMessageTooLong, innerspace.ErrTruncated}},
		{innerspace.CloseRefused, []error{syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH}},
		{innerspace.CloseTimeout, []error{tcpcrypt.ErrPeerSilent, ErrNoAnswer, syscall.ETIMEDOUT, os.ErrDeadlineExceeded, context.DeadlineExceeded}},
		{innerspace.CloseShutdown, []error{context.Canceled}},
		{innerspace.CloseAborted, []error{syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED, net.ErrClosed, io.ErrClosedPipe}},
	} {
		for _, e := range known.is {
			if errors.Is(err, e) {
				return innerspace.CloseReason{Code: known.code}
			}
		}
	}
	return innerspace.CloseReason{}
}

// closed takes the peer's reason: it will send nothing more, and is about to be gone.
func (c *Conn) closed(o innerspace.Option) {
	reason, _, err := innerspace.ParseClose(o)
	if err != nil {
		c.inner.Fail(err)
		return
	}
	c.resets.standDown()
	c.inner.Fail(&CloseError{reason})
}
