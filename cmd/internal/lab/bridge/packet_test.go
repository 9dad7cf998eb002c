package bridge

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"innertun/integration/lab"
)

var (
	macA, macB = []byte{2, 0, 0, 0, 0, 0xa}, []byte{2, 0, 0, 0, 0, 0xb}
	addrA      = netip.MustParseAddr("198.18.0.1")
	addrB      = netip.MustParseAddr("198.18.0.2")
)

// sides are two ports that write into files.
func sides(t *testing.T) (a, b *packetPort, written func(p *packetPort) []byte) {
	t.Helper()
	open := func() *packetPort {
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		p := &packetPort{file: f, headers: make(map[netip.Addr]header)}
		t.Cleanup(func() { p.close() })
		return p
	}
	a, b = open(), open()
	a.other, b.other = b, a
	return a, b, func(p *packetPort) []byte {
		data, err := os.ReadFile(p.file.Name())
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
}

// frame is a TCP segment from A to B with a partial checksum and the vnet header in front.
func frame(payload int, gso uint8, size uint16) []byte {
	ip := make([]byte, 40+payload)
	ip[0], ip[8], ip[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], addrA.AsSlice())
	copy(ip[16:], addrB.AsSlice())
	ip[32], ip[33] = 0x50, lab.ACK
	vnet := make([]byte, vnetLen)
	vnet[0], vnet[1] = unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, gso
	binary.NativeEndian.PutUint16(vnet[4:], size)
	return bytes.Join([][]byte{vnet, macB, macA, {8, 0}, ip}, nil)
}

// A super-packet comes in pieces, each to be completed; the other side then knows the way to B, this one the way to A.
func TestFrame(t *testing.T) {
	a, b, written := sides(t)
	var got []lab.Packet
	a.frame(frame(2500, unix.VIRTIO_NET_HDR_GSO_TCPV4, 1000), func(p lab.Packet) { got = append(got, p) })
	if len(got) != 3 || !got[0].Partial || len(got[0].Data) != 1040 || len(got[2].Data) != 540 {
		t.Fatalf("%d pieces", len(got))
	}
	if err := b.send(got[0].Data); err != nil {
		t.Fatal(err)
	}
	if want := bytes.Join([][]byte{make([]byte, vnetLen), macB, macA, {8, 0}, got[0].Data}, nil); !bytes.Equal(written(b), want) {
		t.Errorf("%x", written(b)[:40])
	}
	answer := bytes.Clone(got[0].Data)
	copy(answer[12:], addrB.AsSlice())
	copy(answer[16:], addrA.AsSlice())
	if err := a.send(answer); err != nil || !bytes.HasPrefix(written(a)[vnetLen:], append(bytes.Clone(macA), macB...)) {
		t.Errorf("%v, %x", err, written(a))
	}
	if err := a.send(got[0].Data); !errors.Is(err, errAlien) {
		t.Errorf("to nobody known: %v", err)
	}
}

// What a host is sent beats what was turned round, and not the other way.
func TestLearn(t *testing.T) {
	a, _, _ := sides(t)
	a.learn(addrA, [etherLen]byte{1}, true)
	a.learn(addrA, [etherLen]byte{2}, false)
	a.learn(addrA, [etherLen]byte{3}, true)
	if h := a.headers[addrA]; h.octets[0] != 2 || h.turned {
		t.Errorf("%+v", h)
	}
	for i := range uint16(maxKnown + 10) {
		a.learn(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), [etherLen]byte{}, false)
	}
	if len(a.headers) > maxKnown {
		t.Errorf("%d known", len(a.headers))
	}
}

// ARP passes by; what is short, or a super-packet of UDP, does not pass at all.
func TestOtherFrames(t *testing.T) {
	a, b, written := sides(t)
	deliver := func(p lab.Packet) { t.Errorf("delivered %x", p.Data) }
	arp := append(make([]byte, vnetLen), bytes.Join([][]byte{macB, macA, {8, 6}, make([]byte, 28)}, nil)...)
	a.frame(arp, deliver)
	if !bytes.Equal(written(b), arp) {
		t.Errorf("%x", written(b))
	}
	a.frame(arp[:20], deliver)
	a.frame(frame(2500, unix.VIRTIO_NET_HDR_GSO_UDP_L4, 1000), deliver)
}

func TestKindOf(t *testing.T) {
	for name, want := range map[string]kind{"lo": ethernet, "": absent, "../lo": absent, "nothing-there": absent} {
		if got := kindOf(name); got != want {
			t.Errorf("%q is %s", name, got)
		}
	}
}
