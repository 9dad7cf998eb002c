package link

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"innertun/internal/leak"
)

const patience = 2 * time.Minute // for what hangs

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

func TestPacketTransfers(t *testing.T) {
	for _, mtu := range []int{1500, 1280} {
		for _, offload := range []bool{true, false} {
			t.Run(fmt.Sprintf("mtu%d-offload-%t", mtu, offload), func(t *testing.T) {
				near, far := twoSpaces(t, mtu)
				if !offload {
					for s, name := range map[*space]string{near: "near0", far: "far0"} {
						s.run("", "ethtool", "-K", name, "tx", "off", "rx", "off", "gso", "off", "tso", "off")
					}
				}
				p := openNear(t, near)
				seen := &dataSeen{linkHeader: header.EthernetMinimumSize}
				p.SetTap(seen.see)
				ns := newNetstack(t, p.LinkEndpoint(), nearV4+"/24", nearV6+"/64")
				for i, ip := range []string{farV4, farV6} {
					kernel := far.listen("tcp", net.JoinHostPort(ip, "9000"))
					out := dialFrom(t, ns, uint16(firstPort+i), net.JoinHostPort(ip, "9000"))
					in, err := kernel.Accept()
					check(t, err)
					defer in.Close()
					exchange(t, out, in)
				}
				for _, ip := range []string{nearV4, nearV6} {
					at := net.JoinHostPort(ip, fmt.Sprint(servedPort))
					l := listenAt(t, ns, at)
					k := far.dial(at)
					c, err := l.Accept()
					check(t, err)
					defer c.Close()
					exchange(t, k, c)
				}
				st := p.Stats()
				if st.BadChecksums+st.Malformed+st.Fragments+st.SendErrors+st.SendFull+st.DroppedByKernel != 0 {
					t.Errorf("packets were lost: %+v", st)
				}
				if mean := seen.mean(false); offload != (mean > mtu) {
					t.Errorf("packets with data received have %d octets on average", mean)
				}
				if mean := seen.mean(true); mean <= mtu {
					t.Errorf("packets with data sent have %d octets on average: no super-packets", mean)
				}
			})
		}
	}
}

// dataSeen counts packets with data: how many acknowledgements there are besides depends on who runs when.
type dataSeen struct {
	linkHeader      int
	packets, octets [2]atomic.Uint64 // received, sent
}

func (d *dataSeen) see(pkt Tapped) {
	if size := pkt.Size() - d.linkHeader; size > 200 {
		way := direction(pkt.Outgoing)
		d.packets[way].Add(1)
		d.octets[way].Add(uint64(size))
	}
}

// mean is the size of a packet of one direction, in octets, without its link-layer header.
func (d *dataSeen) mean(sent bool) int {
	way := direction(sent)
	return int(d.octets[way].Load() / max(1, d.packets[way].Load()))
}

func direction(sent bool) int {
	if sent {
		return 1
	}
	return 0
}

// rawSocket sends frames as they are from an interface.
type rawSocket struct{ fd, index int }

