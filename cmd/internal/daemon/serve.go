package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"innertun/cmd/internal/config"
	"innertun/cmd/internal/conns"
	"innertun/cmd/internal/seam"
	"innertun/tcpinc"
)

// forwardTimeout bounds the connection to the service, which is near.
const forwardTimeout = 10 * time.Second

// serve answers in front of one service.
func (d *daemon) serve(s config.Serve) error {
	cfg := d.servedConfig(s.Overrides)
	for _, at := range bothFamilies(s.Listen) {
		l, err := seam.Listen(d.wire.stack, at, tcpinc.ListenConfig{
			Config: cfg,
			Auth:   d.peers.admitted(s),
			Policy: d.out.policies.Serving().Policy,
			Failed: func(remote net.Addr, err error) {
				fail(d.registry.Add(conns.Server, at, addrPort(remote)), err)
			},
		})
		if err != nil {
			return fmt.Errorf("serve %s: %w", at, err)
		}
		d.listeners = append(d.listeners, l)
		d.relays.Go(func() { d.acceptLoop(l, s.Forward) })
	}
	d.log.Info("serving", "listen", listenText(s.Listen), "forward", s.Forward)
	return nil
}

// servedConfig is the configuration with what one [[serve]] has otherwise.
func (d *daemon) servedConfig(own config.Overrides) tcpinc.Config {
	cfg := d.tcpinc
	if own.TEPs != nil {
		cfg.TEPs = own.TEPs
	}
	if own.Ciphers != nil {
		cfg.Ciphers = own.Ciphers
	}
	resume, cache := d.cfg.Sessions(own)
	cfg.NoResume, cfg.NoCache = !resume, !cache
	if own.InnerSpace != nil {
		cfg.InnerSpace = *own.InnerSpace
	}
	cfg.EarlyData = d.cfg.Early(own)
	return cfg
}

// bothFamilies is the address itself, or where none was given the unspecified ones.
func bothFamilies(at netip.AddrPort) []netip.AddrPort {
	if at.Addr().IsValid() {
		return []netip.AddrPort{at}
	}
	return []netip.AddrPort{
		netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port()),
		netip.AddrPortFrom(netip.IPv6Unspecified(), at.Port()),
	}
}

func listenText(at netip.AddrPort) string {
	if at.Addr().IsValid() {
		return at.String()
	}
	return fmt.Sprintf(":%d", at.Port())
}

func (d *daemon) acceptLoop(l *tcpinc.Listener, forward netip.AddrPort) {
	for {
		conn, err := l.AcceptConn()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				d.log.Error("a served port stopped accepting", "at", l.Addr(), "err", err)
			}
			return
		}
		d.relays.Go(func() { d.served(conn, forward) })
	}
}

// served connects one accepted connection to the service. A service that refuses is seen as a reset.
func (d *daemon) served(conn *tcpinc.Conn, forward netip.AddrPort) {
	entry := d.registry.Add(conns.Server, addrPort(conn.LocalAddr()), addrPort(conn.RemoteAddr()))
	establish(entry, conn, d.peers)
	ctx, cancel := context.WithTimeout(d.ctx, forwardTimeout)
	service, err := d.kernel.dial(ctx, forward)
	cancel()
	if err != nil {
		d.log.Warn("the service does not answer", "forward", forward, "err", err)
		conn.AbortWith(unanswered(err))
		fail(entry, fmt.Errorf("service at %s: %w", forward, err))
		return
	}
	d.relay(d.ctx, service, outgoing{conn, entry})
}
