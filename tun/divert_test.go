package tun_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"innertun/internal/host"
	"innertun/internal/host/hosttest"
	"innertun/tun"
)

func openJournal(t *testing.T) *host.Journal {
	t.Helper()
	j, err := host.Open(host.Config{Control: filepath.Join(t.TempDir(), "control.sock")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func openDevice(t *testing.T, cfg tun.Config) (*tun.Device, <-chan packet) {
	t.Helper()
	d, err := tun.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	packets := tap(d)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		for range packets {
		}
	})
	return d, packets
}

func setFilter(t *testing.T, value int) {
	t.Helper()
	for _, name := range []string{"all", "default", "eth0"} {
		if err := host.WriteSysctl("net/ipv4/conf/"+name+"/rp_filter", strconv.Itoa(value)); err != nil {
			t.Fatal(err)
		}
	}
}

// dial connects in the background: the socket is made on the test's thread, so in its namespace.
func dial(t *testing.T, to string) <-chan net.Conn {
	t.Helper()
	at := netip.MustParseAddrPort(to)
	family, sockaddr := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(at.Port())})
	if at.Addr().Is4() {
		sockaddr.(*unix.SockaddrInet4).Addr = at.Addr().As4()
	} else {
		family, sockaddr = unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	// Bounds the connect too.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 60}); err != nil {
		t.Fatal(err)
	}
	done := make(chan net.Conn, 1)
	go func() {
		defer close(done)
		if err := unix.Connect(fd, sockaddr); err != nil {
			t.Errorf("connect to %s: %v", to, err)
			unix.Close(fd)
			return
		}
		file := osFile(fd)
		conn, err := net.FileConn(file)
		file.Close()
		if err != nil {
			t.Error(err)
			return
		}
		conn.(*net.TCPConn).SetKeepAlive(false) // what is silent here is silent for good
		done <- conn
	}()
	return done
}

func TestNewConnectionsEnter(t *testing.T) {
	for _, filter := range []int{0, 1} {
		for _, c := range []struct{ to, from string }{{"198.19.5.5:80", hosttest.App4}, {"[fd99::5]:80", hosttest.App6}} {
			t.Run(c.to+" rp_filter="+strconv.Itoa(filter), func(t *testing.T) {
				peer := hosttest.Pair(t)
				setFilter(t, filter)
				onWire := watchWire(t, peer)
				d, packets := openDevice(t, everything(openJournal(t)))
				to := netip.MustParseAddrPort(c.to)

				pending := dial(t, c.to)
				syn := next(t, packets)
				if !syn.tcp.SYN || syn.tcp.ACK || syn.dst != to || syn.src.Addr() != netip.MustParseAddr(c.from) {
					t.Fatalf("not the SYN that was expected:\n%s", syn.text)
				}
				answer(t, d.File(), syn, 1000, syn.tcp.Seq+1, "", "S")
				conn := <-pending
				if conn == nil {
					t.FailNow()
				}
				defer conn.Close()
				if local := conn.LocalAddr().(*net.TCPAddr).AddrPort(); local != syn.src {
					t.Errorf("the application has %v, the SYN %v", local, syn.src)
				}
				if ack := after(t, packets, syn); ack.tcp.SYN || !ack.tcp.ACK || ack.tcp.Ack != 1001 {
					t.Errorf("no acknowledgement:\n%s", ack.text)
				}
				// Much at once comes out whole: the offloads are on. Acknowledged step by step, since a kernel that had to repeat
				// its SYN begins with a single segment.
				if _, err := conn.Write(make([]byte, 10000)); err != nil {
					t.Fatal(err)
				}
				wanted := map[bool]byte{true: unix.VIRTIO_NET_HDR_GSO_TCPV4, false: unix.VIRTIO_NET_HDR_GSO_TCPV6}[to.Addr().Is4()]
				whole := false
				for sent := 0; sent < 10000; {
					data := next(t, packets)
					sent = max(sent, int(data.tcp.Seq-syn.tcp.Seq-1)+len(data.tcp.Payload))
					whole = whole || data.gso == wanted && len(data.tcp.Payload) > 1460
					answer(t, d.File(), syn, 1001, syn.tcp.Seq+1+uint32(sent), "", "")
				}
				if !whole {
					t.Error("no packet larger than a segment")
				}
				answer(t, d.File(), syn, 1001, syn.tcp.Seq+1+10000, "hello", "")
				reply := make([]byte, 5)
				conn.SetReadDeadline(time.Now().Add(30 * time.Second))
				if _, err := io.ReadFull(conn, reply); err != nil || string(reply) != "hello" {
					t.Errorf("the application reads %q, %v", reply, err)
				}
				answer(t, d.File(), syn, 1006, syn.tcp.Seq+1+10000, "", "F")
				if n, err := conn.Read(reply); err != io.EOF {
					t.Errorf("the application reads %d octets, %v", n, err)
				}
				conn.Close()
				if onWire.saw(t, to.Addr()) {
					t.Error("some of it was on the wire")
				}
			})
		}
	}
}

