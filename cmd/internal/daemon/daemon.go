// Package daemon is what `innertun run`, `socks` and `serve` do: it joins the ways in (TUN, SOCKS5, served ports) to the way
// out over the physical interface.
//
//	application ─ TUN ─ access netstack ─┐                      ┌─ wire netstack ─ AF_PACKET ─ interface
//	application ─ SOCKS5 ────────────────┼─ policy ─ tcpinc ────┤
//	                                     └─ kernel (local)      │
//	service ─ kernel ─ relay ─ tcpinc ──────────────────────────┘
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"innertun/cmd/internal/capture"
	"innertun/cmd/internal/config"
	"innertun/cmd/internal/conns"
	"innertun/cmd/internal/control"
	"innertun/cmd/internal/keylog"
	"innertun/cmd/internal/relay"
	"innertun/cmd/internal/seam"
	"innertun/internal/host"
	"innertun/socks"
	"innertun/stack"
	"innertun/stack/link"
	"innertun/tcpinc"
	"innertun/tcpinc/tcpcrypt"
	"innertun/tun"
)

// daemon is one run. Its parts are made in the order of the fields and closed in reverse.
type daemon struct {
	cfg     *config.Config
	log     *slog.Logger
	version string
	start   time.Time
	ctx     context.Context // ends when the daemon does
	cancel  context.CancelFunc

	registry *conns.Registry
	relayer  *relay.Relay
	tcpinc   tcpinc.Config
	peers    *identities
	captures *capture.Hub
	kernel   kernelDialer
	out      *outbound

	wire      *wire
	listeners []*tcpinc.Listener
	relays    sync.WaitGroup // relays and accept loops

	undo []step // what close does, last first
}

type step struct {
	name string
	do   func() error
}

// Run runs what the configuration enables until ctx ends, and puts the host back as it was.
func Run(ctx context.Context, cfg *config.Config, version string, log *slog.Logger) (err error) {
	if cfg, err = rooted(cfg); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d := &daemon{
		cfg: cfg, log: log, version: version, start: time.Now(), ctx: ctx, cancel: cancel,
		registry: conns.New(nil),
		relayer:  relay.New(relay.Config{}),
	}
	d.later("connections", func() error { d.relays.Wait(); return nil })
	defer func() { err = errors.Join(err, d.close()) }()
	for _, begin := range []func() error{d.beginLogs, d.beginIdentity, d.beginWire, d.beginTUN, d.beginServing, d.beginSOCKS, d.beginControl} {
		if ctx.Err() != nil {
			return nil // told to stop before it began
		}
		if err := begin(); err != nil {
			return err
		}
	}
	log.Info("ready", "interface", d.wire.name, "policy", cfg.TCPInc.Policy, "control", cfg.Control.Socket)
	<-ctx.Done()
	log.Info("stopping")
	return nil
}

// rooted is the configuration with the control socket's whole path, which is what the record beside it names.
func rooted(cfg *config.Config) (*config.Config, error) {
	c := *cfg
	var err error
	c.Control.Socket, err = filepath.Abs(cfg.Control.Socket)
	return &c, err
}

// Down removes what an earlier run with this control socket left on the host.
func Down(_ context.Context, socket string, log *slog.Logger) error {
	socket, err := filepath.Abs(socket)
	if err != nil {
		return err
	}
	undone, err := host.Clean(host.Config{Control: socket, Logger: log})
	if err != nil {
		return advised(err)
	}
	log.Info("this host is as it was", "undone", len(undone))
	return nil
}

// close aborts every connection, closes everything in reverse, and returns when no goroutine is left.
func (d *daemon) close() error {
	d.cancel()
	return undoAll(d.undo)
}

func undoAll(steps []step) error {
	var errs error
	for _, s := range slices.Backward(steps) {
		if err := s.do(); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrClosed) {
			errs = errors.Join(errs, fmt.Errorf("%s: %w", s.name, err))
		}
	}
	return errs
}

// later notes how to undo what was just begun.
func (d *daemon) later(name string, do func() error) { d.undo = append(d.undo, step{name, do}) }

func (d *daemon) beginLogs() error {
	t := d.cfg.TCPInc
	d.tcpinc = tcpinc.Config{
		TEPs: t.TEPs, Ciphers: t.Ciphers, Logger: d.log,
		AppAware: appAware(d.cfg), MandatoryAppAware: t.AppAware == "mandatory",
		RST: t.RST, InnerSpace: t.InnerSpace,
		KeyLimits: tcpcrypt.KeyLimits{Octets: t.Rekey.Bytes, Frames: t.Rekey.Frames, Time: t.Rekey.Time},
	}
	pool := tcpcrypt.NewKeyPool(0)
	d.tcpinc.KeyPool = pool
	d.later("key pairs", pool.Close)
	sessions := new(tcpcrypt.SessionCache)
	d.tcpinc.Sessions = sessions
	d.later("sessions", sessions.Close)
	d.captures = capture.NewHub()
	d.tcpinc.KeyLog = d.logKeys(nil)
	if d.cfg.KeyLog == "" {
		return nil
	}
	f, err := keylog.Open(d.cfg.KeyLog, d.log)
	if err != nil {
		return err
	}
	d.tcpinc.KeyLog = d.logKeys(f)
	d.later("key log", f.Close)
	return nil
}

