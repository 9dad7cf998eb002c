package seam_test

import (
	"context"
	"fmt"
	"io"
	"net/netip"

	"innertun/cmd/internal/seam"
	"innertun/integration/lab"
	"innertun/stack"
	"innertun/stack/link"
	"innertun/tcpinc"
	"innertun/tcpinc/tcpcrypt"
)

// newHost is a TCP/IP stack of this process on a wire.
func newHost(w *link.Wire, addr string) (*stack.Stack, error) {
	return stack.New(stack.Config{
		Link:      w,
		Addresses: []netip.Prefix{netip.MustParsePrefix(addr + "/24")},
		Routes:    []stack.Route{{Prefix: netip.MustParsePrefix("0.0.0.0/0")}},
	})
}

// Two hosts in this process, each with a TCP/IP stack of its own, joined by a path: TCP-ENO is in the SYNs, as on a network.
func Example() {
	path := lab.NewPath(nil)
	defer path.Close()
	a, b := link.NewWire(1500, path.From(lab.A)), link.NewWire(1500, path.From(lab.B))
	path.Connect(a.Inject, b.Inject)
	client, err := newHost(a, "198.18.0.1")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	server, err := newHost(b, "198.18.0.2")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()

	sessions := new(tcpcrypt.SessionCache)
	defer sessions.Close()
	at := netip.MustParseAddrPort("198.18.0.2:80")
	l, err := seam.Listen(server, at, tcpinc.ListenConfig{Config: tcpinc.Config{Sessions: sessions}})
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
			io.WriteString(c, "hello")
			c.Close()
		}
	}()

	own := new(tcpcrypt.SessionCache)
	defer own.Close()
	d := &tcpinc.Dialer{Connect: seam.Connect(client), Config: tcpinc.Config{Sessions: own}}
	for _, o := range []tcpinc.DialOptions{
		{Policy: tcpinc.Require},
		{Policy: tcpinc.Require},
		{Policy: tcpinc.Require, NoResume: true},
		{Policy: tcpinc.Off},
	} {
		c, err := d.Dial(context.Background(), netip.Addr{}, at, o)
		if err != nil {
			fmt.Println(err)
			return
		}
		text, err := io.ReadAll(c)
		s := c.ConnectionState()
		fmt.Printf("%s %v: encrypted %v, resumed %v\n", text, err, s.Encrypted, s.Resumed)
		c.Close()
	}
	l.Close()
	<-ended
	// Output:
	// hello <nil>: encrypted true, resumed false
	// hello <nil>: encrypted true, resumed true
	// hello <nil>: encrypted true, resumed false
	// hello <nil>: encrypted false, resumed false
}