// TestRepliesGoBackAfterConntrackForgets: the kernel's answers to what comes from the device go there even then.
func TestRepliesGoBackAfterConntrackForgets(t *testing.T) {
	for _, to := range []string{"198.19.5.5:80", "[fd99::5]:80"} {
		t.Run(to, func(t *testing.T) {
			peer := hosttest.Pair(t)
			setFilter(t, 1)
			onWire := watchWire(t, peer)
			d, packets := openDevice(t, everything(openJournal(t)))
			pending := dial(t, to)
			syn := next(t, packets)
			answer(t, d.File(), syn, 1000, syn.tcp.Seq+1, "", "S")
			conn := <-pending
			if conn == nil {
				t.FailNow()
			}
			defer conn.Close()
			after(t, packets, syn)
			for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
				if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, everyConnection{}); err != nil {
					t.Fatal(err)
				}
			}
			answer(t, d.File(), syn, 1001, syn.tcp.Seq+1, "hello", "")
			if ack := next(t, packets); ack.tcp.Ack != 1006 {
				t.Errorf("no acknowledgement:\n%s", ack.text)
			}
			if onWire.saw(t, syn.dst.Addr()) {
				t.Error("some of it was on the wire")
			}
		})
	}
}

type everyConnection struct{}

func (everyConnection) MatchConntrackFlow(*netlink.ConntrackFlow) bool { return true }

// TestForeignMarkBits: bits of connection marks that are not ours stay as others set them.
func TestForeignMarkBits(t *testing.T) {
	hosttest.Pair(t)
	hosttest.Run(t, "nft", "add table inet other; add chain inet other out { type filter hook output priority -160; }; "+
		"add rule inet other out ct mark set ct mark or 0x40")
	d, packets := openDevice(t, everything(openJournal(t)))
	pending := dial(t, "198.19.5.5:80")
	syn := next(t, packets)
	answer(t, d.File(), syn, 1000, syn.tcp.Seq+1, "", "S")
	conn := <-pending
	if conn == nil {
		t.FailNow()
	}
	defer conn.Close()
	next(t, packets)
	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	if err != nil || len(flows) != 1 || flows[0].Mark != tun.DefaultMark|0x40 {
		t.Errorf("connections: %v, %v", flows, err)
	}
}

// echo serves one connection after another until its listener is closed.
func echo(t *testing.T, at string) {
	t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(conn, conn)
				conn.Close()
			}()
		}
	}()
	t.Cleanup(func() { l.Close(); <-ended })
}

func pingPong(t *testing.T, what string, conn net.Conn, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	b := make([]byte, 4)
	if _, err := conn.Write([]byte("ping")); err != nil {
		t.Errorf("%s: %v", what, err)
	} else if _, err := io.ReadFull(conn, b); err != nil || string(b) != "ping" {
		t.Errorf("%s: %q, %v", what, b, err)
	}
}

func control(set func(fd int) error) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) (err error) {
		if controlErr := c.Control(func(fd uintptr) { err = set(int(fd)) }); controlErr != nil {
			return controlErr
		}
		return err
	}
}

