package tun_test

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"innertun/internal/host/hosttest"
	"innertun/tun"
)

const vnetHeaderLen = 10

// packet is what a test wants to know of one that came out of the device.
type packet struct {
	gso      byte // virtio_net_hdr's gso_type
	src, dst netip.AddrPort
	tcp      *layers.TCP // nil: not TCP
	text     string
}

// tap reads everything that comes out of the device until it is closed.
func tap(device *tun.Device) <-chan packet {
	packets := make(chan packet, 1000)
	go func() {
		defer close(packets)
		b := make([]byte, vnetHeaderLen+65535)
		for {
			n, err := device.File().Read(b)
			if err != nil {
				return
			}
			packets <- parse(b[1], append([]byte(nil), b[vnetHeaderLen:n]...))
		}
	}()
	return packets
}

func parse(gso byte, ip []byte) packet {
	first := gopacket.LayerType(layers.LayerTypeIPv4)
	if ip[0]>>4 == 6 {
		first = layers.LayerTypeIPv6
	}
	decoded := gopacket.NewPacket(ip, first, gopacket.Default)
	p := packet{gso: gso, text: decoded.String()}
	if decoded.NetworkLayer() == nil {
		return p
	}
	src, dst := decoded.NetworkLayer().NetworkFlow().Endpoints()
	a, _ := netip.AddrFromSlice(src.Raw())
	b, _ := netip.AddrFromSlice(dst.Raw())
	if tcp, ok := decoded.Layer(layers.LayerTypeTCP).(*layers.TCP); ok {
		p.tcp = tcp
		p.src, p.dst = netip.AddrPortFrom(a, uint16(tcp.SrcPort)), netip.AddrPortFrom(b, uint16(tcp.DstPort))
	}
	return p
}

func next(t *testing.T, packets <-chan packet) packet {
	t.Helper()
	select {
	case p, ok := <-packets:
		if !ok || p.tcp == nil {
			t.Fatalf("no TCP: %s", p.text)
		}
		return p
	case <-time.After(30 * time.Second):
		t.Fatal("nothing comes out of the device")
	}
	return packet{}
}

// after is next, but for repetitions of a SYN that was not answered in time.
func after(t *testing.T, packets <-chan packet, syn packet) packet {
	t.Helper()
	for {
		if p := next(t, packets); !p.tcp.SYN || p.src != syn.src {
			return p
		}
	}
}

func quiet(t *testing.T, packets <-chan packet) {
	t.Helper()
	select {
	case p := <-packets:
		t.Fatalf("this came out of the device:\n%s", p.text)
	case <-time.After(200 * time.Millisecond):
	}
}

// answer sends a segment the other way.
func answer(t *testing.T, file *os.File, to packet, seq, ack uint32, payload string, flags string) {
	t.Helper()
	if err := reply(file, to, seq, ack, payload, flags); err != nil {
		t.Fatal(err)
	}
}

func reply(file *os.File, to packet, seq, ack uint32, payload string, flags string) error {
	tcp := &layers.TCP{
		SrcPort: to.tcp.DstPort, DstPort: to.tcp.SrcPort, Seq: seq, Ack: ack, Window: 65535, ACK: true,
		SYN: strings.Contains(flags, "S"), FIN: strings.Contains(flags, "F"), RST: strings.Contains(flags, "R"), PSH: payload != "",
	}
	if tcp.SYN {
		tcp.Options = []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{1460 >> 8, 1460 & 0xff}}}
	}
	var ip gopacket.SerializableLayer
	src, dst := net.IP(to.dst.Addr().AsSlice()), net.IP(to.src.Addr().AsSlice())
	if to.dst.Addr().Is4() {
		ip4 := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: src, DstIP: dst}
		tcp.SetNetworkLayerForChecksum(ip4)
		ip = ip4
	} else {
		ip6 := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolTCP, SrcIP: src, DstIP: dst}
		tcp.SetNetworkLayerForChecksum(ip6)
		ip = ip6
	}
	buffer := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buffer, options, ip, tcp, gopacket.Payload(payload)); err != nil {
		return err
	}
	_, err := file.Write(append(make([]byte, vnetHeaderLen), buffer.Bytes()...))
	return err
}

// wire is a packet socket on the peer's end of the cable.
type wire struct{ fd int }

func watchWire(t *testing.T, peer *hosttest.Peer) wire {
	t.Helper()
	var w wire
	peer.Do(func() {
		all := uint16(unix.ETH_P_ALL)
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all>>8|all<<8))
		if err != nil {
			t.Fatal(err)
		}
		w.fd = fd
	})
	t.Cleanup(func() { unix.Close(w.fd) })
	return w
}

// saw reports whether TCP to or from addr has been on the wire.
func (w wire) saw(t *testing.T, addr netip.Addr) bool {
	t.Helper()
	return len(w.segments(t, addr)) > 0
}

// segments returns the TCP segments to or from addr that have been on the wire since the last call.
func (w wire) segments(t *testing.T, addr netip.Addr) (found []packet) {
	t.Helper()
	b := make([]byte, 70000)
	for {
		n, _, err := unix.Recvfrom(w.fd, b, 0)
		if err == unix.EAGAIN {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 && (b[0]>>4 == 4 || b[0]>>4 == 6) {
			p := parse(0, append([]byte(nil), b[:n]...))
			if p.tcp != nil && (p.dst.Addr() == addr || p.src.Addr() == addr) {
				found = append(found, p)
			}
		}
	}
}
