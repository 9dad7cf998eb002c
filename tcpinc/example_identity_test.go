package tcpinc_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"innertun/tcpinc"
	"innertun/tcpinc/identity"
)

// A client that insists on the server's key, and a server that has another one.
func ExampleAuthenticator() {
	cfg := tcpinc.Config{Identity: key(2)}
	n := newNetwork(cfg)
	l, err := tcpinc.Listen(tcpinc.ListenConfig{Config: cfg, Accept: n.next, Close: n.end})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer l.Close()
	d := &tcpinc.Dialer{Connect: n.connect, Config: tcpinc.Config{Identity: key(1)}}
	to := netip.MustParseAddrPort("198.18.0.2:80")

	c, err := d.Dial(context.Background(), netip.Addr{}, to, tcpinc.DialOptions{Auth: identity.Pinned{public(2): "web"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Abort()
	fmt.Println(c.ConnectionState().PeerIdentity)

	_, err = d.Dial(context.Background(), netip.Addr{}, to, tcpinc.DialOptions{Auth: identity.Pinned{public(3): "web"}})
	var unknown *identity.UnknownKeyError
	fmt.Println(errors.Is(err, tcpinc.ErrPeerIdentity), errors.As(err, &unknown) && unknown.Key == public(2))
	// Output:
	// web
	// true true
}
