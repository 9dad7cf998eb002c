package egress

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"innertun/internal/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// space is a network namespace of its own.
type space struct {
	t  testing.TB
	ns netns.NsHandle
}

func newSpace(t testing.TB) *space {
	t.Helper()
	s := &space{t: t}
	onThread(func() {
		ns, err := netns.New()
		check(t, err)
		s.ns = ns
	})
	t.Cleanup(func() { _ = s.ns.Close() })
	return s
}

// onThread runs f on a thread that ends with it, so that f may change the thread's namespace.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the runtime ends the thread
		f()
	}()
	<-done
}

func (s *space) do(f func()) {
	onThread(func() {
		if err := netns.Set(s.ns); err != nil {
			s.t.Error(err)
			return
		}
		f()
	})
}

// ip runs ip(8) in the namespace, one command a line.
func (s *space) ip(lines string) {
	s.t.Helper()
	s.do(func() {
		for l := range strings.Lines(lines) {
			if f := strings.Fields(l); len(f) > 0 {
				if out, err := exec.Command("ip", f...).CombinedOutput(); err != nil {
					s.t.Errorf("ip %s: %v: %s", f, err, out)
				}
			}
		}
	})
}

// ipAtOnce runs the commands in one process.
func (s *space) ipAtOnce(lines string) {
	s.t.Helper()
	s.do(func() {
		c := exec.Command("ip", "-batch", "-")
		c.Stdin = strings.NewReader(lines)
		if out, err := c.CombinedOutput(); err != nil {
			s.t.Errorf("ip: %v: %s", err, out)
		}
	})
}

