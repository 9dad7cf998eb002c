package socks

import (
	"context"
	"io"
	"net"
	"sync"
)

// simpleRelay moves octets both ways. A clean end of one side is passed on as such; an error ends both.
func simpleRelay(ctx context.Context, client, upstream net.Conn) {
	closeBoth := func() {
		client.Close()
		upstream.Close()
	}
	defer closeBoth()
	stop := context.AfterFunc(ctx, closeBoth)
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { oneWay(upstream, client, closeBoth) })
	oneWay(client, upstream, closeBoth)
	wg.Wait()
}

func oneWay(dst, src net.Conn, fail func()) {
	_, err := io.Copy(dst, src)
	c, ok := dst.(interface{ CloseWrite() error })
	if err != nil || !ok || c.CloseWrite() != nil {
		fail()
	}
}