func (d *daemon) beginWire() error {
	w, err := openWire(d.cfg, d.log)
	if err != nil {
		return err
	}
	d.wire = w
	d.later("way out", w.close)
	d.later("farewells", d.awaitFarewells)
	d.captures.SetInterface(capture.Interface{Name: w.name, Version: d.version, SetTap: w.way.SetTap})
	d.out = &outbound{
		policies: config.NewPolicies(d.cfg, d.log),
		dialer:   &tcpinc.Dialer{Connect: seam.Connect(w.stack), Config: d.tcpinc, Paths: &tcpinc.PathMemory{Network: w.network.leadingTo}},
		where:    w.where,
		peers:    d.peers,
		registry: d.registry,
	}
	return nil
}

func (d *daemon) beginServing() error {
	d.later("listeners", func() error {
		for _, l := range d.listeners {
			l.Close()
		}
		return nil
	})
	for _, s := range d.cfg.Serve {
		if err := d.serve(s); err != nil {
			return err
		}
	}
	return nil
}

func (d *daemon) beginTUN() error {
	c := d.cfg.TUN
	if c == nil {
		return nil
	}
	device, err := tun.Open(tun.Config{
		Name: c.Name, MTU: c.MTU, Routes: c.Routes, Excludes: c.Exclude,
		Egress: d.wire.name, Journal: d.wire.journal, Logger: d.log,
	})
	if err != nil {
		return err
	}
	d.later("TUN device", device.Close)
	d.kernel.mark = device.ExemptMark()
	d.out.kernel = d.kernel
	l, err := link.NewTUN(link.TUNConfig{File: device.File(), MTU: device.MTU(), Logger: d.log})
	if err != nil {
		return err
	}
	access, err := stack.New(stack.Config{Link: l, Promiscuous: true, Logger: d.log})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	d.later("access stack", access.Close)
	return access.Forward(d.diverted)
}

func (d *daemon) beginSOCKS() error {
	c := d.cfg.SOCKS
	if c == nil {
		return nil
	}
	server := &socks.Server{Dial: d.socksDial, Relay: d.socksRelay, Users: c.Users, Logger: d.log}
	d.later("SOCKS port", server.Close)
	listen := c.Listen.String()
	if !c.Listen.Addr().IsValid() {
		listen = fmt.Sprintf(":%d", c.Listen.Port())
	}
	ln, err := (&net.ListenConfig{Control: inline}).Listen(d.ctx, "tcp", listen)
	if err != nil {
		return fmt.Errorf("SOCKS port: %w", advised(err))
	}
	d.relays.Go(func() {
		if err := server.Serve(ln); err != nil && !errors.Is(err, socks.ErrServerClosed) {
			d.log.Error("the SOCKS port stopped", "err", err)
		}
	})
	d.log.Info("SOCKS5 port open", "listen", ln.Addr())
	return nil
}

// beginControl comes last: who finds the socket finds a daemon that is ready.
func (d *daemon) beginControl() error {
	var server *control.Server
	_, err := d.wire.journal.Hold(host.KindSocket, d.cfg.Control.Socket, func() (io.Closer, error) {
		s, err := control.Listen(d.cfg.Control.Socket, control.Source{
			Status: d.status, Conns: d.registry.Snapshot, Paths: d.paths, FlushPaths: d.flushPaths,
			Peers: d.peers.list, AcceptPeer: d.peers.accept, ForgetPeer: d.peers.forget,
			Sessions: d.sessions, FlushSessions: d.flushSessions,
			Capture: d.captures.Run,
		}, d.log)
		if err != nil {
			return nil, err
		}
		server = s
		return s, nil
	})
	if err == nil {
		d.later("control socket", server.Close)
		d.later("captures", d.captures.Close)
	}
	return err
}

func (d *daemon) status() control.Status {
	return control.Status{
		Version:    d.version,
		PID:        os.Getpid(),
		Uptime:     float64(time.Since(d.start)) / float64(time.Millisecond),
		Interface:  d.wire.name,
		Link:       d.wire.state(),
		Egress:     string(d.wire.way.Mode()),
		Active:     d.registry.Active(),
		Totals:     d.registry.Totals(),
		Downgrades: d.out.dialer.Downgrades(),
	}
}

// isIntegrity tells what only tampering or a broken peer explains.
func isIntegrity(err error) bool {
	for _, e := range []error{
		tcpcrypt.ErrIntegrity, tcpcrypt.ErrTruncated, tcpcrypt.ErrMalformedFrame, tcpcrypt.ErrDataAfterFIN, tcpcrypt.ErrBadPublicKey,
		tcpcrypt.ErrCipherNotOffered, tcpcrypt.ErrMalformedInit, tcpcrypt.ErrInitTooLong, tcpinc.ErrInitInPlain,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
