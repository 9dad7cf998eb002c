package tun_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"innertun/internal/host"
	"innertun/internal/host/hosttest"
	"innertun/tun"
)

// killedWorld is a host whose connections to a destination were diverted by a process that was killed. The true
// destination is at the other end of the cable, and echoes.
type killedWorld struct {
	to      netip.AddrPort
	control string
	onWire  wire
	kill    func()
	other   net.Conn // open before, so not diverted
}

func peerAddress(to netip.AddrPort) string {
	if to.Addr().Is4() {
		return net.JoinHostPort(hosttest.Peer4, "80")
	}
	return net.JoinHostPort(hosttest.Peer6, "80")
}

var destinations = map[string]struct{ to, from string }{
	"IPv4": {"198.19.5.5:80", hosttest.App4},
	"IPv6": {"[fd99::5]:80", hosttest.App6},
}

func newKilledWorld(t *testing.T, to string) (w killedWorld, before hosttest.Picture) {
	t.Helper()
	peer := hosttest.Pair(t)
	w.to = netip.MustParseAddrPort(to)
	peer.Do(func() {
		hosttest.Run(t, "ip", "addr", "add", netip.PrefixFrom(w.to.Addr(), w.to.Addr().BitLen()).String(), "dev", "lo")
		echo(t, ":80")
	})
	before = hosttest.Look(t)
	w.control = filepath.Join(t.TempDir(), "run", "control.sock")
	w.onWire = watchWire(t, peer)
	// A port that the kernel does not choose: it would give it to a connection to another destination, too, and a test
	// binds to that one's.
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{Port: 20000}}).Dial("tcp", peerAddress(w.to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	w.other = conn
	w.kill = startChild(t, w.control)
	return w, before
}

func (w killedWorld) connect(t *testing.T) net.Conn {
	t.Helper()
	conn := <-dial(t, w.to.String())
	if conn == nil {
		t.FailNow()
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (w killedWorld) nothingOnWire(t *testing.T, when string) {
	t.Helper()
	for _, p := range w.onWire.segments(t, w.to.Addr()) {
		t.Errorf("%s, on the wire:\n%s", when, p.text)
	}
}

// endsWith awaits the end of a connection by one of these errors.
func endsWith(t *testing.T, what string, conn net.Conn, want ...error) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	n, err := conn.Read(make([]byte, 1))
	if n != 0 || !slices.ContainsFunc(want, func(e error) bool { return errors.Is(err, e) }) {
		t.Errorf("%s: read %d octets, %v, not %v", what, n, err, want)
	}
}

func write(t *testing.T, conn net.Conn, n int) {
	t.Helper()
	if _, err := conn.Write([]byte(strings.Repeat("secret", n))); err != nil {
		t.Fatal(err)
	}
}

// TestKilledWithConnectionsOpen: nothing of what was diverted is seen on the wire, and its programs are told.
func TestKilledWithConnectionsOpen(t *testing.T) {
	for name, c := range destinations {
		t.Run(name, func(t *testing.T) {
			w, before := newKilledWorld(t, c.to)
			pending, full, idle, silent := w.connect(t), w.connect(t), w.connect(t), w.connect(t)
			half := netip.AddrPortFrom(w.to.Addr(), 81) // nobody answers this one
			held := connectError(t, half)
			write(t, pending, 1)
			write(t, full, 5000)
			time.Sleep(50 * time.Millisecond)
			w.nothingOnWire(t, "before")
			repeated := repetitions(t, idle) // of its SYN, if the answer took long
			w.kill()
			write(t, idle, 1)
			endsWith(t, "idle until then", idle, unix.ECONNRESET)
			if n := repetitions(t, idle) - repeated; n != 0 {
				t.Errorf("a write after the death failed after %d repetitions", n)
			}
			endsWith(t, "unacknowledged data", pending, unix.ECONNRESET)
			endsWith(t, "much unacknowledged data", full, unix.ECONNRESET)
			if err := <-held; !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("held SYN: %v", err)
			}
			w.nothingOnWire(t, "after kill -9")
			pingPong(t, "not diverted, after kill -9", w.other, nil)

			// What is new goes out by the kernel, on the ports of an old one too, and again.
			port := idle.LocalAddr().(*net.TCPAddr).Port
			for i, from := range []int{0, port, port} {
				d := net.Dialer{
					Timeout: 30 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(c.from), Port: from},
					Control: control(func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }),
				}
				conn, err := d.Dial("tcp", w.to.String())
				pingPong(t, fmt.Sprint("new connection ", i), conn, err)
				if err == nil {
					conn.(*net.TCPConn).SetLinger(0)
					conn.Close()
				}
			}
			if !w.onWire.saw(t, w.to.Addr()) {
				t.Error("the new connections were not on the wire")
			}

			// The undo ends what was left, before the guard goes.
			undone, err := host.Clean(host.Config{Control: w.control})
			if err != nil || len(undone) == 0 || undone[len(undone)-1].Kind != host.KindGuard {
				t.Errorf("undone, last first: %+v, %v", undone, err)
			}
			endsWith(t, "silent until the undo", silent, unix.ECONNABORTED)
			w.nothingOnWire(t, "after the undo")
			pingPong(t, "not diverted, after the undo", w.other, nil)
			hosttest.Same(t, before)
			family := netlink.InetFamily(unix.AF_INET)
			if w.to.Addr().Is6() {
				family = unix.AF_INET6
			}
			flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
			if err != nil {
				t.Fatal(err)
			}
			for _, flow := range flows {
				if flow.Mark != 0 {
					t.Errorf("a mark is left: %s", flow)
				}
			}
		})
	}
}

