package tcpinc_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"innertun/tcpinc"
)

// A client that wants encryption where it is to be had, over a TCP stack that lets a Handshake take part.
func ExampleDialer() {
	n := newNetwork(tcpinc.Config{})
	n.passive = nil // the server is an ordinary one
	d := &tcpinc.Dialer{Connect: n.connect, Paths: &tcpinc.PathMemory{}}
	to := netip.MustParseAddrPort("198.18.0.2:80")

	c, err := d.Dial(context.Background(), netip.Addr{}, to, tcpinc.DialOptions{Policy: tcpinc.Opportunistic})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	fmt.Println(c.ConnectionState().Encrypted, c.ConnectionState().FallbackReason)

	_, err = d.Dial(context.Background(), netip.Addr{}, to, tcpinc.DialOptions{Policy: tcpinc.Require})
	fmt.Println(errors.Is(err, tcpinc.ErrEncryptionRequired), err)
	// Output:
	// false peer-no-eno
	// true 198.18.0.2:80: encryption is required, but not to be had (peer-no-eno)
}
