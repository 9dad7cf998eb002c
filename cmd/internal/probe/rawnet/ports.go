package rawnet

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"

	"golang.org/x/sys/unix"

	"innertun/internal/host"
)

const (
	// Ports are taken in one block, so that a filter can tell them by two comparisons.
	blockLen   = 256
	leastPorts = 64
	lowest     = 20000
	highest    = 61000 // where a daemon's begin, unless it is configured otherwise
	blockTries = 20
)

// ErrPorts is the error when too few ports are free.
var ErrPorts = errors.New("no block of free local ports was found")

// heldPorts are ports that sockets of our own keep everybody else in this network namespace from.
type heldPorts struct {
	list    []uint16
	sockets []int
}

// holdPorts takes the ports of a block that are free: no socket of the kernel has them, and none is reserved, as a daemon's
// are.
func holdPorts() (*heldPorts, error) {
	reserved, err := reservedPorts()
	if err != nil {
		return nil, err
	}
	for range blockTries {
		first := uint16(lowest + rand.IntN(highest-lowest-blockLen))
		h := &heldPorts{}
		for port := first; port < first+blockLen; port++ {
			if !reserved.Contains(port) {
				if err := h.hold(port); err != nil {
					h.close()
					return nil, err
				}
			}
		}
		if len(h.list) >= leastPorts {
			return h, nil
		}
		h.close()
	}
	return nil, ErrPorts
}

func reservedPorts() (host.Ports, error) {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_reserved_ports")
	if err != nil {
		return nil, err
	}
	return host.ParsePorts(string(b))
}

// hold takes a port for both families. One that is in use is left out.
func (h *heldPorts) hold(port uint16) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	var at unix.Sockaddr = &unix.SockaddrInet6{Port: int(port)}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	} else if errors.Is(err, unix.EAFNOSUPPORT) {
		at = &unix.SockaddrInet4{Port: int(port)}
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	}
	if err == nil {
		err = unix.Bind(fd, at)
	}
	switch {
	case err == nil:
		h.list, h.sockets = append(h.list, port), append(h.sockets, fd)
		return nil
	case fd >= 0:
		_ = unix.Close(fd)
	}
	if errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EACCES) {
		return nil
	}
	return fmt.Errorf("local port %d: %w", port, err)
}

func (h *heldPorts) ranges() host.Ports {
	var all []host.PortRange
	for _, p := range h.list {
		all = append(all, host.PortRange{First: p, Last: p})
	}
	return host.NewPorts(all...)
}

func (h *heldPorts) close() {
	for _, fd := range h.sockets {
		_ = unix.Close(fd)
	}
	h.sockets = nil
}