// connectError begins to connect, and returns once the SYN has left.
func connectError(t *testing.T, to netip.AddrPort) <-chan error {
	t.Helper()
	family, sockaddr := unix.AF_INET, unix.Sockaddr(nil)
	if to.Addr().Is4() {
		sockaddr = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	} else {
		family, sockaddr = unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, sockaddr); err != unix.EINPROGRESS {
		t.Fatalf("connect to %v: %v", to, err)
	}
	done := make(chan error, 1)
	go func() {
		defer unix.Close(fd)
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		for end := time.Now().Add(time.Minute); fds[0].Revents == 0 && time.Now().Before(end); {
			if _, err := unix.Poll(fds, 1000); err != nil && err != unix.EINTR {
				done <- err
				return
			}
		}
		if fds[0].Revents == 0 {
			done <- unix.ETIMEDOUT
			return
		}
		code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = unix.Errno(code)
		}
		done <- err
	}()
	return done
}

// repetitions is how many segments of a connection were sent again.
func repetitions(t *testing.T, conn net.Conn) (n uint32) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := control(func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			n = info.Total_retrans
		}
		return err
	})("", "", raw); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestKilledWithoutGuard is what the guard is for, and whether the tests would see it.
func TestKilledWithoutGuard(t *testing.T) {
	for name, c := range destinations {
		t.Run(name, func(t *testing.T) {
			w, before := newKilledWorld(t, c.to)
			conn := w.connect(t)
			w.kill()
			hosttest.Run(t, "nft", "delete table inet innertun_guard")
			write(t, conn, 1)
			endsWith(t, "reset by the destination", conn, unix.ECONNRESET)
			leaked := false
			for _, p := range w.onWire.segments(t, w.to.Addr()) {
				leaked = leaked || string(p.tcp.Payload) == "secret"
			}
			if !leaked {
				t.Error("nothing leaked")
			}
			// That the table is gone does not hinder the undo.
			if _, err := host.Clean(host.Config{Control: w.control}); err != nil {
				t.Error(err)
			}
			hosttest.Same(t, before)
		})
	}
}

