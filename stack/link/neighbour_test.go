package link

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/faketime"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	instack "innertun/stack"
	"innertun/stack/virtual"
)

// movedMAC is where far0 is after it has moved.
var movedMAC = tcpip.LinkAddress("\x02\x00\x00\x00\x00\x99")

// ourStack is the program's own stack on near0; clock nil: real time.
func ourStack(t *testing.T, p *Packet, clock tcpip.Clock) *instack.Stack {
	t.Helper()
	s, err := instack.New(instack.Config{
		Link: p, Clock: clock,
		Addresses: []netip.Prefix{netip.MustParsePrefix(nearV4 + "/24"), netip.MustParsePrefix(nearV6 + "/64")},
		Routes:    []instack.Route{{Prefix: netip.MustParsePrefix("198.18.0.0/24")}, {Prefix: netip.MustParsePrefix("fd00::/64")}},
		Ports:     ownPorts(),
	})
	check(t, err)
	t.Cleanup(func() { check(t, s.Close()) })
	return s
}

func (s *space) setMAC(name string, mac tcpip.LinkAddress) {
	s.t.Helper()
	l, err := s.nl.LinkByName(name)
	check(s.t, err)
	check(s.t, s.nl.LinkSetHardwareAddr(l, net.HardwareAddr(mac)))
}

// stream sends from one to the other until the test ends, and returns how many octets have arrived.
func stream(t *testing.T, from, to net.Conn) *atomic.Int64 {
	t.Helper()
	var n atomic.Int64
	var work sync.WaitGroup
	work.Go(func() {
		b := make([]byte, 16<<10)
		for {
			if _, err := from.Write(b); err != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
	work.Go(func() {
		b := make([]byte, 64<<10)
		for {
			k, err := to.Read(b)
			if err != nil {
				return
			}
			n.Add(int64(k))
		}
	})
	t.Cleanup(func() {
		_ = from.Close()
		_ = to.Close()
		work.Wait()
	})
	return &n
}

// A router that is replaced by another with the same IP and another MAC address: the transfers go on.
func TestNeighborMoves(t *testing.T) {
	announce := func(dst tcpip.LinkAddress, op header.ARPOp) func(*testing.T, rawSocket) {
		return func(t *testing.T, r rawSocket) { r.send(t, arpFrom(dst, op, movedMAC, farV4, farV4)) }
	}
	for _, c := range []struct {
		name     string
		far      string
		announce func(*testing.T, rawSocket) // nil: nothing is said
		download bool
		asked    time.Duration // until the link is asked who has the address, of the stack's clock; 0: does not matter
		within   time.Duration // until the transfer goes on, likewise
	}{
		{"gratuitous request", farV4, announce(broadcast, header.ARPRequest), false, 0, 2 * time.Second},
		{"gratuitous request, download", farV4, announce(broadcast, header.ARPRequest), true, 0, 2 * time.Second},
		{"gratuitous reply", farV4, announce(broadcast, header.ARPReply), false, 0, 2 * time.Second},
		// With the least timeout of TCP the packet at 12.6 s asks, the next would at 25.4. The answer is the kernel's, which
		// may be kept from running while the clock goes on.
		{"silent", farV4, nil, false, 20 * time.Second, time.Minute},
		{"silent, IPv6", farV6, nil, false, 20 * time.Second, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			near, far := twoSpaces(t, 1500)
			step := 10 * time.Millisecond
			if c.announce != nil {
				step = time.Millisecond
			}
			clock := steppingClock(t, step)
			p := openNear(t, near)
			s := ourStack(t, p, clock)
			// While its clock stands still the stack measures round trips of no time, so that its timeout is the least.
			clock.held.Store(true)
			l := far.listen("tcp", net.JoinHostPort(c.far, "9000"))
			ours, err := s.Dial(t.Context(), instack.Flow{Remote: netip.MustParseAddrPort(l.Addr().String())}, nil)
			check(t, err)
			theirs, err := l.Accept()
			check(t, err)
			var arrived *atomic.Int64
			if c.download {
				arrived = stream(t, theirs, ours)
			} else {
				arrived = stream(t, ours, theirs)
			}
			raw := openRaw(t, far, "far0")
			for arrived.Load() < 1<<20 {
				time.Sleep(time.Millisecond)
			}
			far.setMAC("far0", movedMAC)
			start := clock.NowMonotonic()
			asked := make(chan time.Duration, 1)
			if c.announce != nil {
				c.announce(t, raw)
			} else {
				time.Sleep(20 * time.Millisecond) // for what was under way
				p.SetTap(func(pkt Tapped) {
					if pkt.Outgoing && pkt.Parts[0][0]&1 != 0 { // to a group
						select {
						case asked <- clock.NowMonotonic().Sub(start):
						default:
						}
					}
				})
			}
			clock.held.Store(false)
			before := arrived.Load()
			for arrived.Load() < before+1<<20 {
				if took := clock.NowMonotonic().Sub(start); took > c.within {
					t.Fatalf("%d octets in %v", arrived.Load()-before, took)
				}
				time.Sleep(time.Millisecond)
			}
			t.Logf("on its way again after %v", clock.NowMonotonic().Sub(start))
			if c.asked > 0 {
				select {
				case took := <-asked:
					if took > c.asked {
						t.Errorf("the link is asked after %v", took)
					}
				default:
					t.Error("the link is not asked")
				}
			}
		})
	}
}

// stepping is a clock that goes on by itself, unless it is held.
type stepping struct {
	*faketime.ManualClock
	held atomic.Bool
}

// steppingClock takes a step each millisecond, or more rarely if the machine is busy or a goroutine has something to do: its
// time does not run away from those who are to do something in it.
func steppingClock(t *testing.T, step time.Duration) *stepping {
	clock := &stepping{ManualClock: faketime.NewManualClock()}
	stop := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				if !clock.held.Load() {
					virtual.Quiet(time.Second)
					clock.Advance(step)
				}
			}
		}
	})
	t.Cleanup(func() {
		close(stop)
		work.Wait()
	})
	return clock
}

