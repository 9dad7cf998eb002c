package demo

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"innertun/cmd/internal/seam"
	"innertun/integration/lab"
	"innertun/stack"
	"innertun/stack/link"
	"innertun/tcpinc"
	"innertun/tcpinc/tcpcrypt"
)

// The hosts. Their addresses are of the block for benchmarks (RFC 2544), which is in use nowhere.
const (
	upgradedName = "upgraded.demo"
	legacyName   = "legacy.demo"
	httpPort     = 80
	mtu          = 1500
)

var (
	clientAddr   = netip.AddrFrom4([4]byte{198, 18, 0, 1})
	upgradedAddr = netip.AddrFrom4([4]byte{198, 18, 0, 2})
	legacyAddr   = netip.AddrFrom4([4]byte{198, 18, 0, 3})
)

// world is three hosts, each a netstack of its own, and the path between them.
//
//	client --- tap --- delay ---+--- upgraded.demo
//	                            +--- legacy.demo
type world struct {
	clock   lab.Clock
	rtt     time.Duration
	tap     *lab.Tap
	path    *lab.Path
	client  *stack.Stack
	dialer  *tcpinc.Dialer
	servers []*server
	caches  []*tcpcrypt.SessionCache // of sessions, a host each
}

// setup is what a world is built with.
type setup struct {
	rtt   time.Duration
	clock lab.Clock             // of the path; nil: real
	tune  func(c *stack.Config) // last touch to each stack; may be nil
	log   *slog.Logger
}

// server is one server host.
type server struct {
	name  string
	addr  netip.AddrPort
	stack *stack.Stack
	http  *http.Server

	mu       sync.Mutex
	sessions map[netip.AddrPort]string // session IDs as this end knows them, by client
}

// maxSessions bounds the session IDs a server remembers.
const maxSessions = 1024

func newWorld(cfg setup) (*world, error) {
	if cfg.clock == nil {
		cfg.clock = lab.Real()
	}
	w := &world{clock: cfg.clock, rtt: cfg.rtt, tap: new(lab.Tap)}
	w.path = lab.NewPath(cfg.clock, w.tap, lab.Delay(cfg.rtt/2))

	near := link.NewWire(mtu, w.path.From(lab.A))
	far := make(map[netip.Addr]func([]byte))
	w.path.Connect(near.Inject, lab.ByDestination(far))
	var err error
	if w.client, err = cfg.host(near, clientAddr); err != nil {
		return nil, fmt.Errorf("starting the client: %w", err)
	}
	w.dialer = &tcpinc.Dialer{Connect: seam.Connect(w.client), Config: w.protocols(cfg), Paths: new(tcpinc.PathMemory)}

	for _, s := range []*server{
		{name: upgradedName, addr: netip.AddrPortFrom(upgradedAddr, httpPort)},
		{name: legacyName, addr: netip.AddrPortFrom(legacyAddr, httpPort)},
	} {
		wire := link.NewWire(mtu, w.path.From(lab.B))
		far[s.addr.Addr()] = wire.Inject
		if s.stack, err = cfg.host(wire, s.addr.Addr()); err == nil {
			w.servers = append(w.servers, s)
			err = w.start(s, cfg)
		}
		if err != nil {
			w.close()
			return nil, fmt.Errorf("starting %s: %w", s.name, err)
		}
	}
	return w, nil
}

// host builds one host on a wire.
func (cfg setup) host(wire *link.Wire, addr netip.Addr) (*stack.Stack, error) {
	c := stack.Config{
		Link:      wire,
		Addresses: []netip.Prefix{netip.PrefixFrom(addr, addr.BitLen())},
		Routes:    []stack.Route{{Prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 0)}},
		Logger:    cfg.log,
	}
	if cfg.tune != nil {
		cfg.tune(&c)
	}
	return stack.New(c)
}

// protocols is the configuration of TCP-ENO and tcpcrypt on one host; they go by the path's clock.
func (w *world) protocols(cfg setup) tcpinc.Config {
	clock := protocolClock{cfg.clock}
	cache := &tcpcrypt.SessionCache{Clock: clock}
	w.caches = append(w.caches, cache)
	return tcpinc.Config{Clock: clock, Sessions: cache, Logger: cfg.log}
}

