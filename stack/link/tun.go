package link

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// TUNConfig describes a TUN device that exists already.
type TUNConfig struct {
	// File is the device's open file, non-blocking, made with IFF_TUN, IFF_NO_PI and IFF_VNET_HDR. It stays the
	// caller's: close the link first, then the file.
	File   *os.File
	MTU    int          // octets
	Logger *slog.Logger // nil: none
}

// TUN is a link on a TUN device: IP packets in both directions, TCP super-packets whole.
type TUN struct{ e *endpoint }

// NewTUN returns a link on the device. Nothing is read before a netstack attaches.
func NewTUN(cfg TUNConfig) (*TUN, error) {
	if cfg.File == nil {
		return nil, errors.New("link: TUN device has no file")
	}
	e, err := newEndpoint(cfg.File, cfg.MTU, cfg.Logger)
	if err != nil {
		return nil, fmt.Errorf("link: TUN device: %w", err)
	}
	if err := checkTUN(e); err != nil {
		return nil, err
	}
	return &TUN{e: e}, nil
}

// checkTUN makes sure that the device is of the kind this package reads.
func checkTUN(e *endpoint) error {
	var flags uint16
	var size int
	var opErr error
	err := e.raw.Control(func(fd uintptr) {
		var req *unix.Ifreq
		if req, opErr = unix.NewIfreq(""); opErr != nil {
			return
		}
		if opErr = unix.IoctlIfreq(int(fd), unix.TUNGETIFF, req); opErr != nil {
			return
		}
		flags = req.Uint16()
		size, opErr = unix.IoctlGetInt(int(fd), unix.TUNGETVNETHDRSZ)
	})
	if err = errors.Join(err, opErr); err != nil {
		return fmt.Errorf("link: not a TUN device: %w", err)
	}
	// The kernel reports IFF_NO_PI whether or not it was asked for.
	const want = unix.IFF_TUN | unix.IFF_VNET_HDR
	if flags&want != want {
		return fmt.Errorf("link: TUN device has flags %#x: it needs IFF_TUN and IFF_VNET_HDR", flags)
	}
	if size != vnetHeaderLen {
		return fmt.Errorf("link: TUN device has a virtio-net header of %d octets: it needs %d", size, vnetHeaderLen)
	}
	return nil
}

// LinkEndpoint is the netstack's side of the link.
func (t *TUN) LinkEndpoint() stack.LinkEndpoint { return t.e }

// Stats returns what passed so far.
func (t *TUN) Stats() Stats { return t.e.stats.snapshot() }

// Close stops the reader and waits for it. The device's file stays open.
func (t *TUN) Close() error { return t.e.close() }
