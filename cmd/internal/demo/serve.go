package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"innertun/cmd/internal/relay"
	"innertun/socks"
)

// serve leads SOCKS5 clients into the world until ctx ends, and prints a line for each connection.
func (w *world) serve(ctx context.Context, port net.Listener, text io.Writer) error {
	pump := relay.New(relay.Config{})
	var mu sync.Mutex // text is written by many clients
	server := &socks.Server{
		Dial: func(ctx context.Context, _, addr string) (net.Conn, error) {
			conn, err := w.dialName(ctx, addr)
			mu.Lock()
			defer mu.Unlock()
			fmt.Fprintf(text, "%s  %s  %s\n", time.Now().Format(time.TimeOnly), addr, outcome(conn, err))
			if err != nil {
				return nil, err
			}
			return conn, nil
		},
		Relay: func(ctx context.Context, client, upstream net.Conn) {
			// What went wrong on the way is told to both ends by a reset: there is nothing to add here.
			_ = pump.Run(ctx, client.(relay.Conn), upstream.(relay.Conn), relay.Observer{})
		},
	}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	err := server.Serve(port)
	server.Close()
	if errors.Is(err, socks.ErrServerClosed) && ctx.Err() != nil {
		return nil
	}
	return err
}

// dialName connects to a host of the world by name or address and port.
func (w *world) dialName(ctx context.Context, addr string) (relay.Conn, error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, err
	}
	ip, err := w.resolve(host)
	if err != nil {
		return nil, err
	}
	return w.dial(ctx, netip.AddrPortFrom(ip, uint16(port)))
}

// outcome says in a few words what became of a connection.
func outcome(c net.Conn, err error) string {
	if err != nil {
		return "failed: " + err.Error()
	}
	state := stateOf(c)
	if !state.encrypted {
		return fmt.Sprintf("plain TCP (%s)", state.reason)
	}
	return fmt.Sprintf("encrypted: %s, %s, %s, session %.16s...", state.tep, state.cipher, state.how(), state.sessionID)
}
