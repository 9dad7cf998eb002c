package tun

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"

	wgtun "golang.zx2c4.com/wireguard/tun"

	"innertun/internal/host"
)

// Device is a TUN device that is up and has connections diverted into it.
type Device struct {
	cfg     Config
	mu      sync.Mutex
	changes []*host.Change // in the order they were made
	device  *watched
	marks   *host.MarkTable
}

// Open makes the device and diverts connections into it. It must be called, and the device closed, in the network
// namespace of the journal. Errors: [ErrConfig], [*host.TableError], and those of the system.
func Open(cfg Config) (*Device, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	d := &Device{cfg: cfg}
	for _, step := range []func() error{d.checkHost, d.addGuard, d.makeDevice, d.bringUp, d.addRules, d.makeMarks, d.divert} {
		if err := step(); err != nil {
			return nil, errors.Join(err, d.Close())
		}
	}
	return d, nil
}

// addGuard comes first, and so goes last: there is no moment when a marked connection could leave elsewhere.
func (d *Device) addGuard() error {
	change, err := d.cfg.Journal.AddGuard(host.Guard{TUN: d.cfg.Name, Mark: d.cfg.Mark, Mask: d.cfg.MarkMask})
	return d.keep(change, err)
}

func (d *Device) makeDevice() error {
	change, err := d.cfg.Journal.Hold(host.KindTUN, d.cfg.Name, func() (io.Closer, error) {
		w, err := watch(d.cfg.Name, d.cfg.MTU)
		d.device = w
		if err != nil {
			return nil, err
		}
		return w, nil
	})
	return d.keep(change, err)
}

// makeMarks comes after the routes and the rules, so that no marked packet finds no way, and so goes before them.
func (d *Device) makeMarks() error {
	change, err := d.cfg.Journal.Hold(host.KindTable, "inet innertun", func() (io.Closer, error) {
		t, err := host.NewMarkTable(host.MarkConfig{Egress: d.cfg.Egress, TUN: d.cfg.Name, Mark: d.cfg.Mark, Mask: d.cfg.MarkMask})
		if err != nil {
			return nil, err
		}
		d.marks = t
		return t, nil
	})
	return d.keep(change, err)
}

func (d *Device) addRules() error {
	for _, family := range d.families() {
		rule := host.Rule{Family: family, Priority: d.cfg.Priority, Mark: d.cfg.Mark, Mask: d.cfg.MarkMask, Table: d.cfg.Table}
		change, err := d.cfg.Journal.AddRule(rule)
		if err := d.keep(change, err); err != nil {
			return err
		}
	}
	return nil
}

// divert comes last: from here on connections enter.
func (d *Device) divert() error {
	if err := d.SetRoutes(d.cfg.Routes, d.cfg.Excludes); err != nil {
		return err
	}
	d.cfg.Logger.Info("diverting new TCP connections", "tun", d.cfg.Name, "egress", d.cfg.Egress, "routes", d.cfg.Routes, "exclude", d.cfg.Excludes)
	return nil
}

func (d *Device) keep(change *host.Change, err error) error {
	if err != nil {
		return fmt.Errorf("tun %s: %w", d.cfg.Name, err)
	}
	d.changes = append(d.changes, change)
	return nil
}

// SetRoutes replaces the destinations whose new connections are diverted. Those that are open stay where they are.
func (d *Device) SetRoutes(routes, excludes []netip.Prefix) error {
	if err := checkPrefixes(routes, excludes); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.marks == nil {
		return os.ErrClosed
	}
	return d.marks.Set(routes, excludes)
}

// File is the device's file: non-blocking, with a virtio_net_hdr of 10 octets before every packet (IFF_VNET_HDR), TSO and
// checksum offload on, so that a read returns up to 10 + 65,535 octets. Use SyscallConn for calls of your own; Fd would
// take it off the poller. It belongs to the device: reads end with os.ErrClosed when the device is closed.
func (d *Device) File() *os.File { return d.device.file }

// Name is the interface's name.
func (d *Device) Name() string { return d.cfg.Name }

// MTU is the interface's MTU, in octets.
func (d *Device) MTU() int { return d.cfg.MTU }

// ExemptMark is the mark (SO_MARK) for the process's own kernel sockets, whose connections are then not diverted.
func (d *Device) ExemptMark() uint32 { return d.cfg.MarkMask &^ d.cfg.Mark }

// Close stops diverting and removes the device and all that was changed for it. Connections that were diverted are cut
// off: end them first. A second call does nothing.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.marks = nil
	var errs error
	for len(d.changes) > 0 {
		last := len(d.changes) - 1
		errs = errors.Join(errs, d.changes[last].Undo())
		d.changes = d.changes[:last]
	}
	return errs
}

// watched is the library's device with someone who listens to its events: its own goroutines block on them otherwise, and
// would never end.
type watched struct {
	device  wgtun.Device
	file    *os.File
	drained chan struct{}
}

func watch(name string, mtu int) (*watched, error) {
	device, err := wgtun.CreateTUN(name, mtu)
	if err != nil {
		return nil, fmt.Errorf("make the device: %w", err)
	}
	w := &watched{device: device, file: device.File(), drained: make(chan struct{})}
	go func() {
		defer close(w.drained)
		for range device.Events() {
		}
	}()
	return w, nil
}

// Close returns when the goroutines have ended.
func (w *watched) Close() error {
	err := w.device.Close()
	<-w.drained
	return err
}
