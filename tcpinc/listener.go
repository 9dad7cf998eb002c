package tcpinc

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/innerspace"
)

// DefaultMaxHandshakes bounds the key exchanges under way at one Listener.
const DefaultMaxHandshakes = 1024

// ListenConfig says what a Listener accepts from and how.
type ListenConfig struct {
	Config Config
	// Auth judges who a peer is before it is accepted, and implies Require. nil: nobody is asked.
	Auth   Authenticator
	Policy Policy // Off does nothing but hand on: the connections should have no Handshake then

	// Accept returns the next open connection with the Handshake that took part in its opening, nil if none did. The third
	// segment must have been handed to it. An error ends the Listener.
	Accept func() (Transport, *Handshake, error)
	Close  func() error // unblocks Accept
	Addr   net.Addr

	// Restored, if not nil, is told the Handshake of a connection that Accept has returned without one, because it was kept in an
	// echo cookie only: RSTs of the connection are its affair from now on (Handshake.Incoming). Nothing was sent on it yet.
	Restored func(Transport, *Handshake)

	MaxHandshakes int // 0: DefaultMaxHandshakes

	// Failed, if not nil, hears of each connection that Accept does not return and was aborted, and why.
	Failed func(remote net.Addr, err error)
}

// Listener accepts connections, encrypted or plain. Key exchanges go on beside each other, each within
// Config.HandshakeTimeout; when there are too many the oldest is aborted, which is the one least likely to come to
// anything. Connections that nobody accepts hold up the Accept below. It is a net.Listener.
type Listener struct {
	cfg    ListenConfig
	ready  chan *Conn
	done   chan struct{} // closed: no more connections
	slots  chan struct{}
	ending sync.Once
	all    sync.WaitGroup

	mu      sync.Mutex
	err     error
	pending []*exchange // key exchanges under way, oldest first
}

// exchange is one key exchange under way.
type exchange struct {
	stop context.CancelCauseFunc
}

// Listen starts a Listener. Errors: an unknown policy, ErrNoDestination,
// identity.ErrNotEd25519.
func Listen(cfg ListenConfig) (*Listener, error) {
	if err := cfg.Policy.known(); err != nil {
		return nil, err
	}
	if cfg.Policy == Ratchet {
		return nil, ErrNoDestination
	}
	cfg = cfg.filled()
	if err := cfg.Config.checkIdentity(); err != nil {
		return nil, err
	}
	l := &Listener{
		cfg:   cfg,
		ready: make(chan *Conn),
		done:  make(chan struct{}),
		slots: make(chan struct{}, orDefault(cfg.MaxHandshakes, DefaultMaxHandshakes)),
	}
	l.all.Go(l.loop)
	return l, nil
}

// filled puts the defaults in, and what Auth implies.
func (cfg ListenConfig) filled() ListenConfig {
	cfg.Config = cfg.Config.filled()
	if cfg.Auth != nil {
		cfg.Policy, cfg.Config.auth = Require, cfg.Auth
	}
	return cfg
}

// NewHandshake returns the Handshake of a connection to be accepted, nil if there is to be none. Errors: those of
// Config.NewPassive.
func (cfg ListenConfig) NewHandshake() (*Handshake, error) {
	cfg = cfg.filled()
	if cfg.Policy == Off {
		return nil, nil
	}
	return cfg.Config.NewPassive()
}

// Accept returns the next connection, a *Conn, ready for data.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.AcceptConn()
	if err != nil {
		return nil, err // not a nil *Conn
	}
	return c, nil
}

// AcceptConn is Accept with the type that it returns. Errors: net.ErrClosed after Close, or that of the Accept below.
func (l *Listener) AcceptConn() (*Conn, error) {
	select {
	case c := <-l.ready:
		return c, nil
	case <-l.done:
		l.mu.Lock()
		defer l.mu.Unlock()
		return nil, l.err
	}
}

func (l *Listener) Addr() net.Addr { return l.cfg.Addr }

// Close ends the Listener and aborts what was not accepted, which takes a second at most: see Conn.AbortWith. No goroutine of it stays.
func (l *Listener) Close() error {
	err := net.ErrClosed
	l.end(net.ErrClosed, func() { err = l.cfg.Close() })
	l.all.Wait()
	return err
}

// end stops everything, once; first is called by whoever is first.
func (l *Listener) end(why error, first func()) {
	l.ending.Do(func() {
		l.mu.Lock()
		l.err = why
		for _, x := range l.pending {
			x.stop(why)
		}
		l.mu.Unlock()
		close(l.done)
		first()
	})
}

func (l *Listener) loop() {
	for {
		t, h, err := l.cfg.Accept()
		if err != nil {
			l.end(err, func() { l.cfg.Close() })
			return
		}
		l.sort(t, h)
	}
}