func TestOthersStayOut(t *testing.T) {
	for _, filter := range []int{0, 1} {
		t.Run("rp_filter="+strconv.Itoa(filter), func(t *testing.T) {
			peer := hosttest.Pair(t)
			setFilter(t, filter)
			// A second interface, as of a container or a VPN.
			hosttest.Run(t, "ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth9")
			peer.Adopt("eth9")
			hosttest.Run(t, "ip", "addr", "add", "198.18.88.1/24", "dev", "eth1")
			hosttest.Run(t, "ip", "link", "set", "eth1", "addrgenmode", "eui64", "up")
			hosttest.Run(t, "ip", "addr", "add", "fe80::1/64", "dev", "eth0", "nodad")
			peer.Do(func() {
				hosttest.Run(t, "ip", "addr", "add", "198.18.88.2/24", "dev", "eth9")
				hosttest.Run(t, "ip", "link", "set", "eth9", "up")
				hosttest.Run(t, "ip", "addr", "add", "198.18.77.9/24", "dev", "eth0")
				hosttest.Run(t, "ip", "addr", "add", "fd77::9/64", "dev", "eth0", "nodad")
				hosttest.Run(t, "ip", "addr", "add", "fe80::2/64", "dev", "eth0", "nodad")
				echo(t, ":7")
			})
			echo(t, ":7")
			var d net.Dialer
			connect := func(what string, d net.Dialer, to string) net.Conn {
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				defer cancel()
				conn, err := d.DialContext(ctx, "tcp", to)
				pingPong(t, what, conn, err)
				if err == nil {
					t.Cleanup(func() { conn.Close() })
				}
				return conn
			}
			// Open before: outgoing and inbound, both families.
			before := []net.Conn{connect("out before", d, "198.18.77.2:7"), connect("out before", d, "[fd77::2]:7")}
			peer.Do(func() {
				before = append(before, connect("in before", d, "198.18.77.1:7"), connect("in before", d, "[fd77::1]:7"))
			})

			cfg := everything(openJournal(t))
			cfg.Excludes = []netip.Prefix{netip.MustParsePrefix("198.18.77.9/32"), netip.MustParsePrefix("fd77::9/128")}
			device, packets := openDevice(t, cfg)
			quiet(t, packets)
			for _, conn := range before {
				pingPong(t, "open before", conn, nil)
			}
			for what, to := range map[string]string{
				"excluded": "198.18.77.9:7", "excluded, IPv6": "[fd77::9]:7", "loopback": "127.0.0.1:7", "loopback, IPv6": "[::1]:7",
				"own address": "198.18.77.1:7", "own address, IPv6": "[fd77::1]:7", "another interface": "198.18.88.2:7", "link-local": "[fe80::2%eth0]:7",
			} {
				connect(what, d, to)
			}
			peer.Do(func() {
				connect("inbound", d, "198.18.77.1:7")
				connect("inbound, IPv6", d, "[fd77::1]:7")
			})
			marked := net.Dialer{Control: control(func(fd int) error {
				return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(device.ExemptMark()))
			})}
			connect("exempt", marked, "198.18.77.2:7")
			connect("exempt, IPv6", marked, "[fd77::2]:7")
			for network, to := range map[string]string{"udp4": "198.18.77.2:9", "udp6": "[fd77::2]:9", "ip4:icmp": "198.18.77.2", "ip6:ipv6-icmp": "fd77::2"} {
				conn, err := d.Dial(network, to)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Write([]byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}); err != nil {
					t.Errorf("%s: %v", network, err)
				}
				conn.Close()
			}
			quiet(t, packets)

			// And what differs in nothing but being new does enter.
			pending := dial(t, "198.18.77.2:7")
			syn := next(t, packets)
			answer(t, device.File(), syn, 0, syn.tcp.Seq+1, "", "S")
			if conn := <-pending; conn != nil {
				conn.Close()
			}
		})
	}
}

func TestSetRoutes(t *testing.T) {
	peer := hosttest.Pair(t)
	peer.Do(func() { echo(t, ":7") })
	cfg := everything(openJournal(t))
	cfg.Routes = []netip.Prefix{netip.MustParsePrefix("198.19.0.0/16")}
	d, packets := openDevice(t, cfg)
	direct := func() {
		t.Helper()
		conn, err := net.DialTimeout("tcp", "198.18.77.2:7", 30*time.Second)
		pingPong(t, "not covered", conn, err)
		if err == nil {
			conn.Close()
		}
		quiet(t, packets)
	}
	direct()
	// More than fit in one message to the kernel.
	var many []netip.Prefix
	for i := range 3000 {
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 2}), 32))
	}
	if err := d.SetRoutes([]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, append(many, netip.MustParsePrefix("198.18.77.0/24"))); err != nil {
		t.Fatal(err)
	}
	direct()
	if err := d.SetRoutes([]netip.Prefix{netip.MustParsePrefix("198.18.77.2/32")}, nil); err != nil {
		t.Fatal(err)
	}
	pending := dial(t, "198.18.77.2:7")
	syn := next(t, packets)
	answer(t, d.File(), syn, 0, syn.tcp.Seq+1, "", "S")
	if conn := <-pending; conn != nil {
		conn.Close()
	}
}
