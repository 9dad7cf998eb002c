package tcpinc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
)

const (
	// DefaultFallbackDelay is how long a SYN with ENO may go unanswered before one without it is sent beside it: SYNs
	// leave at 0, 1 and 3 s, so two have been lost by then.
	DefaultFallbackDelay = 3 * time.Second

	minAnswerTime = 3 * time.Second // for Init2, from when Init1 has left
	// retransmittedExtra is added to the time for Init2 if the SYN was sent more than once: the first retransmission of
	// data then waits for 3 s. RFC 6298, Section 5.7.
	retransmittedExtra = 3 * time.Second
)

// Dialer opens connections. Its fields must not change once it is in use.
type Dialer struct {
	Connect ConnectFunc
	Config  Config
	Paths   *PathMemory // nil: nothing is remembered
	// FallbackDelay replaces DefaultFallbackDelay.
	FallbackDelay time.Duration

	downgrades atomic.Uint64
	full       atomic.Bool // that the memory of Ratchet is full was logged
}

// DialOptions is what differs from one connection to another.
type DialOptions struct {
	Policy Policy
	// Reason is reported as the reason for a plain connection under Off: SkipPort or Local, for instance. NoReason:
	// PolicyOff.
	Reason eno.Reason

	// TEPs and Ciphers are what is offered on this connection, preferred first; nil: Config's.
	TEPs    []eno.TEP
	Ciphers []tcpcrypt.Cipher

	// LocalPort is the local port, 0: chosen. As a second connection from it cannot be tried beside the first, the SYNs
	// from FallbackDelay on leave without ENO where policy allows plain TCP. RFC 8547, Section 4.6.
	LocalPort uint16
	// B is Config.B for this connection: with LocalPort, for a simultaneous open in which the peer leaves b at 0.
	// RFC 8547, Section 4.3.
	B bool

	InnerSpace *InnerSpaceMode // replaces Config's; nil: it stands

	NoResume, NoCache bool                // as in Config; either place will do
	Resumable         func(note any) bool // replaces Config's, if not nil

	// EarlyData is what is sent first, before Dial returns. To a destination that speaks Inner Space and of which a session is
	// cached it leaves in the SYN, as far as there is room, so that the reply can follow the SYN-ACK. Whoever copies that SYN
	// may have the data delivered twice: it must be something that may be done twice. It must not be changed before Dial
	// returns.
	EarlyData []byte

	// Auth judges who the peer is, before Dial returns. Whatever Policy says the connection then is encrypted, the peer
	// proves an identity and Auth takes it, or it fails. nil: nobody is asked.
	Auth Authenticator
}

// apply returns the configuration for one connection.
func (o DialOptions) apply(cfg Config) Config {
	cfg = cfg.prefers(o.TEPs, o.Ciphers)
	cfg.B = cfg.B || o.B
	if o.InnerSpace != nil {
		cfg.InnerSpace = *o.InnerSpace
	}
	cfg.NoResume = cfg.NoResume || o.NoResume
	cfg.NoCache = cfg.NoCache || o.NoCache
	if o.Resumable != nil {
		cfg.Resumable = o.Resumable
	}
	cfg.auth = o.Auth
	return cfg
}

// Downgrades counts the connections that came out plain, or failed under Require or Ratchet for want of encryption,
// although their destination had it before.
func (d *Dialer) Downgrades() uint64 { return d.downgrades.Load() }

