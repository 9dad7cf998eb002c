package tcpinc

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"sync/atomic"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/hello"
	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt"
)

// Over Inner Space each host says who it is in an option, before its first data. What it says, and when a host has something
// to say, is as with the hello in the stream, which there is none of then. Where keys come with the SYNs, host B's is
// there with them, for host A alone to read:
//
//	A                                                      B
//	SYN-U: ENO, Init1                         ------>
//	                                          <------    SYN-ACK-U: ENO, Init2, proof of B, sealed
//	A knows B
//	proof of A, data                          ------>    B knows A
//
// so host A has not to wait for it. Otherwise it is the first thing in B's stream, behind Init2.
//
// A peer without a proof before its first data has none; one that has it later breaks the protocol.

// proof is what the peer of one connection says of itself in options. Whoever reads finds it.
type proof struct {
	conn  *Conn
	judge func(*hello.Hello) (*peerHello, error) // nil: none is expected

	parts  innerspace.Assembler
	said   atomic.Pointer[peerHello] // nil: nothing yet
	waited bool                      // somebody waits for it, who deals with err
	err    error
}

// prove makes the stream of conn one of units, and exchanges proofs on it. When it fails the connection was aborted.
func (g *greeting) prove(ctx context.Context, conn *Conn, h *Handshake) error {
	p := &proof{conn: conn}
	conn.proof = p
	if g.both && !g.resumed {
		p.judge = g.judge
	}
	conn.useInnerSpace(h)
	stop := context.AfterFunc(ctx, func() { conn.Abort() })
	var err error
	switch {
	case g.resumed:
		err = g.inheritTo(p)
	case g.both:
		err = g.exchangeProofs(ctx, p, h)
	case g.cfg.auth != nil:
		if g.own == hello.RoleB && !h.upgraded() { // see unprovenWait
			ctx, cancel := withTimeout(ctx, g.cfg.Clock, unprovenWait, ErrNoAnswer)
			defer cancel()
			stop := context.AfterFunc(ctx, func() { conn.Abort() })
			defer stop()
			conn.inner.ReadOptions(nil)
		}
		err = g.refuse(nil, ErrNoIdentity)
	}
	if !stop() && err == nil { // it was over before the last word was spoken, and the connection is aborted
		err = fmt.Errorf("%w: %w", ErrHello, context.Cause(ctx))
	}
	if err != nil {
		conn.AbortFor(err)
	}
	return err
}

// inheritTo takes what was said when the session's keys were exchanged.
func (g *greeting) inheritTo(p *proof) error {
	said, _ := g.note.read()
	if g.cfg.auth == nil && said == nil {
		return nil
	}
	said, err := g.accept(said)
	if err != nil {
		g.crypt.FlushSession()
		return err
	}
	p.said.Store(said)
	return nil
}

func (g *greeting) exchangeProofs(ctx context.Context, p *proof, h *Handshake) error {
	theirs, told := h.proofs()
	if g.cfg.greets() && !told {
		if err := g.sendProof(p.conn); err != nil {
			return g.unsent(ctx, err)
		}
	}
	if theirs != nil {
		if err := p.settle(theirs); err != nil {
			return err
		}
	}
	if g.cfg.auth == nil || p.said.Load() != nil {
		return nil
	}
	p.waited = true
	err := p.conn.inner.ReadOptions(func() bool { return p.settled() || p.err != nil })
	p.waited = false
	switch {
	case p.err != nil:
		return p.err
	case err != nil:
		return g.refuse(nil, fmt.Errorf("%w: %w", ErrNoIdentity, causeOr(ctx, err)))
	case !p.settled(): // data comes first
		return g.refuse(nil, ErrNoIdentity)
	}
	return nil
}

func (g *greeting) sendProof(conn *Conn) error {
	message, err := g.cfg.hello(g.own, g.id)
	if err != nil {
		return err
	}
	options, err := innerspace.AppendProof(nil, message)
	if err != nil {
		return err
	}
	it := innerspace.NewIterator(options)
	for o, ok := it.Next(); ok; o, ok = it.Next() {
		if err := conn.inner.SendOption(o); err != nil {
			return err
		}
	}
	return nil
}

// take takes an option with a proof, or a part of one, and reports whether there is to be one.
func (p *proof) take(r innerspace.Received) bool {
	if p == nil || p.judge == nil {
		return false
	}
	_, body, _ := r.Option.ExID()
	message, whole, err := p.parts.Add(body)
	switch {
	case err != nil:
		err = fmt.Errorf("%w: %w", ErrHello, err)
	case r.Position > 0 || p.settled():
		err = fmt.Errorf("%w: a proof where none belongs", ErrHello)
	case whole:
		err = p.settle(message)
	}
	switch {
	case err != nil && p.waited:
		p.err = err
	case err != nil:
		p.conn.inner.Fail(err)
	}
	return true
}

// settle judges what the peer says.
func (p *proof) settle(message []byte) error {
	h, n, err := hello.Parse(message)
	if err == nil && n != len(message) {
		err = hello.ErrMalformed
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrHello, err)
	}
	said, err := p.judge(&h)
	if err == nil {
		p.said.Store(said)
	}
	return err
}

func (p *proof) settled() bool { return p.said.Load() != nil }

// await gives the peer's proof, before the connection is closed, time to come. One that nobody has read would make TCP reset
// the connection, and what was written be lost.
func (p *proof) await() {
	if p == nil || p.judge == nil || p.settled() {
		return
	}
	p.conn.inner.Await(p.settled, farewell)
}

// proofs returns what the SYN-ACK has told of the peer, and whether the own one has told of this host.
func (h *Handshake) proofs() (theirs []byte, told bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.upgrade.hello, h.upgrade.proven
}

// addProof adds a sealed proof to the SYN-ACK if both hosts are for proofs. A key that is not in memory may take its time to
// sign: it does so once the connection is open.
func (h *Handshake) addProof(out eno.Outcome, suffix []byte) error {
	_, quick := h.cfg.Identity.(ed25519.PrivateKey)
	if h.cfg.Identity != nil && !quick || !h.cfg.greets() || !out.AppAware || !out.PeerAppAware {
		return nil
	}
	id, err := h.upgrade.prepared.SessionID(out.TEPByte)
	if err != nil {
		return err
	}
	message, err := h.cfg.hello(hello.RoleB, id)
	if err != nil {
		return err
	}
	h.upgrade.prepared.LogFirst = h.cfg.KeyLog != nil
	sealed, err := h.upgrade.prepared.SealFirst(message)
	if err != nil {
		return err
	}
	if suffix, err = innerspace.AppendProof(suffix, sealed); err != nil {
		return err
	}
	data, err := h.synack(suffix)
	if err != nil {
		return err
	}
	h.upgrade.bare, h.upgrade.data, h.upgrade.proven = h.upgrade.data, data, true
	return nil
}

// synackData is the data of the own SYN-ACK, without a proof if there is no room for one. That is decided once.
func (h *Handshake) synackData(room int) []byte {
	if h.upgrade.proven && len(h.upgrade.data) > room {
		h.upgrade.data, h.upgrade.proven = h.upgrade.bare, false
	}
	return h.upgrade.data
}

// openProof returns what a SYN-ACK says of the peer, nil if it says nothing.
func openProof(p *tcpcrypt.Prepared, s innerspace.SYN) ([]byte, error) {
	for _, list := range [][]byte{s.Prefix, s.Suffix} {
		sealed, ok, err := innerspace.Message(list, innerspace.ExIDProof)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		message, err := p.OpenFirst(sealed)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrHello, err)
		}
		return message, nil
	}
	return nil, nil
}
