package main

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"innertun/cmd/internal/relay"
	"innertun/internal/host"
	"innertun/stack"
	"innertun/stack/link"
	"innertun/tun"
)

// plainRelay INTERFACE is what a TUN program without a stack of its own on the wire does: what enters the TUN is relayed
// to sockets of the host.
func plainRelay(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	dir, err := os.MkdirTemp("", "innertun-plainrelay-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	journal, err := host.Open(host.Config{Control: filepath.Join(dir, "control.sock"), Logger: log})
	if err != nil {
		return fail(err)
	}
	defer journal.Close()
	device, err := tun.Open(tun.Config{
		Name: "relay0", Egress: args[0], Journal: journal, Logger: log,
		Routes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")},
	})
	if err != nil {
		return fail(err)
	}
	defer device.Close()
	l, err := link.NewTUN(link.TUNConfig{File: device.File(), MTU: device.MTU(), Logger: log})
	if err != nil {
		return fail(err)
	}
	s, err := stack.New(stack.Config{Link: l, Promiscuous: true, Logger: log})
	if err != nil {
		return fail(err)
	}
	defer s.Close()
	relays := relay.New(relay.Config{})
	dialer := net.Dialer{Timeout: 20 * time.Second, Control: func(_, _ string, c syscall.RawConn) error {
		var serr error
		err := c.Control(func(fd uintptr) {
			serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(device.ExemptMark()))
		})
		if err != nil {
			return err
		}
		return serr
	}}
	err = s.Forward(func(r *stack.Request) {
		out, err := dialer.DialContext(ctx, "tcp", r.Flow().Remote.String())
		if err != nil {
			r.Refuse(err)
			return
		}
		in, err := r.Accept()
		if err != nil {
			out.Close()
			return
		}
		go func() { _ = relays.Run(ctx, in, out.(*net.TCPConn), relay.Observer{}) }()
	})
	if err != nil {
		return fail(err)
	}
	<-ctx.Done()
	return 0
}
