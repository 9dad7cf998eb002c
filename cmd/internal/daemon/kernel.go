package daemon

import (
	"context"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// kernelDialer opens connections by the host's own TCP. They carry a mark that keeps them out of the TUN.
type kernelDialer struct{ mark uint32 }

func (k kernelDialer) dial(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	d := net.Dialer{Control: k.control}
	conn, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

func (k kernelDialer) control(_, _ string, c syscall.RawConn) error {
	if k.mark == 0 {
		return nil
	}
	var opErr error
	err := c.Control(func(fd uintptr) { opErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(k.mark)) })
	if err != nil {
		return err
	}
	return opErr
}
