package daemon

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"innertun/cmd/internal/config"
	"innertun/cmd/internal/control"
	"innertun/internal/host"
	"innertun/stack"
	"innertun/stack/egress"
)

// wire is the way out: the netstack on the physical interface and what the host must hold still for it.
type wire struct {
	log     *slog.Logger
	name    string
	journal *host.Journal
	way     egress.Way
	stack   *stack.Stack
	routes  *netlink.Handle
	network network
	index   atomic.Int64
	link    atomic.Value // string: a Link of package control
	undo    []step
}

// openWire makes the way out. The order matters: the ports are reserved before it is asked which are free, and the kernel
// is kept from them before the first packet can leave.
func openWire(cfg *config.Config, log *slog.Logger) (w *wire, err error) {
	w = &wire{log: log}
	defer func() {
		if err != nil {
			err = errors.Join(advised(err), w.close())
		}
	}()
	if w.journal, err = host.Open(host.Config{Control: cfg.Control.Socket, Logger: log}); err != nil {
		return w, err
	}
	w.later("changes on the host", w.journal.Close)
	if w.routes, err = netlink.NewHandle(); err != nil {
		return w, fmt.Errorf("netlink: %w", err)
	}
	w.later("route look-ups", func() error { w.routes.Close(); return nil })
	ports := host.NewPorts(host.PortRange{First: cfg.Egress.Ports.Low, Last: cfg.Egress.Ports.High})
	if _, err = w.journal.ReservePorts(ports); err != nil {
		return w, err
	}
	held, err := host.HeldPorts(ports)
	if err != nil {
		return w, err
	}
	ports = ports.Without(held)
	served, servedPorts := servedAddresses(cfg.Serve)
	w.way, err = egress.Open(egress.Config{
		Mode: egress.Mode(cfg.Egress.Mode), Interface: cfg.Egress.Interface,
		Ports: ports.List(), Served: servedPorts, Logger: log,
	})
	if err != nil {
		return w, err
	}
	look := w.way.Interface()
	w.name = look.Name
	w.index.Store(int64(look.Index))
	w.link.Store(linkState(look))
	if err = usable(look); err != nil {
		return w, errors.Join(err, w.way.Close())
	}
	if err = w.tellTakeover(served, look.Addresses); err != nil {
		return w, errors.Join(err, w.way.Close())
	}
	if err = w.dropKernels(ports, served); err != nil {
		return w, errors.Join(err, w.way.Close())
	}
	w.stack, err = stack.New(stack.Config{
		Link: w.way.Link(), Addresses: look.Addresses, Routes: stackRoutes(look.Routes), Ports: w.way.Ports(), Logger: log,
	})
	if err != nil {
		return w, errors.Join(err, w.way.Close())
	}
	// The link belongs to the stack; to close it twice does no harm.
	w.later("way out", func() error { return errors.Join(w.stack.Close(), w.way.Close()) })
	w.network.nl = w.routes
	w.lookNetwork(look)
	return w, w.way.Watch(w.changed)
}

func (w *wire) later(name string, do func() error) { w.undo = append(w.undo, step{name, do}) }

func (w *wire) close() error { return undoAll(w.undo) }

func servedAddresses(serve []config.Serve) (at []netip.AddrPort, ports []uint16) {
	for _, s := range serve {
		at = append(at, bothFamilies(s.Listen)...)
		ports = append(ports, s.Listen.Port())
	}
	return at, ports
}

// usable says what is missing for connections to leave by the interface.
func usable(i egress.Interface) error {
	switch linkState(i) {
	case control.LinkDown:
		return fmt.Errorf("interface %s is down: bring it up first", i.Name)
	case control.LinkNoAddress:
		return fmt.Errorf("interface %s has no address: give it one first, or name another with -i", i.Name)
	}
	return nil
}

