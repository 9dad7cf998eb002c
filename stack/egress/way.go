package egress

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"innertun/stack/link"
)

// Mode names a way out.
type Mode string

const (
	// Auto is the best way that is built: Packet.
	Auto Mode = "auto"
	// Packet is an AF_PACKET socket on the interface, sharing the host's addresses.
	Packet Mode = "packet"
	// NAT is a second TUN device whose packets the kernel forwards and masquerades.
	NAT Mode = "nat"
)

// ErrNATNotBuilt is the error for a mode that exists in the configuration only.
var ErrNATNotBuilt = errors.New(`egress: mode "nat" is not built yet: use "packet"`)

// Link is what a netstack is attached to.
type Link interface {
	LinkEndpoint() stack.LinkEndpoint
	Close() error
}

// Way is a way out to the physical interface.
type Way interface {
	Mode() Mode
	Link() Link
	Interface() Interface // as last seen
	Ports() []uint16      // those of the Config
	Stats() link.Stats
	// SetTap has see called for each packet that leaves or arrives; nil ends it.
	SetTap(see func(link.Tapped))
	// Watch follows the interface: the link first, then changed, one call at a time. It may be called once.
	Watch(changed func(Interface)) error
	// Close stops watching and closes the link.
	Close() error
}

// Config says which way to open.
type Config struct {
	Mode      Mode     // "": Auto
	Interface string   // "": that of the default route
	Ports     []uint16 // local ports for connections, which no socket of the kernel holds
	Served    []uint16 // ports of listeners
	Logger    *slog.Logger
}

// Open opens a way out in the current network namespace.
func Open(cfg Config) (Way, error) {
	switch cfg.Mode {
	case Auto, Packet, "":
		return openPacket(cfg)
	case NAT:
		return nil, ErrNATNotBuilt
	}
	return nil, fmt.Errorf("egress: mode %q is unknown: use %q, %q or %q", cfg.Mode, Auto, Packet, NAT)
}

// packetWay is the way by AF_PACKET.
type packetWay struct {
	host  *Host
	link  *link.Packet
	ports []uint16
	log   *slog.Logger

	mu      sync.Mutex
	known   Interface
	watcher *Watcher
}

func openPacket(cfg Config) (_ Way, err error) {
	host, err := OpenHost()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			host.Close()
		}
	}()
	name := cfg.Interface
	if name == "" {
		if name, err = host.DefaultInterface(); err != nil {
			return nil, err
		}
	}
	w := &packetWay{host: host, log: cfg.Logger}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	if w.known, err = host.Interface(name); err != nil {
		return nil, err
	}
	if w.ports = cfg.Ports; len(w.ports) == 0 {
		return nil, ErrNoPorts
	}
	w.link, err = link.NewPacket(link.PacketConfig{Interface: name, Ports: w.ports, Served: cfg.Served, Logger: cfg.Logger})
	if err != nil {
		return nil, err
	}
	return w, nil
}

func (w *packetWay) Mode() Mode        { return Packet }
func (w *packetWay) Link() Link        { return w.link }
func (w *packetWay) Ports() []uint16   { return w.ports }
func (w *packetWay) Stats() link.Stats { return w.link.Stats() }

func (w *packetWay) SetTap(see func(link.Tapped)) { w.link.SetTap(see) }

func (w *packetWay) Interface() Interface {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.known
}

func (w *packetWay) Watch(changed func(Interface)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watcher != nil {
		return errors.New("egress: the interface is watched already")
	}
	bound := w.known.Index
	watcher, err := w.host.Watch(w.known, func(i Interface) {
		if i.Index != 0 {
			w.follow(i, &bound)
		}
		w.mu.Lock()
		w.known = i
		w.mu.Unlock()
		if changed != nil {
			changed(i)
		}
	})
	w.watcher = watcher
	return err
}

// follow brings the link in line with the interface; bound is the index the link is bound to.
func (w *packetWay) follow(i Interface, bound *int) {
	w.link.SetMTU(i.MTU)
	w.link.SetMAC(i.MAC)
	if i.Index == *bound {
		return
	}
	if err := w.link.SetIndex(i.Index); err != nil {
		w.log.Error("egress: the interface came back but cannot be used", "interface", i.Name, "err", err)
		return
	}
	*bound = i.Index
}

func (w *packetWay) Close() error {
	w.mu.Lock()
	watcher := w.watcher
	w.mu.Unlock()
	var err error
	if watcher != nil {
		err = watcher.Close()
	}
	err = errors.Join(err, w.link.Close())
	w.host.Close()
	return err
}
