package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"innertun/cmd/internal/conns"
	"innertun/cmd/internal/relay"
	"innertun/socks"
	"innertun/stack"
	"innertun/tcpinc"
)

// diverted takes one connection that entered the TUN: it is accepted only once the far end has accepted. Nothing is
// opened any longer for an application that has gone.
func (d *daemon) diverted(r *stack.Request) {
	flow := r.Flow()
	if d.out.carriesEarly(flow.Local.Addr(), "", flow.Remote) {
		d.divertedEarly(r)
		return
	}
	ctx, cancel := context.WithCancel(d.ctx)
	defer cancel()
	defer context.AfterFunc(r.Context(), cancel)()
	out, err := d.out.open(ctx, flow.Local.Addr(), "", flow.Remote, nil)
	if err != nil {
		d.logRefusal(flow.Remote.String(), err)
		r.Refuse(err)
		return
	}
	in, err := r.Accept()
	if err != nil { // the application has gone meanwhile
		relay.Abort(out.conn)
		fail(out.entry, err)
		return
	}
	d.goRelay(in, out)
}

// socksDial opens what a SOCKS client asks for.
func (d *daemon) socksDial(ctx context.Context, network, address string) (net.Conn, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	name := ""
	addrs := []netip.Addr{}
	if a, err := netip.ParseAddr(host); err == nil {
		addrs = append(addrs, a.Unmap())
	} else {
		name = strings.TrimSuffix(host, ".")
		if addrs, err = d.resolve(ctx, name); err != nil {
			d.log.Info("name not resolved", "name", name, "err", err)
			return nil, err
		}
	}
	to := socksDestination{text: address, name: name, addrs: addrs, port: uint16(port)}
	if early, ok := d.socksEarly(to); ok {
		return early, nil
	}
	out, err := d.openAny(ctx, to)
	if err != nil {
		d.logRefusal(address, err)
		return nil, socksError(err)
	}
	return &socksUpstream{Conn: out.conn, out: out}, nil
}

// socksDestination is what a SOCKS client asks for.
type socksDestination struct {
	text, name string
	addrs      []netip.Addr
	port       uint16
}

// openAny opens a connection to one of the addresses.
func (d *daemon) openAny(ctx context.Context, to socksDestination) (outgoing, error) {
	return race(ctx, to.addrs, func(ctx context.Context, a netip.Addr) (outgoing, error) {
		return d.out.open(ctx, netip.Addr{}, to.name, netip.AddrPortFrom(a, to.port), nil)
	}, func(o outgoing) {
		relay.Abort(o.conn)
		fail(o.entry, context.Canceled)
	})
}

// resolve asks the host's own resolver.
func (d *daemon) resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return nil, err
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, nil
}

// socksUpstream carries the registry's entry through the SOCKS server to the relay.
type socksUpstream struct {
	relay.Conn
	out outgoing
}

// Close is called by the server only when the client went away before the relay began.
func (u *socksUpstream) Close() error {
	err := u.out.conn.Close()
	u.out.entry.End()
	return err
}

// socksRelay relays for the SOCKS server.
func (d *daemon) socksRelay(ctx context.Context, client, upstream net.Conn) {
	switch u := upstream.(type) {
	case *socksUpstream:
		d.relay(ctx, client.(relay.Conn), u.out)
	case *earlyUpstream:
		d.socksRelayEarly(ctx, client.(relay.Conn), u.to, u.at)
	}
}

// refusedByPolicy tells a SOCKS client "not allowed by ruleset". RFC 1928, Section 6.
type refusedByPolicy struct{ error }

func (refusedByPolicy) SOCKSReply() byte { return byte(socks.NotAllowed) }
func (e refusedByPolicy) Unwrap() error  { return e.error }

func socksError(err error) error {
	if errors.Is(err, tcpinc.ErrEncryptionRequired) || errors.Is(err, tcpinc.ErrInnerSpaceMissing) || errors.Is(err, tcpinc.ErrPeerIdentity) {
		return refusedByPolicy{err}
	}
	return err
}

// logRefusal says what a local program was refused, loudly where policy did it.
func (d *daemon) logRefusal(to string, err error) {
	var required *tcpinc.RequiredError
	switch {
	case errors.Is(err, tcpinc.ErrPeerIdentity):
		logIdentity(d.log, to, err, d.cfg.Control.Socket)
	case errors.As(err, &required):
		attrs := []any{"to", to, "fallback_reason", required.Reason.String(), "downgraded", required.Downgraded}
		if required.Err != nil {
			attrs = append(attrs, "err", required.Err)
		}
		d.log.Warn("refused: policy requires encryption, and there is none to be had", attrs...)
	case errors.Is(err, tcpinc.ErrInnerSpaceMissing):
		d.log.Warn("refused: policy wants nothing taken away; if the server has changed, innertun paths flush DEST forgets what it was", "to", to, "err", err)
	case errors.Is(err, context.Canceled), errors.Is(err, net.ErrClosed):
	case isIntegrity(err):
		d.log.Error("refused: the key exchange was tampered with or is broken", "to", to, "err", err)
	default:
		d.log.Info("connection failed", "to", to, "err", err)
	}
}

// goRelay relays in a goroutine of its own, which close waits for.
func (d *daemon) goRelay(local relay.Conn, out outgoing) {
	d.relays.Go(func() { d.relay(d.ctx, local, out) })
}

// relay runs until both directions have ended and notes how.
func (d *daemon) relay(ctx context.Context, local relay.Conn, out outgoing) {
	err := d.relayer.Run(ctx, local, out.conn, relay.Observer{
		AToB: &out.entry.BytesOut, BToA: &out.entry.BytesIn, HalfClosed: out.entry.Closing,
	})
	d.settle(out.entry, err)
}

// settle notes the end of a connection. What the application itself broke off is not the wire's failure.
func (d *daemon) settle(entry *conns.Conn, err error) {
	if err == nil {
		entry.End()
		return
	}
	if errors.Is(err, tcpinc.ErrPeerIdentity) {
		d.log.Error("connection aborted: the peer is not who it says", "conn", entry.ID(), slog.Any("err", err))
	} else if isIntegrity(err) {
		d.log.Error("connection aborted: its data was altered or cut off on the way", "conn", entry.ID(), slog.Any("err", err))
	} else {
		d.log.Debug("connection aborted", "conn", entry.ID(), slog.Any("err", err))
	}
	var failed *relay.Error
	switch {
	case !errors.As(err, &failed):
		fail(entry, err)
	case failed.End == "a":
		entry.Fail("program", "", fmt.Errorf("local side: %w", failed.Err))
	default:
		fail(entry, fmt.Errorf("far side: %w", failed.Err))
	}
}