func linkState(i egress.Interface) string {
	switch {
	case i.Index == 0:
		return control.LinkGone
	case !i.Up:
		return control.LinkDown
	case len(i.Addresses) == 0:
		return control.LinkNoAddress
	}
	return control.LinkUp
}

// state is what the interface is now, for status.
func (w *wire) state() string { return w.link.Load().(string) }

// tellTakeover says what the kernel loses to a served port; have are the addresses of the interface.
func (w *wire) tellTakeover(served []netip.AddrPort, have []netip.Prefix) error {
	for _, at := range served {
		use, err := host.KernelUse(at)
		if err != nil {
			return err
		}
		if a := at.Addr(); !a.IsUnspecified() && !slices.ContainsFunc(have, func(p netip.Prefix) bool { return p.Addr() == a }) {
			w.log.Warn("nothing will arrive at this port: its address is none of the interface's", "at", at, "interface", w.name, "addresses", have)
			continue
		}
		if use.Listening || use.Connections > 0 {
			w.log.Warn("taking this port over from the kernel on the interface; its open connections are cut",
				"at", at, "interface", w.name, "connections", use.Connections)
		}
	}
	return nil
}

// dropKernels keeps the kernel's TCP from answering what is ours.
func (w *wire) dropKernels(ports host.Ports, served []netip.AddrPort) error {
	_, err := w.journal.Hold(host.KindTable, "netdev innertun", func() (io.Closer, error) {
		t, err := host.NewDropTable(w.name)
		if err != nil {
			return nil, err
		}
		if err := t.Set(ports, served); err != nil {
			return nil, errors.Join(err, t.Close())
		}
		return t, nil
	})
	return err
}

// changed follows the interface.
func (w *wire) changed(i egress.Interface) {
	w.link.Store(linkState(i))
	if i.Index == 0 {
		w.log.Error("the interface is gone: no connection can be made until it is back; start innertun again then", "interface", w.name)
		return
	}
	if w.index.Swap(int64(i.Index)) != int64(i.Index) {
		w.log.Warn("the interface is back as another device: it is followed, but the kernel may reset connections until innertun is started again",
			"interface", w.name)
	}
	w.log.Info("the interface has changed", "interface", i.Name, "up", i.Up, "mtu", i.MTU, "addresses", i.Addresses)
	if err := errors.Join(w.stack.SetAddresses(i.Addresses), w.stack.SetRoutes(stackRoutes(i.Routes))); err != nil {
		w.log.Error("cannot follow the change of the interface", "interface", i.Name, "err", err)
	}
	// Another device, another MAC address of its own, a link that was down: the neighbours may be others too.
	w.stack.ForgetNeighbors()
	w.lookNetwork(i)
}

func (w *wire) lookNetwork(i egress.Interface) {
	w.network.look(i)
	w.log.Debug("on this network", "ipv4", w.network.leadingTo(netip.IPv4Unspecified()), "ipv6", w.network.leadingTo(netip.IPv6Unspecified()))
}

func stackRoutes(routes []egress.Route) []stack.Route {
	out := make([]stack.Route, len(routes))
	for i, r := range routes {
		out[i] = stack.Route(r)
	}
	return out
}

// place is where the host's routes lead to.
type place int

const (
	onWire         place = iota // out by the egress interface
	thisHost                    // loopback, or an address of the host's own
	otherInterface              // out by another interface: a container's, a VPN's
)

// where asks the kernel's routes about an address.
func (w *wire) where(a netip.Addr) place {
	if a.IsLoopback() || a.IsUnspecified() {
		return thisHost
	}
	routes, err := w.routes.RouteGet(net.IP(a.AsSlice()))
	switch {
	case err != nil || len(routes) == 0:
		return onWire // the netstack will say that it is unreachable
	case routes[0].Type == unix.RTN_LOCAL:
		return thisHost
	case int64(routes[0].LinkIndex) != w.index.Load():
		return otherInterface
	}
	return onWire
}
