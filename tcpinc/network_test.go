package tcpinc_test

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"innertun/tcpinc"
	"innertun/tcpinc/tcpcrypt/crypttest"
)

var (
	server  = netip.MustParseAddrPort("198.18.0.2:80")
	server2 = netip.MustParseAddrPort("198.18.0.3:80")
)

// segment is one segment of a handshake on its way through the network.
type segment struct {
	kind       tcpinc.Segment
	fromClient bool
	dial       int  // the how-manyth call of Connect
	n          int  // of the SYN that it is or answers, from 0
	plain      bool // no Handshake took part
	options    []byte
}

// network opens connections in memory as a TCP stack over a path with delay would: SYNs at 0, 1, 3, 7 and 15 s, then
// ETIMEDOUT at 31 s.
type network struct {
	rtt       time.Duration
	passive   func() *tcpinc.Handshake // the server's; nil: it does not speak ENO
	refuse    func(dial int) error     // the answer to a SYN
	refuseENO syscall.Errno            // the answer to a SYN with ENO
	path      func(s *segment) bool    // may alter the options; false loses the segment
	client    func(dial int, a *crypttest.End)
	served    func(dial int, b *crypttest.End)
	from      netip.AddrPort // the client's address, if it has one
	room      int            // octets for options in a segment

	mu     sync.Mutex
	dialed int
	sent   []segment
	accept chan accepted
	closed chan struct{}
}

type accepted struct {
	t tcpinc.Transport
	h *tcpinc.Handshake
}

func newNetwork(server tcpinc.Config) *network {
	return &network{
		rtt:  20 * time.Millisecond,
		room: 21,
		passive: func() *tcpinc.Handshake {
			h, err := server.NewPassive()
			if err != nil {
				panic(err)
			}
			return h
		},
		path:   func(*segment) bool { return true },
		accept: make(chan accepted, 16),
		closed: make(chan struct{}),
	}
}

// pass moves a segment through the path and returns the options that arrive.
func (n *network) pass(s segment) ([]byte, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sent = append(n.sent, s)
	ok := n.path(&s)
	return s.options, ok
}

func (n *network) count(keep func(segment) bool) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := 0
	for _, s := range n.sent {
		if keep(s) {
			c++
		}
	}
	return c
}

// dials counts the calls of Connect.
func (n *network) dials() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dialed
}

func opError(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }

func (n *network) connect(ctx context.Context, _, _ netip.AddrPort, h *tcpinc.Handshake) (tcpinc.Transport, error) {
	n.mu.Lock()
	dial := n.dialed
	n.dialed++
	n.mu.Unlock()
	var peer *tcpinc.Handshake
	if n.passive != nil {
		peer = n.passive()
	}
	options := func(h *tcpinc.Handshake, k tcpinc.Segment) []byte {
		if h == nil {
			return nil
		}
		return h.AppendOptions(nil, k, n.room)
	}
	receive := func(h *tcpinc.Handshake, k tcpinc.Segment, o []byte) {
		if h != nil {
			h.Receive(k, o, nil)
		}
	}
	for i := range 5 {
		begun := time.Now()
		s := segment{kind: tcpinc.SYN, fromClient: true, dial: dial, n: i, plain: h == nil, options: options(h, tcpinc.SYN)}
		o, ok := n.pass(s)
		if ok && n.refuseENO != 0 && h != nil {
			return nil, sleepOr(ctx, n.rtt, opError(n.refuseENO))
		}
		if ok && n.refuse != nil {
			if err := n.refuse(dial); err != nil {
				return nil, sleepOr(ctx, n.rtt, opError(err))
			}
		}
		if ok {
			receive(peer, tcpinc.SYN, o)
			s.kind, s.fromClient, s.options = tcpinc.SYNACK, false, options(peer, tcpinc.SYNACK)
			o, ok = n.pass(s)
		}
		if !ok {
			if err := sleepOr(ctx, time.Second<<i, nil); err != nil {
				return nil, err
			}
			continue
		}
		if err := sleepOr(ctx, n.rtt-time.Since(begun), nil); err != nil {
			return nil, err
		}
		receive(h, tcpinc.SYNACK, o)
		s.kind, s.fromClient, s.options = tcpinc.NonSYN, true, options(h, tcpinc.NonSYN)
		o, _ = n.pass(s)
		receive(peer, tcpinc.NonSYN, o)
		a, b := crypttest.Pipe(crypttest.Options{})
		if n.client != nil {
			n.client(dial, a)
		}
		if n.served != nil {
			n.served(dial, b)
		}
		at := tcpinc.Transport(b)
		if n.from.IsValid() {
			at = addressed{b, n.from}
		}
		select {
		case n.accept <- accepted{at, peer}:
		case <-n.closed:
		}
		return a, nil
	}
	return nil, opError(syscall.ETIMEDOUT)
}

// openUnconfirmed hands the server a connection with whatever h knows.
func (n *network) openUnconfirmed(h *tcpinc.Handshake) tcpinc.Transport {
	a, b := crypttest.Pipe(crypttest.Options{})
	n.accept <- accepted{b, h}
	return a
}

// sleepOr returns err after d, or why ctx has ended.
func sleepOr(ctx context.Context, d time.Duration, err error) error {
	select {
	case <-time.After(d):
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// next and end are what a Listener accepts from.
func (n *network) next() (tcpinc.Transport, *tcpinc.Handshake, error) {
	select {
	case a := <-n.accept:
		return a.t, a.h, nil
	case <-n.closed:
		return nil, nil, net.ErrClosed
	}
}

func (n *network) end() error { close(n.closed); return nil }

// listen starts a Listener on the network, to be closed by the test.
func (n *network) listen(t *testing.T, cfg tcpinc.ListenConfig) *tcpinc.Listener {
	t.Helper()
	cfg.Accept, cfg.Close = n.next, n.end
	l, err := tcpinc.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// addressed is a connection from an address.
type addressed struct {
	*crypttest.End
	remote netip.AddrPort
}

func (a addressed) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(a.remote) }

// host is an echo server on a Listener that remembers what it has read from each connection.
type host struct {
	l    *tcpinc.Listener
	all  sync.WaitGroup
	mu   sync.Mutex
	read [][]byte
	errs []error
	was  []tcpinc.ConnectionState
}

func serve(l *tcpinc.Listener, greeting string) *host {
	s := &host{l: l}
	s.all.Go(func() {
		for {
			c, err := l.AcceptConn()
			if err != nil {
				return
			}
			s.all.Go(func() { s.echo(c, greeting) })
		}
	})
	return s
}

func (s *host) echo(c *tcpinc.Conn, greeting string) {
	if greeting != "" {
		c.Write([]byte(greeting))
	}
	var all []byte
	buf := make([]byte, 1024)
	for {
		n, err := c.Read(buf)
		all = append(all, buf[:n]...)
		c.Write(buf[:n])
		if err != nil {
			c.Close()
			s.mu.Lock()
			defer s.mu.Unlock()
			s.read, s.errs = append(s.read, all), append(s.errs, err)
			s.was = append(s.was, c.ConnectionState())
			return
		}
	}
}

func (s *host) close() {
	s.l.Close()
	s.all.Wait()
}

// octets is all that the server's application was given.
func (s *host) octets() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, b := range s.read {
		n += len(b)
	}
	return n
}
