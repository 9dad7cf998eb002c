package tcpcrypt

import (
	"context"
	"fmt"
	"io"

	"innertun/tcpinc/eno"
)

// Handshake exchanges Init1 and Init2 and makes the keys ready. Each message leaves in one Write of its own. With
// Config.Ticket or Config.Prepared nothing is sent or awaited. When it fails, or ctx ends, the transport is aborted. Calling it again returns
// the same result. RFC 8548, Sections 3.3 and 3.5.
func (c *Conn) Handshake(ctx context.Context) error {
	c.handshake.Lock()
	defer c.handshake.Unlock()
	if c.handshake.started.Load() {
		return c.handshake.err
	}
	if e := c.ended.Load(); e != nil {
		return e.err
	}
	c.handshake.started.Store(true)

	stop := context.AfterFunc(ctx, func() { c.fail(context.Cause(ctx)) })
	err := c.exchange()
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.handshake.err = fmt.Errorf("tcpcrypt handshake as host %v: %w", c.cfg.Role, c.fail(err))
	}
	return c.handshake.err
}

func (c *Conn) exchange() error {
	c.in.mu.Lock()
	defer c.unlockIn()
	c.out.mu.Lock()
	defer c.unlockOut()

	var s session
	var err error
	switch {
	case c.cfg.Ticket != nil:
		s, err = c.resume()
	case c.cfg.Prepared != nil:
		s, err = c.cfg.Prepared.redeem()
	case c.cfg.Role == eno.RoleA:
		s, err = c.exchangeAsA()
	default:
		s, err = c.exchangeAsB()
	}
	defer clear(s.secret[:])
	if err != nil {
		return err
	}
	c.in.consume(0) // the buffer goes unless frames follow the message in it
	return c.start(s)
}

func (c *Conn) exchangeAsA() (session, error) {
	o, err := newOffer(c.cfg.TEP, c.cfg.Ciphers, c.cfg.Rand)
	if err != nil {
		return session{}, err
	}
	if err := c.sendInit(o.init1); err != nil {
		return session{}, err
	}
	init2, err := c.receiveInit(Init2Magic)
	if err != nil {
		return session{}, err
	}
	return o.finish(c.cfg.Transcript, init2)
}

func (c *Conn) exchangeAsB() (session, error) {
	init1, err := c.receiveInit(Init1Magic)
	if err != nil {
		return session{}, err
	}
	init2, s, err := answer(c.cfg.TEP, c.cfg.Ciphers, c.cfg.Rand, c.cfg.Transcript, init1)
	if err != nil {
		return session{}, err
	}
	return s, c.sendInit(init2)
}

// start installs the keys of a session in both directions, and caches what later sessions come from.
func (c *Conn) start(s session) error {
	mk := s.secret.master(s.nonce)
	defer clear(mk[:])
	ours, theirs := s.ways()
	var err error
	if c.out.dir, err = newDirection(s.cipher, ours, mk, c.out.counters.octets.Load()); err != nil {
		return err
	}
	if c.in.dir, err = newDirection(s.cipher, theirs, mk, c.in.counters.octets.Load()); err != nil {
		return err
	}
	c.cipher, c.sessionID = s.cipher, s.secret.sessionID(c.cfg.TEPByte, s.nonce)
	c.resets.install(&s.secret, s.nonce, ours, theirs)
	c.keepSession(&s)
	c.logEarly()
	c.logKeys(c.out.dir)
	c.ready.Store(true)
	c.startWatch()
	return nil
}

func (c *Conn) sendInit(message []byte) error {
	n, err := c.lower.Write(message)
	c.out.counters.octets.Add(uint64(n))
	if err == nil && n < len(message) {
		err = io.ErrShortWrite
	}
	return err
}

// receiveInit reads the peer's Init message, however it is cut into segments. What follows it stays in the buffer. The
// message refers to the buffer.
func (c *Conn) receiveInit(magic uint32) ([]byte, error) {
	in := &c.in
	in.buf = getBuffer(MaxInitLen)
	for {
		n, err := initLen(in.buf.b[:in.w], magic)
		if err != nil {
			return nil, err
		}
		if n > 0 && in.w >= n {
			in.r = n
			in.counters.octets.Add(uint64(n))
			return in.buf.b[:n], nil
		}
		if err := c.readLower(); err != nil {
			if err == io.EOF {
				err = fmt.Errorf("%w: %d octets of an Init message", ErrTruncated, in.w)
			}
			return nil, err
		}
	}
}