// Another device behind the interface, told by nobody but the daemon.
func TestForgetNeighbors(t *testing.T) {
	near, far := twoSpaces(t, 1500)
	// By a clock that stands still nothing is sent again, and no neighbour is in doubt.
	s := ourStack(t, openNear(t, near), faketime.NewManualClock())
	for i, ip := range []string{farV4, farV6} {
		l := far.listen("tcp", net.JoinHostPort(ip, "9000"))
		c, err := s.Dial(t.Context(), instack.Flow{Remote: netip.MustParseAddrPort(l.Addr().String())}, nil)
		check(t, err)
		defer c.Close()
		k, err := l.Accept()
		check(t, err)
		defer k.Close()
		far.setMAC("far0", tcpip.LinkAddress(append([]byte(movedMAC[:5]), byte(i))))
		s.ForgetNeighbors()
		_, err = c.Write([]byte("hello"))
		check(t, err)
		check(t, k.SetReadDeadline(time.Now().Add(patience)))
		_, err = io.ReadFull(k, make([]byte, 5))
		check(t, err)
	}
	check(t, s.Close())
	s.ForgetNeighbors() // does no harm
}

// Both ends of the link are replaced: other devices, other MAC addresses. The transfer goes on.
func TestLinkReplaced(t *testing.T) {
	near, far := twoSpaces(t, 1500)
	p := openNear(t, near)
	clock := steppingClock(t, time.Millisecond)
	s := ourStack(t, p, clock)
	l := far.listen("tcp", net.JoinHostPort(farV4, "9000"))
	ours, err := s.Dial(t.Context(), instack.Flow{Remote: netip.MustParseAddrPort(l.Addr().String())}, nil)
	check(t, err)
	theirs, err := l.Accept()
	check(t, err)
	arrived := stream(t, ours, theirs)
	old, err := near.nl.LinkByName("near0")
	check(t, err)
	clock.held.Store(true) // however long the replacement takes
	check(t, near.nl.LinkDel(old))
	linkSpaces(t, near, far, 1500)
	muteKernel(near)
	now, err := near.nl.LinkByName("near0")
	check(t, err)
	p.SetMAC(now.Attrs().HardwareAddr)
	check(t, p.SetIndex(now.Attrs().Index))
	s.ForgetNeighbors()
	clock.held.Store(false)
	start, before := clock.NowMonotonic(), arrived.Load()
	for arrived.Load() < before+1<<20 {
		if took := clock.NowMonotonic().Sub(start); took > 3*time.Second {
			t.Fatalf("%d octets in %v", arrived.Load()-before, took)
		}
		time.Sleep(time.Millisecond)
	}
}