func openRaw(t testing.TB, s *space, name string) rawSocket {
	t.Helper()
	l, err := s.nl.LinkByName(name)
	check(t, err)
	r := rawSocket{index: l.Attrs().Index}
	s.do(func() (err error) {
		r.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	t.Cleanup(func() { _ = unix.Close(r.fd) })
	return r
}

func (r rawSocket) send(t testing.TB, b []byte) {
	t.Helper()
	check(t, unix.Sendto(r.fd, b, 0, &unix.SockaddrLinklayer{Ifindex: r.index}))
}

func macOf(t testing.TB, s *space, name string) tcpip.LinkAddress {
	t.Helper()
	l, err := s.nl.LinkByName(name)
	check(t, err)
	return tcpip.LinkAddress(l.Attrs().HardwareAddr)
}

// eventually waits until the counter has the value, and then that it keeps it.
func eventually(t *testing.T, what string, want uint64, get func() uint64) {
	t.Helper()
	for end := time.Now().Add(patience / 4); get() != want && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	if got := get(); got != want {
		t.Errorf("%s: %d, want %d", what, got, want)
	}
}

// Frames that must not be delivered: damaged ones, fragments, those for others and those of a VLAN. None may stop the
// reader.
func TestPacketHostileFrames(t *testing.T) {
	near, far := twoSpaces(t, 1500)
	l, err := near.nl.LinkByName("near0")
	check(t, err)
	check(t, near.nl.SetPromiscOn(l))
	p := openNear(t, near)
	ns := newNetstack(t, p.LinkEndpoint(), nearV4+"/24", nearV6+"/64")
	raw := openRaw(t, far, "far0")
	mac := macOf(t, near, "near0")

	resets := ns.Stats().TCP.ResetsSent
	// Answers to the netstack's own neighbour discovery are not counted.
	received := func(s Stats) uint64 {
		return s.Received - ns.Stats().ARP.RepliesReceived.Value() - ns.Stats().ICMP.V6.PacketsReceived.NeighborAdvert.Value()
	}
	good := func() {
		t.Helper()
		before := resets.Value()
		for _, v6 := range []bool{false, true} {
			raw.send(t, frame{v6: v6, port: firstPort, syn: true, payload: []byte("x")}.ethernet(mac))
		}
		eventually(t, "resets", before+2, resets.Value)
	}
	good()
	for _, c := range []struct {
		name   string
		frames [][]byte
		count  func(Stats) uint64
		want   uint64
	}{
		{"damaged", [][]byte{
			frame{port: firstPort, syn: true, badTCP: true}.ethernet(mac),
			frame{port: firstPort, syn: true, badIP: true}.ethernet(mac),
			frame{v6: true, port: firstPort, syn: true, badTCP: true}.ethernet(mac),
			frame{v6: true, port: servedPort, payload: make([]byte, 1401), badTCP: true}.ethernet(mac),
		}, func(s Stats) uint64 { return s.BadChecksums }, 4},
		{"fragments", [][]byte{
			frame{port: firstPort, more: true, payload: make([]byte, 104)}.ethernet(mac),
			frame{port: firstPort, fragOffset: 104, payload: make([]byte, 104)}.ethernet(mac),
			frame{v6: true, port: firstPort, more: true, payload: make([]byte, 104)}.ethernet(mac),
			frame{v6: true, port: firstPort, fragOffset: 104, payload: make([]byte, 104)}.ethernet(mac),
		}, func(s Stats) uint64 { return s.Fragments }, 2},
		{"foreign", [][]byte{
			frame{port: firstPort, syn: true}.ethernet(nearMAC),
			frame{v6: true, port: firstPort, syn: true}.ethernet(nearMAC),
			arpFrame(nearMAC, header.ARPReply),
		}, received, 0},
		{"VLAN", [][]byte{
			ethernetFrame(mac, 0x8100, append([]byte{0, 5, 8, 0}, frame{port: firstPort, syn: true}.ip()...)),
		}, received, 0},
		{"not ours", [][]byte{
			frame{port: 80, syn: true}.ethernet(mac),
			arpFrame(mac, header.ARPRequest),
			arpFrame("\xff\xff\xff\xff\xff\xff", header.ARPRequest),
			{0, 1, 2},
		}, received, 0},
		{"cut short", [][]byte{
			frame{port: firstPort, syn: true}.ethernet(mac)[:38],
			frame{v6: true, port: firstPort, syn: true}.ethernet(mac)[:58],
		}, func(s Stats) uint64 { return s.Malformed }, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, sent := c.count(p.Stats()), resets.Value()
			for _, f := range c.frames {
				if err := unix.Sendto(raw.fd, f, 0, &unix.SockaddrLinklayer{Ifindex: raw.index}); err != nil && len(f) >= header.EthernetMinimumSize {
					t.Fatal(err)
				}
			}
			eventually(t, "counted", c.want, func() uint64 { return c.count(p.Stats()) - before })
			if n := resets.Value() - sent; n != 0 {
				t.Errorf("%d segments reached the netstack", n)
			}
			good()
		})
	}
	// A tag of VLAN 0 is only a priority.
	before := resets.Value()
	raw.send(t, ethernetFrame(mac, 0x8100, append([]byte{0x60, 0, 8, 0}, frame{port: firstPort, syn: true}.ip()...)))
	eventually(t, "resets for VLAN 0", before+1, resets.Value)
}

// The kernel's own connections and its neighbour discovery go on undisturbed, and the netstack never sees a request.
func TestPacketKernelUndisturbed(t *testing.T) {
	near, far := twoSpaces(t, 1500)
	open := func(ip string) (net.Conn, net.Conn) {
		l := far.listen("tcp", net.JoinHostPort(ip, "0"))
		a := near.dial(l.Addr().String())
		b, err := l.Accept()
		check(t, err)
		t.Cleanup(func() { _ = b.Close() })
		return a, b
	}
	a4, b4 := open(farV4)
	p := openNear(t, near)
	ns := newNetstack(t, p.LinkEndpoint(), nearV4+"/24", nearV6+"/64")
	a6, b6 := open(farV6)
	exchange(t, a4, b4)
	exchange(t, a6, b6)
	for _, ip := range []string{nearV4, nearV6} {
		far.run("", "ip", "neigh", "flush", "all")
		far.do(func() error {
			out, err := exec.Command("ping", "-c1", "-W30", ip).CombinedOutput()
			if errors.Is(err, exec.ErrNotFound) {
				// Any packet makes the kernel look for its neighbour.
				_, err = net.DialTimeout("tcp", net.JoinHostPort(ip, "1"), patience)
				if errors.Is(err, unix.ECONNREFUSED) {
					return nil
				}
			}
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	}
	st := ns.Stats()
	for what, n := range map[string]uint64{
		"ARP requests":            st.ARP.RequestsReceived.Value(),
		"neighbour solicitations": st.ICMP.V6.PacketsReceived.NeighborSolicit.Value(),
		"echo requests":           st.ICMP.V4.PacketsReceived.EchoRequest.Value() + st.ICMP.V6.PacketsReceived.EchoRequest.Value(),
		"resets":                  st.TCP.ResetsSent.Value(),
		"TCP segments":            st.TCP.ValidSegmentsReceived.Value(),
	} {
		if n != 0 {
			t.Errorf("the netstack had %d %s", n, what)
		}
	}
}

func TestPacketSetPorts(t *testing.T) {
	near, far := twoSpaces(t, 1500)
	p := openNear(t, near)
	ns := newNetstack(t, p.LinkEndpoint(), nearV4+"/24")
	raw := openRaw(t, far, "far0")
	mac := macOf(t, near, "near0")
	try := func(port uint16, want uint64) {
		t.Helper()
		before := ns.Stats().TCP.ResetsSent.Value()
		raw.send(t, frame{port: port, syn: true}.ethernet(mac))
		eventually(t, fmt.Sprintf("resets from port %d", port), before+want, ns.Stats().TCP.ResetsSent.Value)
	}
	try(61001, 1)
	try(61002, 1)
	check(t, p.SetPorts([]uint16{61002}, nil))
	try(61001, 0)
	try(61002, 1)
}

// A send buffer that is always full slows the sender down and loses nothing.
func TestPacketSmallSendBuffer(t *testing.T) {
	near, far := twoSpaces(t, 1500)
	var p *Packet
	near.do(func() (err error) {
		p, err = NewPacket(PacketConfig{Interface: "near0", Ports: ownPorts(), SendBuffer: 1})
		return err
	})
	p.e.sendWait = patience // who has filled it may be kept from running for a while
	ns := newNetstack(t, p.LinkEndpoint(), nearV4+"/24")
	l := far.listen("tcp", farV4+":9000")
	c := dialFrom(t, ns, firstPort, farV4+":9000")
	k, err := l.Accept()
	check(t, err)
	defer k.Close()
	exchange(t, c, k)
	if st := p.Stats(); st.SendErrors != 0 || st.SendFull != 0 {
		t.Errorf("%+v", st)
	}
}

// An interface that is down costs packets, which are counted, and no more; once up again, the connection goes on.
func TestPacketInterfaceDown(t *testing.T) {
	near, far := twoSpaces(t, 1500)
	p := openNear(t, near)
	ns := newNetstack(t, p.LinkEndpoint(), nearV4+"/24")
	l := far.listen("tcp", farV4+":9000")
	c := dialFrom(t, ns, firstPort, farV4+":9000")
	k, err := l.Accept()
	check(t, err)
	defer k.Close()
	ifc, err := near.nl.LinkByName("near0")
	check(t, err)
	check(t, near.nl.LinkSetDown(ifc))
	_, err = c.Write([]byte("hello"))
	check(t, err)
	for end := time.Now().Add(patience); p.Stats().SendErrors == 0 && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	if p.Stats().SendErrors == 0 {
		t.Error("nothing was counted")
	}
	check(t, near.nl.LinkSetUp(ifc))
	buf := make([]byte, 5)
	check(t, k.SetReadDeadline(time.Now().Add(patience)))
	if _, err := io.ReadFull(k, buf); err != nil || string(buf) != "hello" {
		t.Errorf("%q, %v", buf, err)
	}
}

// An interface that takes nothing more, its own queue full or the socket's buffer, costs packets, which are counted. It
// holds the netstack up once, not for each packet.
func TestPacketStalled(t *testing.T) {
	for _, c := range []struct {
		name, limit string
		maxWaits    uint64
	}{
		{"queue", "5k", 0},
		{"buffer", "100m", 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			near, far := twoSpaces(t, 1500)
			near.run("", "tc", "qdisc", "add", "dev", "near0", "root", "tbf", "rate", "8kbit", "burst", "2k", "limit", c.limit)
			var p *Packet
			near.do(func() (err error) {
				p, err = NewPacket(PacketConfig{Interface: "near0", SendBuffer: 32 << 10})
				return err
			})
			defer func() { check(t, p.Close()) }()
			mac := macOf(t, far, "far0")
			start := time.Now()
			const total = 500
			for range total {
				var list stack.PacketBufferList
				list.PushBack(stack.NewPacketBuffer(stack.PacketBufferOptions{
					Payload: bufferOf(frame{port: 9, payload: make([]byte, 1000)}.ethernet(mac)),
				}))
				_, _ = p.e.WritePackets(list)
				list.Reset()
			}
			st := p.Stats()
			d := time.Since(start)
			if c.maxWaits > 0 {
				c.maxWaits += uint64(d / time.Second) // a packet leaves each second, and the next may wait again
			}
			if st.SendFull == 0 || st.Sent == 0 || st.Sent+st.SendFull != total || st.SendWaits > c.maxWaits {
				t.Errorf("after %v: %+v", d, st)
			}
			if d > 20*time.Second { // SendWaits tells more
				t.Errorf("%d packets held the sender up for %v", total, d)
			}
		})
	}
}

// An interface that is removed and comes back is used again.
func TestPacketSetIndex(t *testing.T) {
	near, far := twoSpaces(t, 1500)
	p := openNear(t, near)
	ns := newNetstack(t, p.LinkEndpoint(), nearV4+"/24")
	l, err := near.nl.LinkByName("near0")
	check(t, err)
	check(t, near.nl.LinkDel(l))
	linkSpaces(t, near, far, 1500)
	l, err = near.nl.LinkByName("near0")
	check(t, err)
	check(t, p.SetIndex(l.Attrs().Index))
	p.SetMAC(l.Attrs().HardwareAddr)
	openRaw(t, far, "far0").send(t, frame{port: firstPort, syn: true}.ethernet(macOf(t, near, "near0")))
	eventually(t, "resets", 1, ns.Stats().TCP.ResetsSent.Value)
}

// Many packets in one call, one of which the kernel refuses: the others arrive.
func TestPacketWriteBatch(t *testing.T) {
	near, far := twoSpaces(t, 1500)
	p := openNear(t, near)
	mac := macOf(t, far, "far0")
	var capture int
	far.do(func() (err error) {
		capture, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(0x0008)) // ETH_P_IP, big-endian
		return err
	})
	defer unix.Close(capture)
	check(t, unix.SetsockoptInt(capture, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)) // for all that is sent before the first is read
	check(t, unix.SetsockoptTimeval(capture, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(patience / time.Second)}))
	var list stack.PacketBufferList
	defer list.Reset()
	const total, refused = 150, 70
	for i := range total {
		size := i
		if i == refused {
			size = 4000 // above the MTU and no super-packet
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
			ReserveHeaderBytes: header.EthernetMinimumSize,
			Payload:            bufferOf(frame{port: 9, payload: make([]byte, size)}.ip()),
		})
		pkt.NetworkProtocolNumber = header.IPv4ProtocolNumber
		pkt.EgressRoute.LocalLinkAddress = nearMAC
		pkt.EgressRoute.RemoteLinkAddress = mac
		p.e.AddHeader(pkt)
		list.PushBack(pkt)
	}
	n, err := p.e.WritePackets(list)
	if n != total-1 || err == nil {
		t.Errorf("%d packets sent, %v", n, err)
	}
	if st := p.Stats(); st.Sent != total-1 || st.SendErrors != 1 || st.WriteCalls >= total/2 {
		t.Errorf("%+v", st)
	}
	buf := make([]byte, 2048)
	for i := range total {
		if i == refused {
			continue
		}
		n, _, err := unix.Recvfrom(capture, buf, 0)
		if err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		if want := header.EthernetMinimumSize + header.IPv4MinimumSize + header.TCPMinimumSize + i; n != want {
			t.Errorf("frame %d has %d octets, want %d", i, n, want)
		}
	}
}

