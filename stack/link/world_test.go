package link

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// The world of the tests with a real kernel:
//
//	namespace near                                 namespace far
//	 netstack - Packet - near0 ====== veth ====== far0 - kernel's TCP
//	 198.18.0.1, fd00::1 (the kernel's too)       198.18.0.2, fd00::2
const (
	nearV4, farV4 = "198.18.0.1", "198.18.0.2"
	nearV6, farV6 = "fd00::1", "fd00::2"
	firstPort     = 61000
	servedPort    = 7000
)

// space is a network namespace of its own, gone when the test ends.
type space struct {
	t  testing.TB
	ns netns.NsHandle
	nl *netlink.Handle
}

func newSpace(t testing.TB) *space {
	t.Helper()
	s := &space{t: t}
	onThread(t, func() error {
		ns, err := netns.New()
		s.ns = ns
		return err
	})
	t.Cleanup(func() { _ = s.ns.Close() })
	nl, err := netlink.NewHandleAt(s.ns)
	check(t, err)
	t.Cleanup(nl.Close)
	s.nl = nl
	s.do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/tcp_congestion_control", []byte("reno"), 0)
	})
	lo, err := nl.LinkByName("lo")
	check(t, err)
	check(t, nl.LinkSetUp(lo))
	return s
}

// onThread runs f on a thread that ends with it, so that f may change the thread's namespace.
func onThread(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime ends the thread
		done <- f()
	}()
	check(t, <-done)
}

// do runs f in the namespace. Sockets made there stay there.
func (s *space) do(f func() error) {
	s.t.Helper()
	onThread(s.t, func() error {
		if err := netns.Set(s.ns); err != nil {
			return err
		}
		return f()
	})
}

// run runs a command in the namespace.
func (s *space) run(stdin string, argv ...string) {
	s.t.Helper()
	s.do(func() error {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%v: %w: %s", argv, err, out)
		}
		return nil
	})
}

func (s *space) listen(network, addr string) net.Listener {
	s.t.Helper()
	var l net.Listener
	s.do(func() (err error) {
		l, err = net.Listen(network, addr)
		return err
	})
	s.t.Cleanup(func() { _ = l.Close() })
	return l
}

func (s *space) dial(addr string) net.Conn {
	s.t.Helper()
	var c net.Conn
	s.do(func() (err error) {
		c, err = net.Dial("tcp", addr)
		return err
	})
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func noErr(t testing.TB, err tcpip.Error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *space) addAddress(l netlink.Link, prefix string) {
	s.t.Helper()
	a, err := netlink.ParseAddr(prefix)
	check(s.t, err)
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	check(s.t, s.nl.AddrAdd(l, a))
}

// twoSpaces makes the world above, without the netstack.
func twoSpaces(t testing.TB, mtu int) (near, far *space) {
	t.Helper()
	near, far = newSpace(t), newSpace(t)
	linkSpaces(t, near, far, mtu)
	muteKernel(near)
	return near, far
}

// muteKernel keeps the kernel from resetting the netstack's connections.
func muteKernel(near *space) {
	near.t.Helper()
	near.run(fmt.Sprintf(`table netdev own
delete table netdev own
table netdev own {
	chain in {
		type filter hook ingress device near0 priority 0
		tcp dport { %d, %d-65535 } drop
	}
}
`, servedPort, firstPort), "nft", "-f", "-")
}

// linkSpaces joins the two by a pair of interfaces.
func linkSpaces(t testing.TB, near, far *space, mtu int) {
	t.Helper()
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: "near0", MTU: mtu},
		PeerName:      "far0",
		PeerMTU:       uint32(mtu),
		PeerNamespace: netlink.NsFd(far.ns),
	}
	check(t, near.nl.LinkAdd(veth))
	for _, e := range []struct {
		s        *space
		name     string
		prefixes []string
	}{
		{near, "near0", []string{nearV4 + "/24", nearV6 + "/64"}},
		{far, "far0", []string{farV4 + "/24", farV6 + "/64"}},
	} {
		l, err := e.s.nl.LinkByName(e.name)
		check(t, err)
		check(t, e.s.nl.LinkSetUp(l))
		for _, p := range e.prefixes {
			e.s.addAddress(l, p)
		}
	}
	near.awaitUp("near0")
	far.awaitUp("far0")
}

