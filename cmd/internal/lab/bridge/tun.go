package bridge

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"innertun/integration/lab"
)

// kind is what an interface is.
type kind uint8

const (
	absent kind = iota
	tun
	ethernet
)

func (k kind) String() string {
	return [...]string{"not there", "a TUN device", "another interface"}[k]
}

const sysNet = "/sys/class/net"

func kindOf(name string) kind {
	if name == "" || filepath.Base(name) != name {
		return absent
	}
	if _, err := os.Stat(filepath.Join(sysNet, name)); err != nil {
		return absent
	}
	if _, err := os.Stat(filepath.Join(sysNet, name, "tun_flags")); err != nil {
		return ethernet
	}
	return tun
}

// tunPort is a TUN device without offload: the kernel cuts large segments and fills in checksums.
type tunPort struct {
	file *os.File
	once sync.Once
	err  error
}

func openTUN(name string, mtu int) (*tunPort, error) {
	made := kindOf(name) == absent
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening /dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err == nil && made {
		err = raise(name, mtu)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("TUN device %s: %w", name, err)
	}
	return &tunPort{file: os.NewFile(uintptr(fd), name)}, nil
}

// raise sets the MTU of a new device and puts it up.
func raise(name string, mtu int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	req.SetUint32(uint32(mtu))
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFMTU, req); err != nil {
		return fmt.Errorf("mtu %d: %w", mtu, err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, req); err != nil {
		return err
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

func (t *tunPort) receive(deliver func(lab.Packet)) error {
	buf := make([]byte, 65536)
	for {
		n, err := t.file.Read(buf)
		if err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return err
		}
		deliver(lab.Packet{Data: slices.Clone(buf[:n])})
	}
}

func (t *tunPort) send(pkt []byte) error {
	_, err := t.file.Write(pkt)
	return err
}

func (t *tunPort) close() error {
	t.once.Do(func() { t.err = t.file.Close() })
	return t.err
}
