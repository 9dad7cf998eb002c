package egress

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// States of sock_diag(7), those of the kernel's TCP.
const (
	stateEstablished = 1
	stateListen      = 10
)

// sockets lists the kernel's TCP sockets of both families, in all states.
func (h *Host) sockets() ([]*netlink.Socket, error) {
	var all []*netlink.Socket
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		s, err := list(func() ([]*netlink.Socket, error) { return h.nl.SocketDiagTCP(family) })
		if err != nil {
			return nil, fmt.Errorf("egress: TCP sockets: %w", err)
		}
		all = append(all, s...)
	}
	return all, nil
}

// FreePorts returns the ports from first to last that no TCP socket of the kernel holds, in whatever state.
func (h *Host) FreePorts(first, last uint16) ([]uint16, error) {
	if first == 0 || last < first {
		return nil, fmt.Errorf("egress: %d-%d is no range of ports", first, last)
	}
	all, err := h.sockets()
	if err != nil {
		return nil, err
	}
	held := map[uint16]bool{}
	for _, s := range all {
		held[s.ID.SourcePort] = true
	}
	var free []uint16
	for p := int(first); p <= int(last); p++ {
		if !held[uint16(p)] {
			free = append(free, uint16(p))
		}
	}
	if len(free) == 0 {
		return nil, fmt.Errorf("%w: %d-%d", ErrNoPorts, first, last)
	}
	return free, nil
}

// KernelUse tells what the kernel itself does with a local port.
type KernelUse struct {
	Listening   bool
	Connections int // established ones
}

// KernelListeners tells what taking port over from the kernel would cut off.
func (h *Host) KernelListeners(port uint16) (KernelUse, error) {
	all, err := h.sockets()
	if err != nil {
		return KernelUse{}, err
	}
	var u KernelUse
	for _, s := range all {
		if s.ID.SourcePort != port || s.ID.Source.IsLoopback() {
			continue
		}
		switch s.State {
		case stateListen:
			u.Listening = true
		case stateEstablished:
			u.Connections++
		}
	}
	return u, nil
}
