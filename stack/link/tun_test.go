package link

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// openTUN makes a TUN device the way wireguard/tun does.
func openTUN(t testing.TB, s *space, name string, flags uint16, mtu int) *os.File {
	t.Helper()
	var file *os.File
	s.do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		req, err := unix.NewIfreq(name)
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		req.SetUint16(flags)
		err = errors.Join(
			unix.IoctlIfreq(fd, unix.TUNSETIFF, req),
			unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6),
			unix.SetNonblock(fd, true),
		)
		file = os.NewFile(uintptr(fd), name)
		return err
	})
	t.Cleanup(func() { _ = file.Close() })
	l, err := s.nl.LinkByName(name)
	check(t, err)
	check(t, s.nl.LinkSetMTU(l, mtu))
	check(t, s.nl.LinkSetUp(l))
	return file
}

const tunFlags = unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR

// tunWorld is one namespace: kernel's TCP at 198.18.0.1 and fd00::1 - TUN device - netstack at 198.18.0.2 and fd00::2.
func tunWorld(t testing.TB, mtu int) (*space, *TUN) {
	t.Helper()
	s := newSpace(t)
	file := openTUN(t, s, "tun0", tunFlags, mtu)
	l, err := s.nl.LinkByName("tun0")
	check(t, err)
	s.addAddress(l, nearV4+"/24")
	s.addAddress(l, nearV6+"/64")
	tun, err := NewTUN(TUNConfig{File: file, MTU: mtu})
	check(t, err)
	t.Cleanup(func() { check(t, tun.Close()) })
	return s, tun
}

func TestTUNTransfers(t *testing.T) {
	for _, mtu := range []int{1500, 1280} {
		for _, ip := range []string{farV4, farV6} {
			t.Run(fmt.Sprintf("%s-mtu%d", ip, mtu), func(t *testing.T) {
				s, tun := tunWorld(t, mtu)
				seen := new(dataSeen)
				tun.SetTap(seen.see)
				ns := newNetstack(t, tun.LinkEndpoint(), farV4+"/24", farV6+"/64")
				addr := net.JoinHostPort(ip, "9000")
				l := listenAt(t, ns, addr)
				k := s.dial(addr)
				c, err := l.Accept()
				check(t, err)
				defer c.Close()
				exchange(t, k, c)
				st := tun.Stats()
				if st.BadChecksums+st.Malformed+st.SendErrors+st.SendFull != 0 {
					t.Errorf("packets were lost: %+v", st)
				}
				if mean := seen.mean(false); mean <= mtu {
					t.Errorf("packets with data received have %d octets on average: no super-packets", mean)
				}
				if mean := seen.mean(true); mean <= mtu {
					t.Errorf("packets with data sent have %d octets on average: no super-packets", mean)
				}
			})
		}
	}
}

func TestTUNWrongKind(t *testing.T) {
	s := newSpace(t)
	for name, flags := range map[string]uint16{
		"tap0":  unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR,
		"bare0": unix.IFF_TUN | unix.IFF_NO_PI,
	} {
		file := openTUN(t, s, name, flags, 1500)
		if _, err := NewTUN(TUNConfig{File: file, MTU: 1500}); err == nil {
			t.Errorf("device %s with flags %#x was accepted", name, flags)
		}
	}
	r, w, err := os.Pipe()
	check(t, err)
	defer r.Close()
	defer w.Close()
	if _, err := NewTUN(TUNConfig{File: r, MTU: 1500}); err == nil {
		t.Error("a pipe was accepted")
	}
	if _, err := NewTUN(TUNConfig{}); err == nil {
		t.Error("no file was accepted")
	}
}

// A netstack may come and go; the device's file stays open.
func TestTUNReattach(t *testing.T) {
	s, tun := tunWorld(t, 1500)
	for port := 9000; port < 9003; port++ {
		t.Run(fmt.Sprint(port), func(t *testing.T) {
			ns := newNetstack(t, keepOpen{tun.e}, farV4+"/24")
			addr := fmt.Sprintf("%s:%d", farV4, port)
			l := listenAt(t, ns, addr)
			k := s.dial(addr)
			c, err := l.Accept()
			check(t, err)
			defer c.Close()
			exchange(t, k, c)
		})
	}
	if _, err := s.nl.LinkByName("tun0"); err != nil {
		t.Fatal(err)
	}
}

// keepOpen hides the endpoint's Close from the netstack.
type keepOpen struct{ *endpoint }

func (keepOpen) Close() {}

func BenchmarkTUNReceive(b *testing.B) {
	s, tun := tunWorld(b, 1500)
	ns := newNetstack(b, tun.LinkEndpoint(), farV4+"/24")
	l := listenAt(b, ns, farV4+":9000")
	k := s.dial(farV4 + ":9000")
	c, err := l.Accept()
	check(b, err)
	pump(b, k, c)
	report(b, tun.Stats())
}

func BenchmarkTUNSend(b *testing.B) {
	s, tun := tunWorld(b, 1500)
	ns := newNetstack(b, tun.LinkEndpoint(), farV4+"/24")
	l := listenAt(b, ns, farV4+":9000")
	k := s.dial(farV4 + ":9000")
	c, err := l.Accept()
	check(b, err)
	pump(b, c, k)
	report(b, tun.Stats())
}
