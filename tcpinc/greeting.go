package tcpinc

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/hello"
	"innertun/tcpinc/identity"
	"innertun/tcpinc/tcpcrypt"
)

// Where both SYN segments had a = 1, each host that has something to say sends a hello, in a frame of its own, before
// anything else:
//
//	A                                     B
//	            Init1 ->
//	                            <- Init2, hello of B
//	hello of A, data ->
//	                                  <- data
//
// so that no round trip is added. A host that asks for an identity waits for the peer's hello before it returns the
// connection; another one takes it from the stream when it first reads. A peer that sends none is not disturbed. A resumed
// connection has no hello: what the peer said when keys were exchanged is in the session's note. Over Inner Space the same
// is said in an option: see proof.

// unprovenWait bounds how long host B, which is going to refuse a peer without identity, waits for it to have taken Init2:
// a reset before that would look to the peer as if a middlebox had stripped its ENO options, and it would try in plain.
const unprovenWait = 3 * time.Second

// peerHello is what a peer has said.
type peerHello struct {
	capabilities hello.Capabilities
	identity     *PeerIdentity
}

// greeting is what one connection has to do with hellos.
type greeting struct {
	cfg    Config
	crypt  *tcpcrypt.Conn
	own    hello.Role
	id     []byte // session ID
	note   *sessionNote
	resets *resetGuard // may be nil

	resumed bool
	both    bool // both SYN segments had a = 1
}

// newGreeting prepares one for a stream whose keys are ready.
func (cfg Config) newGreeting(crypt *tcpcrypt.Conn, out eno.Outcome, note *sessionNote, resets *resetGuard) (*greeting, error) {
	id, err := crypt.SessionID()
	if err != nil {
		return nil, err
	}
	return &greeting{
		cfg: cfg, crypt: crypt, own: helloRole(out.Role), id: id, note: note, resets: resets,
		resumed: crypt.State().Resumed, both: out.AppAware && out.PeerAppAware,
	}, nil
}

func helloRole(r eno.Role) hello.Role {
	if r == eno.RoleB {
		return hello.RoleB
	}
	return hello.RoleA
}

// greet exchanges hellos. When it fails the connection was aborted.
func (g *greeting) greet(ctx context.Context) (Transport, error) {
	switch {
	case g.resumed:
		return g.inherit()
	case g.both:
		return g.exchange(ctx)
	case g.cfg.auth != nil:
		return nil, g.refuseSilent(ctx)
	}
	return g.crypt, nil
}

// inherit takes what was said when the session's keys were exchanged.
func (g *greeting) inherit() (Transport, error) {
	said, _ := g.note.read()
	if g.cfg.auth == nil && said == nil {
		return g.crypt, nil
	}
	h := &greeted{Conn: g.crypt, now: g.cfg.Clock.Now}
	said, err := g.accept(said)
	if err != nil {
		g.crypt.FlushSession()
		g.crypt.Abort()
		return nil, err
	}
	h.said.Store(said)
	h.over.Store(true)
	return h, nil
}

func (g *greeting) exchange(ctx context.Context) (Transport, error) {
	stop := context.AfterFunc(ctx, func() { g.crypt.Abort() })
	h, err := g.meet(ctx)
	if !stop() && err == nil { // it was over before the last word was spoken, and the connection is aborted
		err = fmt.Errorf("%w: %w", ErrHello, context.Cause(ctx))
	}
	if err != nil {
		g.crypt.Abort()
		return nil, err
	}
	return h, nil
}

// meet sends the hello and, if somebody is to judge it, waits for the peer's.
func (g *greeting) meet(ctx context.Context) (*greeted, error) {
	if g.cfg.greets() {
		if err := g.send(); err != nil {
			return nil, g.unsent(ctx, err)
		}
	}
	h := &greeted{Conn: g.crypt, now: g.cfg.Clock.Now, judge: g.judge}
	if g.cfg.auth == nil {
		return h, nil
	}
	if err := h.decide(); err != nil {
		if !errors.Is(err, ErrPeerIdentity) {
			err = g.refuse(nil, fmt.Errorf("%w: %w", ErrNoIdentity, causeOr(ctx, err)))
		}
		return nil, err
	}
	return h, nil
}