// Dial opens a connection and returns once data can flow: once keys are ready, if it is encrypted.
//
// Under Opportunistic it falls back to a connection without ENO when SYNs with ENO go unanswered (see FallbackDelay), or
// when after a successful negotiation the peer sends no key exchange message within max(3 RTT, 3 s) or resets the
// connection, as happens where a middlebox strips ENO from non-SYN segments only. Then the path is remembered. What fails
// for a reason that points at tampering with the key exchange itself is an error under any policy.
//
// Ratchet is Opportunistic until Paths knows of a success with the destination, on whatever network, and Require then.
//
// Errors: those of Connect, wrapped or unchanged; *RequiredError; *IdentityError; those of tcpcrypt; ErrNoAnswer; ErrHello;
// ErrInnerSpaceMissing; ErrNoMemory. Each may come with ErrFirstSent.
func (d *Dialer) Dial(ctx context.Context, local netip.Addr, remote netip.AddrPort, o DialOptions) (*Conn, error) {
	if err := o.Policy.known(); err != nil {
		return nil, err
	}
	if o.Policy == Ratchet && d.Paths == nil {
		return nil, ErrNoMemory
	}
	if o.Auth != nil {
		o.Policy = Require
	}
	t := d.newAttempt(netip.AddrPortFrom(local, o.LocalPort), remote, o)
	t.cfg.remote = remote
	conn, err := t.dial(ctx, t.plainReason(o))
	t.account(conn, err)
	if err == nil {
		err = t.accountInner(conn)
	}
	if err == nil {
		err = conn.sendFirst(ctx, o.EarlyData)
	}
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// attempt is one call of Dial.
type attempt struct {
	*Dialer
	cfg    Config         // filled
	local  netip.AddrPort // an invalid address, port 0: chosen
	remote netip.AddrPort
	path   path // as it was at the start
	policy Policy
	start  time.Time

	early    []byte // to be sent first
	ordinary bool   // no upgraded SYN
	gate     *gate  // for the connections that are opened; nil: none
}

func (d *Dialer) newAttempt(local, remote netip.AddrPort, o DialOptions) *attempt {
	cfg := o.apply(d.Config).filled()
	return &attempt{Dialer: d, cfg: cfg, local: local, remote: remote, path: d.Paths.path(remote), policy: o.Policy, start: cfg.Clock.Now(), early: o.EarlyData}
}

// mustEncrypt reports whether a plain connection is out of the question. Under Ratchet another connection may have
// succeeded meanwhile.
func (t *attempt) mustEncrypt() bool {
	return t.policy == Require || t.policy == Ratchet && t.Paths.MustEncrypt(t.remote, t.cfg.Clock.Now())
}

// plainReason returns why the connection is not to be tried with ENO, NoReason if it is.
func (t *attempt) plainReason(o DialOptions) eno.Reason {
	switch {
	case o.Policy == Off:
		return orDefault(o.Reason, eno.PolicyOff)
	case !t.mustEncrypt() && t.Paths.try(t.path, t.start) != eno.NoReason:
		return eno.Remembered
	}
	return eno.NoReason
}

func (t *attempt) dial(ctx context.Context, plain eno.Reason) (*Conn, error) {
	if plain != eno.NoReason {
		return t.dialPlain(ctx, plain)
	}
	opened, err := t.openBest(ctx)
	if err != nil {
		return nil, err
	}
	if opened.h == nil {
		if t.cfg.resumes() { // what it offered may be what did not arrive
			t.cfg.Sessions.Flush(t.remote)
		}
		t.fail(eno.SYNENODropped, nil)
		return t.settle(opened.t, eno.Outcome{Reason: eno.SYNENODropped})
	}
	defer opened.h.release()
	t.Paths.answered(t.path)
	out := opened.h.Outcome()
	if out.Reason == eno.SYNENODropped { // one port only, and its later SYNs were without
		t.fail(eno.SYNENODropped, nil)
	} else if !out.Encrypt() && opened.h.offered() {
		return t.again(ctx, opened)
	}
	if opened.h.innerSpace() {
		t.Paths.innerSucceeded(t.path, t.cfg.Clock.Now())
	}
	if !out.Encrypt() {
		conn, err := t.unnegotiated(opened.t, out)
		if err == nil && opened.h.innerSpace() {
			if _, err := opened.h.echo(opened.t); err != nil {
				conn.Abort()
				return nil, err
			}
			conn.useInnerSpace(opened.h)
		}
		return conn, err
	}
	if ticket, _ := opened.h.agreed(); ticket == nil && opened.h.offered() {
		opened.h.declined()
	}
	conn, err := t.encrypt(ctx, opened, out)
	if err != nil && opened.h.earlyAccepted() { // what was sent may have been acted on: only who sent it may do so again
		return nil, firstSent(err)
	}
	if err == nil && opened.h.upgraded() {
		t.watch(conn)
	}
	if err == nil || !suggestsStripping(err) || ctx.Err() != nil {
		return conn, err
	}
	if opened.h.upgraded() { // there is no option in the header that could be stripped
		t.Paths.innerFailed(t.path, PathEatsSYNData, t.cfg.Clock.Now())
		t.ordinary = true
		return t.dial(ctx, eno.NoReason)
	}
	if t.mustEncrypt() {
		return nil, t.required(eno.Stripped, err)
	}
	t.fail(eno.Stripped, err)
	return t.dialPlain(ctx, eno.Stripped)
}

// again is after an offer to resume that has led to no encryption: perhaps for what was offered. A fresh one is tried, and
// what comes of it stands.
func (t *attempt) again(ctx context.Context, opened opened) (*Conn, error) {
	opened.t.Abort()
	opened.h.failed()
	t.cfg.NoResume = true
	return t.dial(ctx, eno.NoReason)
}

func (t *attempt) dialPlain(ctx context.Context, why eno.Reason) (*Conn, error) {
	transport, err := t.Connect(ctx, t.local, t.remote, nil)
	if err != nil {
		return nil, err
	}
	return t.settle(transport, eno.Outcome{Reason: why})
}

// settle takes a connection without encryption, if that will do.
func (t *attempt) settle(transport Transport, out eno.Outcome) (*Conn, error) {
	if t.mustEncrypt() {
		transport.Abort()
		return nil, t.required(out.Reason, out.Err)
	}
	return t.plain(transport, out), nil
}

func (t *attempt) required(why eno.Reason, err error) *RequiredError {
	return &RequiredError{Remote: t.remote, Reason: why, Err: err}
}

func (t *attempt) plain(transport Transport, out eno.Outcome) *Conn {
	c := Plain(transport, out.Reason)
	if out.ENOSent && out.Simultaneous && out.Role == eno.RoleB { // host A may not have seen that this end gave up
		c.stream = &guarded{Transport: transport}
	}
	c.state.PeerAppAware, c.state.SYNsSent = out.PeerAppAware, out.SYNsSent
	c.state.HandshakeTime = t.cfg.Clock.Now().Sub(t.start)
	return c
}

// unnegotiated is an open connection whose ENO negotiation did not succeed.
func (t *attempt) unnegotiated(transport Transport, out eno.Outcome) (*Conn, error) {
	if out.State != eno.Disabled { // a stack that does not hand over the SYN-ACK: nobody knows what the peer thinks
		transport.Abort()
		return nil, ErrNotConfirmed
	}
	return t.settle(transport, out)
}

// encrypt exchanges keys, within a time in which a peer that agreed to encrypt must have answered.
func (t *attempt) encrypt(ctx context.Context, opened opened, out eno.Outcome) (*Conn, error) {
	limit := max(3*opened.h.RTT(), minAnswerTime)
	if out.SYNsSent > 1 {
		limit += retransmittedExtra
	}
	ctx, cancel := withTimeout(ctx, t.cfg.Clock, min(limit, t.cfg.HandshakeTimeout), ErrNoAnswer)
	defer cancel()
	conn, err := t.cfg.encrypt(ctx, opened.t, opened.h, t.remote, t.start)
	if err != nil {
		return nil, err
	}
	if !t.Paths.succeed(t.path, t.policy == Ratchet, t.cfg.Clock.Now()) && !t.full.Swap(true) {
		t.cfg.Logger.Warn("the memory of policy ratchet is full: new destinations stay opportunistic")
	}
	return conn, nil
}

// suggestsStripping tells from the failure of a key exchange whether the peer may have fallen back to plain TCP: it said
// nothing, left, or sent something else. A key exchange message that is there but wrong is no such sign. The list is of
// what is known to be harmless, as what it lets through goes on in plain.
func suggestsStripping(err error) bool {
	if errors.Is(err, ErrHello) || errors.Is(err, ErrPeerIdentity) { // keys were exchanged by then
		return false
	}
	for _, harmless := range []error{
		ErrNoAnswer, tcpcrypt.ErrBadMagic, tcpcrypt.ErrTruncated,
		syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED, syscall.ETIMEDOUT,
	} {
		if errors.Is(err, harmless) {
			return true
		}
	}
	return false
}

// fail remembers a path that does not work with ENO.
func (t *attempt) fail(why eno.Reason, err error) {
	network := t.Paths.fail(t.path, why, t.cfg.Clock.Now())
	attrs := []any{slog.Any("remote", t.remote), slog.String("reason", why.String())}
	if err != nil {
		attrs = append(attrs, slog.Any("error", err))
	}
	t.cfg.Logger.Warn("path does not work with ENO: going on without encryption", attrs...)
	if network {
		t.cfg.Logger.Warn("this network does not work with ENO: connections are not encrypted for a while",
			slog.String("network", t.path.network), slog.String("reason", why.String()))
	}
}

// account counts and marks a downgrade, and logs the first of a destination.
func (t *attempt) account(conn *Conn, err error) {
	var reason eno.Reason
	var required *RequiredError
	var mark *bool
	switch {
	case t.policy == Off: // meant to be plain
		return
	case errors.As(err, &required):
		reason, mark = required.Reason, &required.Downgraded
	case err == nil && !conn.state.Encrypted:
		reason, mark = conn.state.FallbackReason, &conn.state.Downgraded
	default: // encrypted, or failed for another reason
		return
	}
	downgraded, first := t.Paths.downgraded(t.remote, t.cfg.Clock.Now())
	if !downgraded {
		return
	}
	*mark = true
	t.downgrades.Add(1)
	if first {
		t.cfg.Logger.Warn("downgrade: destination had encryption before and has none now",
			slog.Any("remote", t.remote), slog.String("reason", reason.String()))
	}
}

// accountInner counts and marks an encrypted connection without Inner Space to a destination that spoke it before, as a
// downgrade. Where encryption is required, so is that: the connection is reset.
func (t *attempt) accountInner(conn *Conn) error {
	s := &conn.state
	if t.cfg.InnerSpace == InnerSpaceOff || !s.Encrypted || s.InnerSpace || conn.crypt.State().Resumed {
		return nil
	}
	missing, first := t.Paths.innerMissing(t.remote, t.cfg.Clock.Now())
	if !missing {
		return nil
	}
	s.Downgraded = true
	t.downgrades.Add(1)
	if first {
		t.cfg.Logger.Warn("downgrade: destination spoke Inner Space before and does not now", slog.Any("remote", t.remote))
	}
	if !t.mustEncrypt() {
		return nil
	}
	conn.Abort()
	return fmt.Errorf("%v: %w", t.remote, ErrInnerSpaceMissing)
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