// Announcements of what is not so cost a question each, and divert nothing.
func TestFalseAnnouncements(t *testing.T) {
	near, far := twoSpaces(t, 1500)
	p := openNear(t, near)
	s := ourStack(t, p, nil)
	l := far.listen("tcp", net.JoinHostPort(farV4, "9000"))
	ours, err := s.Dial(t.Context(), instack.Flow{Remote: netip.MustParseAddrPort(l.Addr().String())}, nil)
	check(t, err)
	theirs, err := l.Accept()
	check(t, err)
	arrived := stream(t, ours, theirs)
	asked := openARP(t, far, "far0", header.ARPRequest)
	raw := openRaw(t, far, "far0")
	var announced, left atomic.Int64 // announcements that the reader has come to, and packets sent
	p.SetTap(func(pkt Tapped) {
		switch eth := header.Ethernet(pkt.Parts[0]); {
		case len(eth) < header.EthernetMinimumSize:
		case pkt.Outgoing && eth.Type() == header.IPv4ProtocolNumber:
			left.Add(1)
		case !pkt.Outgoing && eth.Type() == header.ARPProtocolNumber:
			if arp := header.ARP(eth[header.EthernetMinimumSize:]); string(arp.ProtocolAddressSender()) == string(arp.ProtocolAddressTarget()) {
				announced.Add(1)
			}
		}
	})
	// dealtWith waits for the nth announcement, with which those before it are done, and for the questions that follow from
	// them: of all that is sent later, the first packets wait for the answer.
	dealtWith := func(n int) {
		t.Helper()
		wait := func(what string, c *atomic.Int64, n int64) {
			t.Helper()
			for end := time.Now().Add(patience); c.Load() < n; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%d %s, want %d", c.Load(), what, n)
				}
			}
		}
		wait("announcements", &announced, int64(n))
		wait("packets sent", &left, left.Load()+100)
	}
	before := arrived.Load()
	const total = 100
	sent := 0
	for ; sent < total || arrived.Load() < before+1<<20; sent++ {
		if sent == 20*total {
			t.Fatalf("%d octets arrived meanwhile", arrived.Load()-before)
		}
		raw.send(t, arpFrom(broadcast, header.ARPRequest, movedMAC, farV4, farV4))
		raw.send(t, arpFrom(broadcast, header.ARPReply, movedMAC, "198.18.0.77", "198.18.0.77")) // no neighbour of ours
		time.Sleep(5 * time.Millisecond)
	}
	mac := macOf(t, far, "far0")
	raw.send(t, arpFrom(broadcast, header.ARPRequest, mac, farV4, farV4))
	dealtWith(2*sent + 1)
	// The stack's own, and those of the kernels before they know each other.
	if n := len(asked()); n == 0 || n > sent+2 {
		t.Errorf("%d ARP requests after %d announcements", n, sent)
	}
	// What is so costs nothing.
	for range total {
		raw.send(t, arpFrom(broadcast, header.ARPRequest, mac, farV4, farV4))
	}
	dealtWith(2*sent + 1 + total)
	if n := len(asked()); n > 1 {
		t.Errorf("%d ARP requests after announcements of what was known", n)
	}
}