// Close returns soon, with packets under way in both directions, and may be called again.
func TestPacketClose(t *testing.T) {
	near, far := twoSpaces(t, 1500)
	for i := range 5 {
		p := openNear(t, near)
		ns := newNetstack(t, p.LinkEndpoint(), nearV4+"/24")
		l := far.listen("tcp", farV4+":0")
		c := dialFrom(t, ns, uint16(firstPort+i), l.Addr().(*net.TCPAddr).AddrPort().String())
		k, err := l.Accept()
		check(t, err)
		go func() { _, _ = io.Copy(io.Discard, k) }()
		go func() { _, _ = io.Copy(c, zeros{}) }()
		time.Sleep(20 * time.Millisecond)
		start := time.Now()
		check(t, p.Close())
		check(t, p.Close())
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("Close took %v", d)
		}
		var list stack.PacketBufferList
		list.PushBack(stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: bufferOf(make([]byte, 60))}))
		if n, err := p.e.WritePackets(list); n != 0 || err == nil {
			t.Errorf("sent after Close: %d, %v", n, err)
		}
		list.Reset()
		_ = c.Close()
		_ = k.Close()
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

func TestNewPacketErrors(t *testing.T) {
	s := newSpace(t)
	s.do(func() error {
		if _, err := NewPacket(PacketConfig{Interface: "lo"}); !errors.Is(err, ErrNotEthernet) {
			t.Errorf("lo: %v", err)
		}
		if _, err := NewPacket(PacketConfig{Interface: "none0"}); err == nil {
			t.Error("an interface that does not exist was accepted")
		}
		return nil
	})
}
