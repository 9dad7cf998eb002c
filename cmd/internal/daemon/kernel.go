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
	if err := inline("", "", c); err != nil || k.mark == 0 {
		return err
	}
	return setOption(c, unix.SO_MARK, int(k.mark))
}

// inline has a socket deliver urgent octets in their place in the stream. Without it the kernel keeps each of them for a
// reader of its own, and to a relay it would be lost. Accepted connections take it over from their listener.
func inline(_, _ string, c syscall.RawConn) error { return setOption(c, unix.SO_OOBINLINE, 1) }

func setOption(c syscall.RawConn, option, value int) error {
	var opErr error
	err := c.Control(func(fd uintptr) { opErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, value) })
	if err != nil {
		return err
	}
	return opErr
}