// protocolClock is the path's clock as tcpinc knows it.
type protocolClock struct{ lab.Clock }

func (c protocolClock) AfterFunc(d time.Duration, f func()) (stop func() bool) {
	return c.Clock.AfterFunc(d, func() { go f() }).Stop // a virtual clock waits for what it calls
}

// start serves HTTP, behind an upgraded listener or an ordinary one.
func (w *world) start(s *server, cfg setup) error {
	s.sessions = make(map[netip.AddrPort]string)
	var l net.Listener
	var err error
	if s.name == upgradedName {
		protocols := w.protocols(cfg)
		protocols.InnerSpace, protocols.EarlyData = tcpinc.InnerSpaceAuto, true // to ask for a page, or put a file, twice does no harm
		l, err = seam.Listen(s.stack, s.addr, tcpinc.ListenConfig{Config: protocols})
	} else {
		l, err = s.stack.Listen(s.addr, nil)
	}
	if err != nil {
		return err
	}
	site := &site{host: s.name, describe: s.describe}
	s.http = site.server()
	go s.http.Serve(l)
	return nil
}

// describe says what this end knows of a connection, and notes its session ID.
func (s *server) describe(c net.Conn) string {
	state := stateOf(c)
	if !state.encrypted {
		return "This connection is plain TCP: whoever listens on the path can read this page."
	}
	s.note(c, state.sessionID)
	return fmt.Sprintf("This connection is encrypted by tcpcrypt (%s, %s, %s); on the path nobody can read this page.\nSession ID %s",
		state.tep, state.cipher, state.how(), state.sessionID)
}

func (s *server) note(c net.Conn, sessionID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sessions) == maxSessions {
		clear(s.sessions)
	}
	s.sessions[addrPort(c.RemoteAddr())] = sessionID
}

// sessionOf is the session ID this end has for a client's connection, "" if it is not encrypted.
func (s *server) sessionOf(client netip.AddrPort) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[client]
}

// way is how a connection is to be opened, besides what is the default.
type way struct {
	inner tcpinc.InnerSpaceMode
	early bool // what the application says first may leave in the SYN
}

// conn returns a connection from the client host, open or, with early data, to be opened by its first Write.
func (w *world) conn(ctx context.Context, to netip.AddrPort, by way) (*ahead, error) {
	a := &ahead{open: func(first []byte) (*tcpinc.Conn, error) {
		return w.dialer.Dial(ctx, netip.Addr{}, to, tcpinc.DialOptions{InnerSpace: &by.inner, EarlyData: first})
	}}
	if by.early {
		return a, nil
	}
	var err error
	a.Conn, err = a.open(nil)
	return a, err
}

// ahead is a connection that can wait for the application's first octets.
type ahead struct {
	*tcpinc.Conn // nil: not open yet
	open         func(first []byte) (*tcpinc.Conn, error)
}

func (a *ahead) Write(p []byte) (int, error) {
	if a.Conn != nil {
		return a.Conn.Write(p)
	}
	var err error
	if a.Conn, err = a.open(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// dial opens a connection from the client host.
func (w *world) dial(ctx context.Context, to netip.AddrPort) (*tcpinc.Conn, error) {
	return w.dialer.Dial(ctx, netip.Addr{}, to, tcpinc.DialOptions{})
}

// resolve finds a host of this world by name or address.
func (w *world) resolve(host string) (netip.Addr, error) {
	for _, s := range w.servers {
		if host == s.name || host == s.addr.Addr().String() {
			return s.addr.Addr(), nil
		}
	}
	return netip.Addr{}, &net.DNSError{Err: "the demo knows " + upgradedName + " and " + legacyName + " only", Name: host, IsNotFound: true}
}

func (w *world) close() {
	for _, s := range w.servers {
		if s.http != nil {
			s.http.Close()
		}
	}
	if w.client != nil {
		w.client.Close()
	}
	for _, s := range w.servers {
		s.stack.Close()
	}
	w.path.Close()
	for _, c := range w.caches {
		c.Close()
	}
}