func (s *space) host() *Host {
	s.t.Helper()
	var h *Host
	s.do(func() {
		var err error
		h, err = OpenHost()
		if err != nil {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(h.Close)
	return h
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const patience = 2 * time.Minute // for what hangs

const world = `
	link add e0 address 02:00:00:00:00:01 mtu 1400 type veth peer name p0
	link set e0 up
	link set p0 up
	addr add 198.18.0.1/24 dev e0
	addr add fd00::1/64 dev e0 nodad
	route add default via 198.18.0.254 dev e0 metric 200
	route add default via 198.18.0.253 dev e0 metric 100
	route add 198.19.0.0/16 via 198.18.0.9 dev e0
	route add blackhole 198.19.9.0/24
	route add 198.19.5.0/24 via 198.18.0.8 dev e0 table 77
	-6 route add default via fe80::99 dev e0
	-6 route add fd00:5::/32 nexthop via fd00::7 dev e0 nexthop via fd00::8 dev e0
`

func TestInterface(t *testing.T) {
	s := newSpace(t)
	h := s.host()
	if _, err := h.DefaultInterface(); !errors.Is(err, ErrNoDefaultRoute) {
		t.Errorf("without routes: %v", err)
	}
	if _, err := h.Interface("e0"); err == nil {
		t.Error("an interface that does not exist was found")
	}
	s.ip(world)
	name, err := h.DefaultInterface()
	if name != "e0" || err != nil {
		t.Errorf("default interface %q, %v", name, err)
	}
	got, err := h.Interface("e0")
	check(t, err)
	got.Routes = slices.DeleteFunc(got.Routes, func(r Route) bool { return r.Prefix.Addr().IsLinkLocalUnicast() })
	want := Interface{
		Name: "e0", Index: got.Index, MTU: 1400, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Up: true,
		Addresses: []netip.Prefix{netip.MustParsePrefix("198.18.0.1/24"), netip.MustParsePrefix("fd00::1/64")},
		Routes: []Route{
			{netip.MustParsePrefix("198.18.0.0/24"), netip.Addr{}},
			{netip.MustParsePrefix("198.19.0.0/16"), netip.MustParseAddr("198.18.0.9")},
			{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("198.18.0.253")},
			{netip.MustParsePrefix("fd00::/64"), netip.Addr{}},
			{netip.MustParsePrefix("fd00:5::/32"), netip.MustParseAddr("fd00::7")},
			{netip.MustParsePrefix("::/0"), netip.MustParseAddr("fe80::99")},
		},
	}
	want.Routes[4].Prefix = want.Routes[4].Prefix.Masked()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestDefaultInterfaceIPv6Only(t *testing.T) {
	s := newSpace(t)
	s.ip(`
		link add e6 type veth peer name p6
		link set e6 up
		link set p6 up
		-6 route add default via fe80::99 dev e6`)
	if name, err := s.host().DefaultInterface(); name != "e6" || err != nil {
		t.Errorf("%q, %v", name, err)
	}
}

func TestWatch(t *testing.T) {
	s := newSpace(t)
	s.ip(world)
	h := s.host()
	known, err := h.Interface("e0")
	check(t, err)
	seen := make(chan Interface, 16)
	var w *Watcher
	s.do(func() { w, err = h.Watch(known, func(i Interface) { seen <- i }) })
	check(t, err)
	next := func(what string, ok func(Interface) bool) {
		t.Helper()
		for {
			select {
			case i := <-seen:
				if ok(i) {
					return
				}
			case <-time.After(patience):
				t.Fatalf("%s: not seen", what)
			}
		}
	}
	s.ip("link set e0 mtu 1300")
	next("MTU", func(i Interface) bool { return i.MTU == 1300 })
	s.ip("addr add 198.18.0.77/24 dev e0")
	next("address", func(i Interface) bool {
		return slices.Contains(i.Addresses, netip.MustParsePrefix("198.18.0.77/24"))
	})
	s.ip("route del default via 198.18.0.253")
	next("route", func(i Interface) bool {
		return slices.Contains(i.Routes, Route{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("198.18.0.254")})
	})
	s.ip("-6 route add fd00:6::/32 via fd00::5")
	next("IPv6 route", func(i Interface) bool {
		return slices.Contains(i.Routes, Route{netip.MustParsePrefix("fd00:6::/32"), netip.MustParseAddr("fd00::5")})
	})
	s.ip("link set e0 address 02:00:00:00:00:09")
	next("MAC address", func(i Interface) bool { return i.MAC.String() == "02:00:00:00:00:09" })
	s.ip("link del e0")
	next("removal", func(i Interface) bool { return i.Index == 0 && i.Name == "e0" })
	check(t, w.Close())
	check(t, w.Close())
}

// A burst of changes is one call, or few.
func TestWatchDebounced(t *testing.T) {
	s := newSpace(t)
	s.ip(world)
	h := s.host()
	known, err := h.Interface("e0")
	check(t, err)
	calls := make(chan Interface, 1000)
	var w *Watcher
	s.do(func() { w, err = h.Watch(known, func(i Interface) { calls <- i }) })
	check(t, err)
	const changes = 60
	var burst strings.Builder
	for i := range changes {
		fmt.Fprintf(&burst, "addr add 198.18.1.%d/32 dev e0\n", i)
	}
	start := time.Now()
	s.ipAtOnce(burst.String())
	n := 0
	for all := false; !all; n++ {
		select {
		case i := <-calls:
			all = len(i.Addresses) == len(known.Addresses)+changes
		case <-time.After(patience):
			t.Fatalf("not all was seen, in %d calls", n)
		}
	}
	took := time.Since(start)
	check(t, w.Close())
	if limit := 2 + int(took/settle); n > limit {
		t.Errorf("%d calls in %v", n, took)
	}
}

// An interface is gone if there is none of its name, not if the kernel's answer could not be had.
func TestWatchErrors(t *testing.T) {
	var answer error
	var calls []Interface
	w := &Watcher{
		ask:     func(string) (Interface, error) { return Interface{}, answer },
		known:   Interface{Name: "e0", Index: 2},
		changed: func(i Interface) { calls = append(calls, i) },
		wake:    make(chan struct{}, 1),
	}
	answer = fmt.Errorf("routes: %w", netlink.ErrDumpInterrupted)
	for range 2 {
		w.look()
	}
	if len(calls) != 0 || len(w.wake) != 1 {
		t.Errorf("interrupted: told %+v, to look again %d times", calls, len(w.wake))
	}
	<-w.wake
	answer = fmt.Errorf("interface: %w", netlink.LinkNotFoundError{})
	for range 2 {
		w.look()
	}
	if len(calls) != 1 || !calls[0].equal(Interface{Name: "e0"}) || len(w.wake) != 0 {
		t.Errorf("gone: told %+v, to look again %d times", calls, len(w.wake))
	}
}

func TestOpen(t *testing.T) {
	s := newSpace(t)
	s.ip(world)
	s.do(func() {
		if _, err := Open(Config{Mode: NAT}); !errors.Is(err, ErrNATNotBuilt) {
			t.Errorf("nat: %v", err)
		}
		if _, err := Open(Config{Mode: "pigeon"}); err == nil {
			t.Error("an unknown mode was accepted")
		}
		if _, err := Open(Config{Interface: "none0"}); err == nil {
			t.Error("an unknown interface was accepted")
		}
		if _, err := Open(Config{}); !errors.Is(err, ErrNoPorts) {
			t.Errorf("no ports: %v", err)
		}
		w, err := Open(Config{Ports: []uint16{61000, 61002}, Served: []uint16{80}})
		if err != nil {
			t.Error(err)
			return
		}
		defer func() {
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		}()
		if w.Mode() != Packet || w.Interface().Name != "e0" || !slices.Equal(w.Ports(), []uint16{61000, 61002}) {
			t.Errorf("%s, %+v, %d ports", w.Mode(), w.Interface(), len(w.Ports()))
		}
		ep := w.Link().LinkEndpoint()
		if ep.MTU() != 1400 || string(ep.LinkAddress()) != "\x02\x00\x00\x00\x00\x01" {
			t.Errorf("MTU %d, MAC %x", ep.MTU(), string(ep.LinkAddress()))
		}
		changed := make(chan Interface, 16)
		if err := w.Watch(func(i Interface) { changed <- i }); err != nil {
			t.Error(err)
			return
		}
		if err := w.Watch(nil); err == nil {
			t.Error("a second Watch was accepted")
		}
		s.ip("link set e0 mtu 1280")
		select {
		case <-changed:
		case <-time.After(patience):
			t.Error("the change was not seen")
		}
		s.ip("link del e0\n" + strings.ReplaceAll(world, "route add blackhole", "route replace blackhole"))
		for back := false; !back; {
			select {
			case i := <-changed:
				back = i.Index != 0 && len(i.Routes) > 5
			case <-time.After(patience):
				t.Error("the interface was not seen again")
				return
			}
		}
		s.ip("link set e0 mtu 1280")
		for seen := false; !seen; { // a route that came late may be told first
			select {
			case i := <-changed:
				seen = i.MTU == 1280
			case <-time.After(patience):
				t.Error("the MTU was not seen")
				return
			}
		}
		if ep.MTU() != 1280 || w.Interface().MTU != 1280 {
			t.Errorf("MTU %d, %d", ep.MTU(), w.Interface().MTU)
		}
	})
}
