package tcpinc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"innertun/tcpinc"
	"innertun/tcpinc/innerspace"
)

// Options beside the data, one of them an option of the TCP header, and the reason of an abort. Both hosts speak Inner Space.
func ExampleConn_SendOption() {
	cfg := tcpinc.Config{InnerSpace: tcpinc.InnerSpaceAuto}
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
	defer l.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c, err := l.AcceptConn()
		if err != nil {
			return
		}
		io.ReadFull(c, make([]byte, len("one two")))
		for r := range c.Options() {
			if o, ok := r.Outer(); ok {
				fmt.Printf("behind octet %d: option kind %d of the header, %x\n", r.Position, o.Kind(), o.Data())
			} else {
				fmt.Printf("behind octet %d: option kind %d\n", r.Position, r.Option.Kind())
			}
		}
		c.AbortWith(innerspace.CloseReason{Code: innerspace.CloseRefused, Text: "closed on Mondays"})
	}()

	d := tcpinc.Dialer{Connect: connect, Config: cfg}
	c, err := d.Dial(context.Background(), netip.Addr{}, netip.MustParseAddrPort(l.Addr().String()), tcpinc.DialOptions{Policy: tcpinc.Require})
	if err != nil {
		fmt.Println(err)
		return
	}
	c.SendOption(innerspace.Option{77, 2})
	c.Write([]byte("one "))
	c.SendOuterOption(28, []byte{0x80, 5}) // User Timeout, RFC 5482
	c.Write([]byte("two"))
	_, err = c.Read(make([]byte, 1))
	<-ended
	var closed *tcpinc.CloseError
	if errors.As(err, &closed) {
		fmt.Println(closed.Reason)
	}
	// Output:
	// behind octet 0: option kind 77
	// behind octet 4: option kind 28 of the header, 8005
	// refused: closed on Mondays
}