// sort decides what an open connection is, and is quick but for what nobody accepts.
func (l *Listener) sort(t Transport, h *Handshake) {
	start := l.cfg.Config.Clock.Now()
	out := eno.Outcome{State: eno.Disabled, Reason: eno.PolicyOff}
	switch {
	case h != nil:
		out = h.Outcome()
	case l.cfg.Policy != Off && l.cfg.Config.Cookies.outstanding():
		l.begin(t, nil, start)
		return
	case l.cfg.Policy != Off:
		// Too many handshakes at once, or a SYN cookie: nobody knows what the peer was told. It may believe that it encrypts.
		out.Reason, out.ENOSent = eno.PeerNoENO, true
	}
	switch {
	case out.Encrypt():
		l.begin(t, h, start)
	case out.State != eno.Disabled:
		h.release()
		l.refuse(t, ErrNotConfirmed)
	case l.cfg.Policy == Require:
		h.release()
		l.refuse(t, &RequiredError{Remote: addrPort(t.RemoteAddr()), Reason: out.Reason, Err: out.Err})
	default:
		l.deliver(plainPassive(t, h, out, l.cfg.Config))
	}
}

// plainPassive is a plain connection. If the peer may have seen ENO negotiated, its stream is watched for Init1, or for a
// frame of the session that was to be resumed.
func plainPassive(t Transport, h *Handshake, out eno.Outcome, cfg Config) *Conn {
	c := Plain(t, out.Reason)
	if h.innerSpace() {
		c.useInnerSpace(h)
	} else if out.ENOSent {
		g := guard(t, h.opener(), cfg.Clock)
		g.echoes = h == nil && cfg.Cookies != nil
		c.stream = g
	}
	h.release()
	c.state.PeerAppAware = out.PeerAppAware
	return c
}

// begin starts a key exchange, at the expense of the oldest one if there are too many.
func (l *Listener) begin(t Transport, h *Handshake, start time.Time) {
	select {
	case l.slots <- struct{}{}:
	default:
		l.stopOldest()
		select {
		case l.slots <- struct{}{}:
		case <-l.done:
			h.release()
			t.Abort()
			return
		}
	}
	ctx, stop := context.WithCancelCause(context.Background())
	x := &exchange{stop: stop}
	l.mu.Lock()
	over := l.err
	l.pending = append(l.pending, x)
	l.mu.Unlock()
	if over != nil { // ended meanwhile: the loop that stops all has run
		stop(over)
	}
	l.all.Go(func() {
		defer func() { <-l.slots }()
		defer stop(context.Canceled)
		l.run(ctx, x, t, h, start)
	})
}

func (l *Listener) run(ctx context.Context, x *exchange, t Transport, h *Handshake, start time.Time) {
	ctx, cancel := withTimeout(ctx, l.cfg.Config.Clock, l.cfg.Config.HandshakeTimeout, ErrNoAnswer)
	defer cancel()
	remote := t.RemoteAddr()
	if h == nil {
		var plain *Conn
		var err error
		if h, plain, err = l.welcome(ctx, t); h == nil {
			l.forget(x)
			if err != nil {
				l.refuse(t, err)
				return
			}
			l.deliver(plain)
			return
		}
	}
	conn, err := l.cfg.Config.encrypt(ctx, t, h, netip.AddrPortFrom(addrPort(remote).Addr(), 0), start)
	l.forget(x)
	if err != nil {
		l.report(remote, err)
		return
	}
	l.deliver(conn)
}

func (l *Listener) stopOldest() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pending) > 0 {
		l.pending[0].stop(ErrCrowded)
		l.pending = l.pending[1:]
	}
}

func (l *Listener) forget(x *exchange) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, p := range l.pending {
		if p == x {
			l.pending = append(l.pending[:i], l.pending[i+1:]...)
			return
		}
	}
}

func (l *Listener) deliver(c *Conn) {
	select {
	case <-l.done:
	default:
		select {
		case l.ready <- c:
			return
		case <-l.done:
		}
	}
	c.AbortWith(innerspace.CloseReason{Code: innerspace.CloseShutdown})
}

func (l *Listener) refuse(t Transport, err error) {
	remote := t.RemoteAddr()
	t.Abort()
	l.report(remote, err)
}

func (l *Listener) report(remote net.Addr, err error) {
	if errors.Is(err, net.ErrClosed) {
		return // this host's own doing
	}
	l.cfg.Config.Logger.Info("connection not accepted", slog.Any("remote", remote), slog.Any("error", err))
	if l.cfg.Failed != nil {
		l.cfg.Failed(remote, err)
	}
}

// addrPort is the address as a value, zero if it is not one of TCP.
func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(interface{ AddrPort() netip.AddrPort }); ok {
		return tcp.AddrPort()
	}
	return netip.AddrPort{}
}