// awaitUp waits until the kernel has noticed that the link is there: until then it drops in silence what is sent.
func (s *space) awaitUp(name string) {
	s.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		l, err := s.nl.LinkByName(name)
		check(s.t, err)
		if l.Attrs().OperState == netlink.OperUp {
			// The queue follows the state within one hold of the kernel's lock, which this takes too.
			check(s.t, s.nl.LinkSetUp(l))
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("%s is %v", name, l.Attrs().OperState)
		}
	}
}

func ownPorts() []uint16 {
	var p []uint16
	for i := firstPort; i <= 65535; i++ {
		p = append(p, uint16(i))
	}
	return p
}

func openNear(t testing.TB, near *space) *Packet {
	t.Helper()
	var p *Packet
	near.do(func() (err error) {
		p, err = NewPacket(PacketConfig{Interface: "near0", Ports: ownPorts(), Served: []uint16{servedPort}})
		return err
	})
	t.Cleanup(func() { check(t, p.Close()) })
	return p
}

// newNetstack attaches a netstack to the link, with the prefixes as its addresses.
func newNetstack(t testing.TB, ep stack.LinkEndpoint, prefixes ...string) *stack.Stack {
	t.Helper()
	noDAD := func(s *stack.Stack) stack.NetworkProtocol {
		return ipv6.NewProtocolWithOptions(ipv6.Options{MLD: ipv6.MLDOptions{Enabled: false}})(s)
	}
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, noDAD, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	t.Cleanup(func() {
		s.Close()
		s.Wait()
	})
	sack := tcpip.TCPSACKEnabled(true)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	cubic := tcpip.CongestionControlOption("cubic")
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4096, Default: 1 << 20, Max: 16 << 20}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: 4096, Default: 1 << 20, Max: 16 << 20}
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &cubic, &receive, &send} {
		noErr(t, s.SetTransportProtocolOption(tcp.ProtocolNumber, o))
	}
	noErr(t, s.CreateNIC(1, ep))
	for _, p := range prefixes {
		prefix := netip.MustParsePrefix(p)
		proto := header.IPv6ProtocolNumber
		if prefix.Addr().Is4() {
			proto = header.IPv4ProtocolNumber
		}
		noErr(t, s.AddProtocolAddress(1, tcpip.ProtocolAddress{
			Protocol: proto,
			AddressWithPrefix: tcpip.AddressWithPrefix{
				Address:   tcpip.AddrFromSlice(prefix.Addr().AsSlice()),
				PrefixLen: prefix.Bits(),
			},
		}, stack.AddressProperties{}))
	}
	s.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: 1},
		{Destination: header.IPv6EmptySubnet, NIC: 1},
	})
	return s
}

func fullAddr(a netip.AddrPort) (tcpip.FullAddress, tcpip.NetworkProtocolNumber) {
	f := tcpip.FullAddress{NIC: 1, Port: a.Port()}
	if a.Addr().IsValid() && !a.Addr().IsUnspecified() {
		f.Addr = tcpip.AddrFromSlice(a.Addr().AsSlice())
	}
	if a.Addr().Is4() {
		return f, header.IPv4ProtocolNumber
	}
	return f, header.IPv6ProtocolNumber
}

func dialFrom(t testing.TB, s *stack.Stack, port uint16, to string) *gonet.TCPConn {
	t.Helper()
	remote, proto := fullAddr(netip.MustParseAddrPort(to))
	c, err := gonet.DialTCPWithBind(context.Background(), s, tcpip.FullAddress{NIC: 1, Port: port}, remote, proto)
	check(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func listenAt(t testing.TB, s *stack.Stack, at string) *gonet.TCPListener {
	t.Helper()
	a, proto := fullAddr(netip.MustParseAddrPort(at))
	l, err := gonet.ListenTCP(s, a, proto)
	check(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}