// A neighbour that only sends is asked now and then, one that is silent never.
func TestNeighborNoise(t *testing.T) {
	near, far := twoSpaces(t, 1500)
	clock := steppingClock(t, 10*time.Millisecond)
	s := ourStack(t, openNear(t, near), clock)
	l := far.listen("tcp", net.JoinHostPort(farV4, "9000"))
	ours, err := s.Dial(t.Context(), instack.Flow{Remote: netip.MustParseAddrPort(l.Addr().String())}, nil)
	check(t, err)
	theirs, err := l.Accept()
	check(t, err)
	t.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
	asked := openARP(t, far, "far0", header.ARPRequest) // and no answers: the far kernel has questions of its own, by its own clock
	wait := func(d time.Duration) {
		for end := clock.NowMonotonic().Add(d); clock.NowMonotonic().Before(end); {
			time.Sleep(time.Millisecond)
		}
	}
	wait(20 * time.Second)
	if n := len(asked()); n != 0 {
		t.Errorf("%d questions without traffic", n)
	}
	stream(t, theirs, ours)
	wait(30 * time.Second)
	if n := len(asked()); n == 0 || n > 8 {
		t.Errorf("%d questions in 30 s of receiving", n)
	} else {
		t.Logf("%d questions in 30 s of receiving", n)
	}
}

// The kernel of near is told not to answer ARP: who answers is the netstack.
func TestARPIsNeverAnswered(t *testing.T) {
	near, far := twoSpaces(t, 1500)
	near.run("", "sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=8")
	p := openNear(t, near)
	var told atomic.Int64
	p.OnAnnounce(func(netip.Addr, net.HardwareAddr) { told.Add(1) })
	ns := newNetstack(t, p.LinkEndpoint(), nearV4+"/24")
	replies := openARP(t, far, "far0", 0)
	raw := openRaw(t, far, "far0")
	mac := macOf(t, near, "near0")
	for _, dst := range []tcpip.LinkAddress{broadcast, mac} {
		for _, op := range []header.ARPOp{header.ARPRequest, header.ARPReply} {
			raw.send(t, arpFrom(dst, op, farMAC, farV4, farV4))
			raw.send(t, arpFrom(dst, op, farMAC, nearV4, nearV4)) // our own address
		}
		raw.send(t, arpFrom(dst, header.ARPRequest, farMAC, farV4, nearV4))
		raw.send(t, arpFrom(dst, header.ARPRequest, farMAC, "0.0.0.0", nearV4))
	}
	eventually(t, "announcements", 8, func() uint64 { return uint64(told.Load()) })
	if n := ns.Stats().ARP.PacketsReceived.Value(); n != 0 {
		t.Errorf("%d ARP packets reached the netstack", n)
	}
	if f := replies(); len(f) != 0 {
		t.Errorf("somebody answered: %x", f)
	}
	near.run("", "sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=0")
	raw.send(t, arpFrom(mac, header.ARPRequest, macOf(t, far, "far0"), farV4, nearV4))
	var answers uint64
	eventually(t, "answers of the kernel, or the test sees nothing", 1, func() uint64 {
		answers += uint64(len(replies()))
		return answers
	})
}

// openARP returns a function that returns the ARP frames of one kind that have come in since; kind 0: all.
func openARP(t *testing.T, s *space, name string, kind header.ARPOp) func() [][]byte {
	t.Helper()
	l, err := s.nl.LinkByName(name)
	check(t, err)
	var fd int
	s.do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		arp := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ARP))
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: arp, Ifindex: l.Attrs().Index})
	})
	t.Cleanup(func() { _ = unix.Close(fd) })
	return func() (frames [][]byte) {
		for {
			b := make([]byte, 2048)
			n, _, err := unix.Recvfrom(fd, b, 0)
			if err != nil {
				return frames
			}
			if kind == 0 || header.ARP(b[header.EthernetMinimumSize:n]).Op() == kind {
				frames = append(frames, b[:n])
			}
		}
	}
}
