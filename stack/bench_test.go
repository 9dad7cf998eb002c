package stack_test

import (
	"io"
	"net/netip"
	"testing"

	"innertun/stack"
	"innertun/stack/link"
)

// joined is two stacks on a bare wire: what the path of the tests would cost is not in it.
func joined(b *testing.B, mtu int) (client, server *stack.Stack) {
	toServer, toClient := make(chan []byte, 4096), make(chan []byte, 4096)
	send := func(c chan []byte) func([]byte) {
		return func(pkt []byte) {
			select {
			case c <- pkt:
			default:
			}
		}
	}
	cw, sw := link.NewWire(mtu, send(toServer)), link.NewWire(mtu, send(toClient))
	done := make(chan struct{})
	pump := func(from chan []byte, to *link.Wire) {
		for {
			select {
			case pkt := <-from:
				to.Inject(pkt)
			case <-done:
				return
			}
		}
	}
	go pump(toServer, sw)
	go pump(toClient, cw)
	b.Cleanup(func() { close(done) })
	client = newStack(b, stack.Config{Link: cw, Addresses: []netip.Prefix{client4}, Routes: routes})
	server = newStack(b, stack.Config{Link: sw, Addresses: []netip.Prefix{server4}, Routes: routes})
	return client, server
}

func BenchmarkBulk(b *testing.B) {
	for _, mtu := range []int{1500, 65000} {
		b.Run(map[int]string{1500: "MTU1500", 65000: "MTU65000"}[mtu], func(b *testing.B) {
			client, server := joined(b, mtu)
			at := netip.AddrPortFrom(server4.Addr(), 80)
			l, err := server.Listen(at, nil)
			if err != nil {
				b.Fatal(err)
			}
			c, err := client.Dial(b.Context(), stack.Flow{Remote: at}, nil)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			s, err := l.AcceptConn()
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			go s.WriteTo(io.Discard)
			data := make([]byte, 256<<10)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Write(data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkShort(b *testing.B) {
	client, server := joined(b, 1500)
	at := netip.AddrPortFrom(server4.Addr(), 80)
	var hs serverHandshakes
	l, err := server.Listen(at, hs.new)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go serveShort(l, false)
	b.ReportAllocs()
	for b.Loop() {
		c, err := client.Dial(b.Context(), stack.Flow{Remote: at}, clientHandshake())
		if err != nil {
			b.Fatal(err)
		}
		if err := short(c, true); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}
