package tcpinc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"innertun/tcpinc"
	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
)

// stream makes a Transport of a connection of the kernel's.
type stream struct{ *net.TCPConn }

func (s stream) Abort() error {
	return errors.Join(s.SetLinger(0), s.Close())
}

// say sends what would be the TCP options of a segment, with their length before them. The kernel lets nobody add options to its
// segments, so here the two ends tell each other in the stream itself, before anything else.
func say(c net.Conn, h *tcpinc.Handshake, k tcpinc.Segment) error {
	options := h.AppendOptions([]byte{0}, k, 40)
	options[0] = byte(len(options) - 1)
	_, err := c.Write(options)
	return err
}

func hear(c net.Conn, h *tcpinc.Handshake, k tcpinc.Segment) error {
	options := make([]byte, 1)
	if _, err := io.ReadFull(c, options); err != nil {
		return err
	}
	options = make([]byte, options[0])
	if _, err := io.ReadFull(c, options); err != nil {
		return err
	}
	_, err := h.Receive(k, options, nil)
	return err
}

// negotiate does the steps in turn.
func negotiate(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// connect is a ConnectFunc.
func connect(ctx context.Context, _, to netip.AddrPort, h *tcpinc.Handshake) (tcpinc.Transport, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	t := stream{c.(*net.TCPConn)}
	err = negotiate(
		func() error { return say(t, h, tcpinc.SYN) },
		func() error { return hear(t, h, tcpinc.SYNACK) },
		func() error { return say(t, h, tcpinc.NonSYN) },
	)
	if err != nil {
		t.Abort()
		return nil, err
	}
	return t, nil
}

// acceptFrom makes the Accept of a ListenConfig.
func acceptFrom(l net.Listener, cfg tcpinc.Config) func() (tcpinc.Transport, *tcpinc.Handshake, error) {
	return func() (tcpinc.Transport, *tcpinc.Handshake, error) {
		c, err := l.Accept()
		if err != nil {
			return nil, nil, err
		}
		h, err := cfg.NewPassive()
		if err != nil {
			return nil, nil, err
		}
		t := stream{c.(*net.TCPConn)}
		err = negotiate(
			func() error { return hear(t, h, tcpinc.SYN) },
			func() error { return say(t, h, tcpinc.SYNACK) },
			func() error { return hear(t, h, tcpinc.NonSYN) },
		)
		return t, h, err
	}
}

// A server and a client over any connections that can carry what TCP-ENO has to say. The second connection is resumed from
// what the first has left in the session caches.
func ExampleListener() {
	cfg := tcpinc.Config{Sessions: new(tcpcrypt.SessionCache)}
	defer cfg.Sessions.Close()
	below, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	l, err := tcpinc.Listen(tcpinc.ListenConfig{
		Config: cfg, Policy: tcpinc.Require,
		Accept: acceptFrom(below, cfg), Close: below.Close, Addr: below.Addr(),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.Copy(c, c)
			c.Close()
		}
	}()

	sessions := new(tcpcrypt.SessionCache)
	defer sessions.Close()
	d := &tcpinc.Dialer{Connect: connect, Config: tcpinc.Config{Sessions: sessions}}
	to := netip.MustParseAddrPort(l.Addr().String())
	for range 2 {
		c, err := d.Dial(context.Background(), netip.Addr{}, to, tcpinc.DialOptions{Policy: tcpinc.Require})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Fprint(c, "hello")
		c.CloseWrite()
		answer, err := io.ReadAll(c)
		fmt.Printf("%s %v, resumed: %v\n", answer, err, c.ConnectionState().Resumed)
		c.Close()
	}
	l.Close()
	<-ended
	// Output:
	// hello <nil>, resumed: false
	// hello <nil>, resumed: true
}

// What a connection can say about itself, and the lists that one connection has for itself.
func ExampleConn_ConnectionState() {
	cfg := tcpinc.Config{AppAware: true}
	below, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	l, err := tcpinc.Listen(tcpinc.ListenConfig{Config: cfg, Accept: acceptFrom(below, cfg), Close: below.Close, Addr: below.Addr()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer l.Close()
	served := make(chan *tcpinc.Conn, 1)
	go func() {
		if c, err := l.AcceptConn(); err == nil {
			served <- c
		}
	}()

	d := &tcpinc.Dialer{Connect: connect}
	c, err := d.Dial(context.Background(), netip.Addr{}, netip.MustParseAddrPort(l.Addr().String()), tcpinc.DialOptions{
		TEPs:    []eno.TEP{tcpcrypt.P256},
		Ciphers: []tcpcrypt.Cipher{tcpcrypt.ChaCha20Poly1305, tcpcrypt.AES256GCM},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	peer := <-served
	defer peer.Close()

	s, p := c.ConnectionState(), peer.ConnectionState()
	fmt.Println(s.Encrypted, tcpinc.TEPName(s.TEP), s.Cipher)
	fmt.Println("roles:", s.Role, p.Role)
	fmt.Println("session ID of", len(s.SessionID), "octets, the same:", bytes.Equal(s.SessionID, p.SessionID))
	fmt.Printf("transcript: % x\n", s.Transcript)
	fmt.Println("application-aware peer:", s.PeerAppAware, p.PeerAppAware)
	// Output:
	// true p256 aes-256-gcm
	// roles: A B
	// session ID of 33 octets, the same: true
	// transcript: 45 03 21 45 04 03 21
	// application-aware peer: true false
}

// An application that wants to know whom it is talking to signs the session ID, or compares it over a channel it trusts: who
// stands in the middle has two sessions, with two IDs. A plain connection has none, which is an error.
func ExampleConn_SessionID() {
	n := newNetwork(tcpinc.Config{})
	n.passive = nil
	d := &tcpinc.Dialer{Connect: n.connect}
	c, err := d.Dial(context.Background(), netip.Addr{}, netip.MustParseAddrPort("198.18.0.2:80"), tcpinc.DialOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	_, err = c.SessionID()
	fmt.Println(errors.Is(err, tcpinc.ErrNoSession), err)
	// Output:
	// true tcpinc: no session ID: the connection is not encrypted
}