// TestCloseEndsWhatIsLeft: connections that nobody ended before the device is closed.
func TestCloseEndsWhatIsLeft(t *testing.T) {
	for name, c := range destinations {
		t.Run(name, func(t *testing.T) {
			peer := hosttest.Pair(t)
			before := hosttest.Look(t)
			onWire := watchWire(t, peer)
			d, packets := openDevice(t, everything(openJournal(t)))
			open := func() net.Conn {
				pending := dial(t, c.to)
				syn := next(t, packets)
				answer(t, d.File(), syn, 1000, syn.tcp.Seq+1, "", "S")
				conn := <-pending
				if conn == nil {
					t.FailNow()
				}
				t.Cleanup(func() { conn.Close() })
				if ack := after(t, packets, syn); ack.tcp.SYN || ack.src != syn.src {
					t.Fatalf("no acknowledgement:\n%s", ack.text)
				}
				return conn
			}
			silent, sends := open(), open()
			write(t, sends, 1)
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			endsWith(t, "silent when the device was closed", silent, unix.ECONNABORTED)
			// Its octets are sent again meanwhile, and may meet the guard.
			endsWith(t, "not silent when the device was closed", sends, unix.ECONNABORTED, unix.ECONNRESET)
			if onWire.saw(t, netip.MustParseAddrPort(c.to).Addr()) {
				t.Error("it left by the wire")
			}
			hosttest.Same(t, before)
		})
	}
}

// TestLostRule: another program removes the policy rule of a process that lives; nothing takes the other way instead.
func TestLostRule(t *testing.T) {
	for name, c := range destinations {
		t.Run(name, func(t *testing.T) {
			w, _ := newKilledWorld(t, c.to)
			conn := w.connect(t)
			family := "-4"
			if w.to.Addr().Is6() {
				family = "-6"
			}
			hosttest.Run(t, "ip", family, "rule", "del", "priority", fmt.Sprint(tun.DefaultPriority))
			write(t, conn, 1)
			again := connectError(t, w.to)
			time.Sleep(500 * time.Millisecond)
			w.nothingOnWire(t, "without the rule")
			w.kill()
			endsWith(t, "when the process died", conn, unix.ECONNRESET)
			// No SYN of this one got anywhere, so it is a new one now.
			if err := <-again; err != nil {
				t.Errorf("a connection begun without the rule: %v", err)
			}
			for _, p := range w.onWire.segments(t, w.to.Addr()) {
				if len(p.tcp.Payload) > 0 {
					t.Errorf("after kill -9, on the wire:\n%s", p.text)
				}
			}
		})
	}
}

// TestGuardStands: no other program's flush of all rules takes the guard away (Linux 6.9), and a guard that is there
// already is said to be.
func TestGuardStands(t *testing.T) {
	hosttest.Pair(t)
	control := filepath.Join(t.TempDir(), "control.sock")
	kill := startChild(t, control)
	hosttest.Run(t, "nft", "flush", "ruleset")
	if rules := hosttest.Run(t, "nft", "list", "ruleset"); !strings.Contains(rules, "inet innertun_guard") {
		t.Errorf("flushed away:\n%s", rules)
	}
	kill()
	before := hosttest.Look(t)
	var taken *host.TableError
	if _, err := tun.Open(everything(openJournal(t))); !errors.As(err, &taken) || !strings.Contains(err.Error(), "innertun down") {
		t.Errorf("a second guard: %v", err)
	}
	hosttest.Same(t, before)
	// One that somebody else has made meanwhile is left alone.
	hosttest.Run(t, "nft", "delete table inet innertun_guard; add table inet innertun_guard")
	if _, err := host.Clean(host.Config{Control: control}); err != nil {
		t.Error(err)
	}
	if rules := hosttest.Run(t, "nft", "list", "ruleset"); !strings.Contains(rules, "inet innertun_guard") {
		t.Error("somebody else's table was removed")
	}
}
