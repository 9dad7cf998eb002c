package link

import (
	"slices"
	"testing"

	"golang.org/x/net/bpf"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

func TestPortRanges(t *testing.T) {
	for _, c := range []struct {
		in   [][]uint16
		want []portRange
	}{
		{nil, nil},
		{[][]uint16{{80}}, []portRange{{80, 80}}},
		{[][]uint16{{5, 3, 4, 4}, {7}}, []portRange{{3, 5}, {7, 7}}},
		{[][]uint16{{65535, 65534, 0}, {1}}, []portRange{{0, 1}, {65534, 65535}}},
	} {
		if got := portRanges(c.in...); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.in, got, c.want)
		}
	}
}

func TestFrameFilter(t *testing.T) {
	const ours, excluded, kernels = 61005, 61004, 40000
	var ports []uint16
	for p := uint16(61000); p != 0; p++ {
		if p != excluded {
			ports = append(ports, p)
		}
	}
	program, err := frameFilter(portRanges(ports, []uint16{80, 443}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bpf.Assemble(append(hostOnly(), program...)); err != nil {
		t.Fatal(err)
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	const (
		icmp4 = uint8(header.ICMPv4ProtocolNumber)
		icmp6 = uint8(header.ICMPv6ProtocolNumber)
		udp   = uint8(header.UDPProtocolNumber)
	)
	type test struct {
		name string
		in   []byte
		want int // octets
	}
	tests := []test{
		{"ARP reply", arpFrame(nearMAC, header.ARPReply), passWhole},
		{"ARP request", arpFrame(nearMAC, header.ARPRequest), 0},
		{"ARP announcement, request", arpFrom(broadcast, header.ARPRequest, farMAC, farV4, farV4), passWhole},
		{"ARP announcement, reply", arpFrom(broadcast, header.ARPReply, farMAC, farV4, farV4), passWhole},
		{"ARP request, last octet differs", arpFrom(broadcast, header.ARPRequest, farMAC, "198.18.0.2", "198.18.0.3"), 0},
		{"ARP request, first octet differs", arpFrom(broadcast, header.ARPRequest, farMAC, "197.18.0.2", "198.18.0.2"), 0},
		{"ARP probe", arpFrom(broadcast, header.ARPRequest, farMAC, "0.0.0.0", farV4), 0},
		{"RARP request", arpFrom(broadcast, 3, farMAC, farV4, farV4), 0},
		{"RARP reply", arpFrom(broadcast, 4, farMAC, farV4, farV4), 0},
		{"ARP announcement cut short", arpFrom(broadcast, header.ARPRequest, farMAC, farV4, farV4)[:41], 0},
		{"ARP of another network", ethernetFrame(nearMAC, header.ARPProtocolNumber, []byte{0, 6, 8, 0, 6, 4, 0, 2}), 0},
		{"ICMP unreachable", frame{proto: icmp4, icmpType: 3}.ethernet(nearMAC), passWhole},
		{"ICMP unreachable, options", frame{proto: icmp4, icmpType: 3, options: 8}.ethernet(nearMAC), passWhole},
		{"ICMP echo", frame{proto: icmp4, icmpType: 8}.ethernet(nearMAC), 0},
		{"ICMP redirect", frame{proto: icmp4, icmpType: 5}.ethernet(nearMAC), 0},
		{"ICMPv6 in IPv4", frame{proto: icmp6, icmpType: 3}.ethernet(nearMAC), 0},
		{"ICMP in IPv6", frame{v6: true, proto: icmp4, icmpType: 3}.ethernet(nearMAC), 0},
		{"VLAN tag in the frame", ethernetFrame(nearMAC, 0x8100, append([]byte{0, 5, 8, 0}, frame{port: ours}.ip()...)), 0},
		{"LLDP", ethernetFrame(nearMAC, 0x88cc, make([]byte, 46)), 0},
		{"802.3 length", ethernetFrame(nearMAC, 46, make([]byte, 46)), 0},
	}
	for typ := range 256 {
		want := 0
		switch typ {
		case 1, 2, 3, 4, 136: // unreachable, too big, time exceeded, parameter problem, neighbour advertisement
			want = passWhole
		}
		tests = append(tests, test{"ICMPv6", frame{v6: true, proto: icmp6, icmpType: uint8(typ)}.ethernet(nearMAC), want})
	}
	for port, want := range map[uint16]int{
		ours: passWhole, 61000: passWhole, 65535: passWhole, 80: passWhole, 443: passWhole,
		excluded: 0, 60999: 0, kernels: 0, 79: 0, 81: 0, 444: 0, 0: 0,
	} {
		head := 0
		if want != 0 {
			head = passHeaders
		}
		for _, v6 := range []bool{false, true} {
			tests = append(tests,
				test{"TCP", frame{v6: v6, port: port}.ethernet(nearMAC), want},
				test{"SYN", frame{v6: v6, port: port, syn: true}.ethernet(nearMAC), want},
				test{"UDP", frame{v6: v6, port: port, proto: udp}.ethernet(nearMAC), 0},
				test{"first fragment", frame{v6: v6, port: port, more: true}.ethernet(nearMAC), head},
				test{"middle fragment", frame{v6: v6, port: port, more: true, fragOffset: 1480}.ethernet(nearMAC), 0},
				test{"last fragment", frame{v6: v6, port: port, fragOffset: 1480}.ethernet(nearMAC), 0},
				test{"UDP fragment", frame{v6: v6, port: port, proto: udp, more: true}.ethernet(nearMAC), 0},
				test{"hop-by-hop or unknown", frame{v6: v6, port: port, proto: 0xfd}.ethernet(nearMAC), 0},
			)
		}
		for _, options := range []int{4, 20, 40} {
			tests = append(tests, test{"TCP, options", frame{port: port, options: options}.ethernet(nearMAC), want})
		}
	}
	for _, c := range tests {
		got, err := vm.Run(c.in)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		// The virtual machine returns at most the frame's length.
		if want := min(c.want, len(c.in)); min(got, len(c.in)) != want {
			t.Errorf("%s: %d octets pass, want %d: %x", c.name, got, want, c.in)
		}
		// What is cut short must not pass for want of the octets that would tell.
		for n := range min(len(c.in), header.EthernetMinimumSize+header.IPv4MinimumSize) {
			if got, err := vm.Run(c.in[:n]); err != nil || (got != 0 && c.want == 0) {
				t.Errorf("%s: %d octets: %d, %v", c.name, n, got, err)
			}
		}
	}
}

func TestFrameFilterTooManyRanges(t *testing.T) {
	var most, more []uint16
	for i := range maxPortRanges {
		most = append(most, uint16(2*i))
	}
	more = append(most, 65535)
	program, err := packetProgram(most, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(program) > 4096 {
		t.Errorf("%d instructions: the kernel takes 4096", len(program))
	}
	if _, err := packetProgram(more, nil); err == nil {
		t.Error("one range too many was accepted")
	}
}