// causeOr returns why ctx has ended, if it has, else err.
func causeOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// unsent is the error where the own hello could not be sent. A host that asks has got no proof then, as where the connection
// ends while it waits for one.
func (g *greeting) unsent(ctx context.Context, err error) error {
	err = fmt.Errorf("%w: %w", ErrHello, causeOr(ctx, err))
	if g.cfg.auth == nil {
		return err
	}
	return g.refuse(nil, fmt.Errorf("%w: %w", ErrNoIdentity, err))
}

func (g *greeting) send() error {
	message, err := g.cfg.hello(g.own, g.id)
	if err != nil {
		return err
	}
	_, err = g.crypt.Write(message)
	return err
}

// hello is what this host says on the connection with that session ID.
func (cfg Config) hello(own hello.Role, id []byte) ([]byte, error) {
	h := hello.Hello{Capabilities: cfg.capabilities()}
	if cfg.Identity != nil {
		if err := h.Sign(cfg.Identity, own, id); err != nil {
			return nil, err
		}
	}
	return hello.Append(nil, h), nil
}

// judge takes the peer's hello, nil if its stream begins otherwise.
func (g *greeting) judge(h *hello.Hello) (*peerHello, error) {
	said := new(peerHello)
	if h != nil {
		said.capabilities = h.Capabilities
	}
	if h != nil && h.Identity != nil {
		key := identity.PublicKey(h.Identity.Key)
		if err := h.Verify(g.own.Other(), g.id); err != nil { // also where nobody asked: a wrong proof is no accident
			return nil, g.refuse(&key, err)
		}
		said.identity = &PeerIdentity{Key: key}
	}
	accepted, err := g.accept(said)
	if err == nil {
		g.note.setHello(said) // without the name: another connection may have another Authenticator
	}
	return accepted, err
}

// accept lets the Authenticator, if there is one, judge what a peer has said; nil: nothing.
func (g *greeting) accept(said *peerHello) (*peerHello, error) {
	if g.cfg.auth != nil {
		if said == nil || said.identity == nil {
			return nil, g.refuse(nil, ErrNoIdentity)
		}
		key := said.identity.Key
		name, err := g.cfg.auth.Authenticate(g.remote(), key)
		if err != nil {
			return nil, g.refuse(&key, err)
		}
		said = &peerHello{said.capabilities, &PeerIdentity{key, name}}
	}
	if g.resets != nil && g.cfg.capabilities().Has(hello.AuthenticatedResets) {
		g.resets.SetPeerAuthenticates(said.capabilities.Has(hello.AuthenticatedResets))
	}
	return said, nil
}

// remote is the peer's address, as it was dialled if it was.
func (g *greeting) remote() netip.AddrPort {
	return orDefault(g.cfg.remote, addrPort(g.crypt.RemoteAddr()))
}

func (g *greeting) refuse(key *identity.PublicKey, err error) error {
	return &IdentityError{Remote: g.remote(), Key: key, Err: err}
}

// refuseSilent aborts a connection to a peer that cannot prove anything, as one of both did not send a = 1.
func (g *greeting) refuseSilent(ctx context.Context) error {
	if g.own == hello.RoleB {
		ctx, cancel := withTimeout(ctx, g.cfg.Clock, unprovenWait, ErrNoAnswer)
		defer cancel()
		stop := context.AfterFunc(ctx, func() { g.crypt.Abort() })
		defer stop()
		g.crypt.Read(make([]byte, 1)) // whatever comes, it is not handed on
	}
	g.crypt.Abort()
	return g.refuse(nil, ErrNoIdentity)
}
