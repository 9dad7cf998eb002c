package socks

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Defaults of Server.
const (
	DefaultHandshakeTimeout = 10 * time.Second
	DefaultMaxClients       = 4096
)

// ErrServerClosed is returned by Serve after Close.
var ErrServerClosed = errors.New("socks: server closed")

// Server answers SOCKS5 clients. Its fields must not change once it serves.
type Server struct {
	// Dial makes the connection a client asked for; network is "tcp", addr host:port. The context ends when the
	// client hangs up or the server is closed. What its error tells the client: see CodeOf.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// Relay moves octets between the two until both directions have ended, and closes both. The context ends when the
	// server is closed. Nil: a simple relay with half-close.
	Relay func(ctx context.Context, client, upstream net.Conn)

	// Users are those who may use the server; none: anyone who reaches it.
	Users []User

	// HandshakeTimeout is how long a client may take to say what it wants. Zero: DefaultHandshakeTimeout.
	HandshakeTimeout time.Duration

	// MaxClients is how many clients are served at once; more wait in the listener's queue. Zero: DefaultMaxClients.
	MaxClients int

	Logger *slog.Logger // nil: discard

	once   sync.Once
	ctx    context.Context
	cancel context.CancelFunc
	slots  chan struct{}

	mu        sync.Mutex
	closed    bool
	listeners map[net.Listener]struct{}
	clients   map[net.Conn]struct{}
	wg        sync.WaitGroup
}

func (s *Server) init() {
	s.once.Do(func() {
		s.ctx, s.cancel = context.WithCancel(context.Background())
		n := s.MaxClients
		if n <= 0 {
			n = DefaultMaxClients
		}
		s.slots = make(chan struct{}, n)
		s.listeners = make(map[net.Listener]struct{})
		s.clients = make(map[net.Conn]struct{})
		if s.Logger == nil {
			s.Logger = slog.New(slog.DiscardHandler)
		}
	})
}

// Serve answers the clients of ln until the server is closed, and closes ln. Several listeners may be served at once.
func (s *Server) Serve(ln net.Listener) error {
	s.init()
	defer ln.Close()
	if !s.track(func() { s.listeners[ln] = struct{}{} }) {
		return ErrServerClosed
	}
	defer s.wg.Done()
	defer s.forget(func() { delete(s.listeners, ln) })
	var pause time.Duration
	full := false // logged once each time it comes to that
	for {
		select {
		case s.slots <- struct{}{}:
			full = false
		default:
			if !full {
				s.Logger.Warn("socks: as many clients as allowed; more wait", "clients", cap(s.slots))
			}
			full = true
			select {
			case s.slots <- struct{}{}:
			case <-s.ctx.Done():
				return ErrServerClosed
			}
		}
		conn, err := ln.Accept()
		if err != nil {
			<-s.slots
			if s.ctx.Err() != nil {
				return ErrServerClosed
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			// Out of file descriptors, or a client that was gone at once: the listener itself is well.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.Logger.Warn("socks: cannot accept a client", "err", err, "pause", pause)
			if !s.sleep(pause) {
				return ErrServerClosed
			}
			continue
		}
		pause = 0
		if !s.track(func() { s.clients[conn] = struct{}{} }) {
			conn.Close()
			<-s.slots
			return ErrServerClosed
		}
		go func() {
			defer func() {
				s.forget(func() { delete(s.clients, conn) })
				<-s.slots
				s.wg.Done()
			}()
			s.handle(conn)
		}()
	}
}

func (s *Server) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// track adds to what Close ends and waits for, unless the server is closed.
func (s *Server) track(add func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	add()
	s.wg.Add(1)
	return true
}

func (s *Server) forget(remove func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	remove()
}

// Close ends the listeners, the dials and every client's connection, and returns when nothing of them runs any more.
func (s *Server) Close() error {
	s.init()
	s.mu.Lock()
	s.closed = true
	s.cancel()
	for ln := range s.listeners {
		ln.Close()
	}
	for c := range s.clients {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

// Clients returns how many clients are connected.
func (s *Server) Clients() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.clients)
}
