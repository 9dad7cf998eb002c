package link

import (
	"fmt"
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// portRange is an interval of ports, both ends included.
type portRange struct{ first, last uint16 }

// portRanges returns ports as the fewest intervals, in ascending order.
func portRanges(ports ...[]uint16) []portRange {
	all := slices.Concat(ports...)
	slices.Sort(all)
	var rs []portRange
	for _, p := range all {
		if n := len(rs); n > 0 && int(p) <= int(rs[n-1].last)+1 {
			rs[n-1].last = p
			continue
		}
		rs = append(rs, portRange{p, p})
	}
	return rs
}

const (
	passWhole = 1 << 18 // octets: more than any frame has
	// passHeaders is what is seen of a TCP fragment: enough to count it, too little to be taken for a packet.
	passHeaders = 64
	// maxPortRanges keeps the program below the kernel's limit of 4,096 instructions.
	maxPortRanges = 800
)

// Offsets into an Ethernet frame.
const (
	offType      = 12
	offNet       = header.EthernetMinimumSize
	offARPKind   = offNet // hardware and protocol type
	offARPOp     = offNet + 6
	offARPSender = offNet + 14 // IP addresses
	offARPTarget = offNet + 24
	offV4Frag    = offNet + 6
	offV4Proto   = offNet + 9
	offV6Next    = offNet + 6
	offV6Payload = offNet + header.IPv6MinimumSize

	arpEtherIPv4 = 1<<16 | uint32(header.IPv4ProtocolNumber)
	arpRequest   = 1
	arpReply     = 2
	v4Offset     = 0x1fff
	v4More       = 0x2000
	v6Offset     = 0xfff8
)

// hostOnly comes before a frameFilter: frames for another machine's MAC address and frames of a VLAN are not seen.
// The kernel takes the VLAN tag off a frame before a filter sees it.
func hostOnly() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.PACKET_OTHERHOST, SkipTrue: 1},
		bpf.RetConstant{},
		bpf.LoadExtension{Num: bpf.ExtVLANTag},
		bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: 0xfff, SkipTrue: 1}, // VLAN 0 is a priority without a VLAN
		bpf.RetConstant{},
	}
}

// frameFilter passes the frames a netstack needs that shares an interface with the kernel, and none that would make
// it answer for the kernel: ARP replies, TCP to its own ports, ICMP destination unreachable, and of ICMPv6 the errors
// and neighbour advertisements. Of ARP requests only announcements pass (sender and target are the same), for the link
// itself. Of a fragmented TCP segment only the headers of the first fragment pass, to be counted. TCP behind IPv6
// extension headers does not pass. The source plays no part.
func frameFilter(ports []portRange) ([]bpf.Instruction, error) {
	if len(ports) > maxPortRanges {
		return nil, fmt.Errorf("link: the ports form %d ranges: at most %d fit a packet filter", len(ports), maxPortRanges)
	}
	p := slices.Concat(
		[]bpf.Instruction{bpf.LoadAbsolute{Off: offType, Size: 2}},
		when(bpf.JumpEqual, uint32(header.ARPProtocolNumber), filterARP()),
		when(bpf.JumpEqual, uint32(header.IPv4ProtocolNumber), filterIPv4()),
		when(bpf.JumpEqual, uint32(header.IPv6ProtocolNumber), filterIPv6()),
		[]bpf.Instruction{bpf.RetConstant{}},
	)
	start := len(p)
	p = append(p, filterPorts(ports)...)
	for i, ins := range p {
		if _, ok := ins.(toPorts); ok {
			p[i] = bpf.Jump{Skip: uint32(start - i - 1)}
		}
	}
	return p, nil
}

// when runs code, which ends the program on every way through it, if the accumulator meets the condition.
func when(cond bpf.JumpTest, val uint32, code []bpf.Instruction) []bpf.Instruction {
	return append([]bpf.Instruction{
		bpf.JumpIf{Cond: cond, Val: val, SkipTrue: 1},
		bpf.Jump{Skip: uint32(len(code))},
	}, code...)
}

// toPorts stands for a jump to filterPorts until its place is known.
type toPorts struct{ bpf.Jump }

// checkPort lets pass n octets of the frame if the port at off is one of ours; X is added to off if indirect.
func checkPort(n, off uint32, indirect bool) []bpf.Instruction {
	var load bpf.Instruction = bpf.LoadAbsolute{Off: off, Size: 2}
	if indirect {
		load = bpf.LoadIndirect{Off: off, Size: 2}
	}
	return []bpf.Instruction{
		load,
		bpf.LoadConstant{Dst: bpf.RegX, Val: n},
		toPorts{},
	}
}

// filterPorts lets pass X octets of the frame if the accumulator is one of the ports.
func filterPorts(ports []portRange) []bpf.Instruction {
	var p []bpf.Instruction
	for _, r := range ports {
		p = append(p,
			bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: uint32(r.first), SkipTrue: 1},
			bpf.RetConstant{},
			bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: uint32(r.last), SkipTrue: 2},
			bpf.TXA{},
			bpf.RetA{},
		)
	}
	return append(p, bpf.RetConstant{})
}

func filterARP() []bpf.Instruction {
	return slices.Concat(
		[]bpf.Instruction{bpf.LoadAbsolute{Off: offARPKind, Size: 4}},
		when(bpf.JumpNotEqual, arpEtherIPv4, []bpf.Instruction{bpf.RetConstant{}}),
		[]bpf.Instruction{bpf.LoadAbsolute{Off: offARPOp, Size: 2}},
		when(bpf.JumpEqual, arpReply, []bpf.Instruction{bpf.RetConstant{Val: passWhole}}),
		when(bpf.JumpNotEqual, arpRequest, []bpf.Instruction{bpf.RetConstant{}}),
		[]bpf.Instruction{
			bpf.LoadAbsolute{Off: offARPSender, Size: 4},
			bpf.TAX{},
			bpf.LoadAbsolute{Off: offARPTarget, Size: 4},
			bpf.JumpIfX{Cond: bpf.JumpEqual, SkipTrue: 1},
			bpf.RetConstant{},
			bpf.RetConstant{Val: passWhole},
		},
	)
}

// passIf ends the program: the whole frame passes if the accumulator is one of vals.
func passIf(vals ...uint32) []bpf.Instruction {
	var p []bpf.Instruction
	for _, v := range vals {
		p = append(p, when(bpf.JumpEqual, v, []bpf.Instruction{bpf.RetConstant{Val: passWhole}})...)
	}
	return append(p, bpf.RetConstant{})
}

func filterIPv4() []bpf.Instruction {
	const offDstPort = offNet + header.TCPDstPortOffset
	icmp := append([]bpf.Instruction{bpf.LoadIndirect{Off: offNet, Size: 1}}, passIf(uint32(header.ICMPv4DstUnreachable))...)
	tcp := slices.Concat(
		[]bpf.Instruction{bpf.LoadAbsolute{Off: offV4Frag, Size: 2}},
		when(bpf.JumpBitsSet, v4More, checkPort(passHeaders, offDstPort, true)),
		checkPort(passWhole, offDstPort, true),
	)
	return slices.Concat(
		[]bpf.Instruction{bpf.LoadAbsolute{Off: offV4Frag, Size: 2}},
		when(bpf.JumpBitsSet, v4Offset, []bpf.Instruction{bpf.RetConstant{}}), // a later fragment has no ports
		[]bpf.Instruction{
			bpf.LoadMemShift{Off: offNet}, // X = length of the header, octets
			bpf.LoadAbsolute{Off: offV4Proto, Size: 1},
		},
		when(bpf.JumpEqual, uint32(header.ICMPv4ProtocolNumber), icmp),
		when(bpf.JumpEqual, uint32(header.TCPProtocolNumber), tcp),
		[]bpf.Instruction{bpf.RetConstant{}},
	)
}

func filterIPv6() []bpf.Instruction {
	const offDstPort = header.TCPDstPortOffset
	icmp := append([]bpf.Instruction{bpf.LoadAbsolute{Off: offV6Payload, Size: 1}},
		passIf(uint32(header.ICMPv6DstUnreachable), uint32(header.ICMPv6PacketTooBig), uint32(header.ICMPv6TimeExceeded),
			uint32(header.ICMPv6ParamProblem), uint32(header.ICMPv6NeighborAdvert))...)
	fragment := slices.Concat(
		[]bpf.Instruction{bpf.LoadAbsolute{Off: offV6Payload, Size: 1}},
		when(bpf.JumpNotEqual, uint32(header.TCPProtocolNumber), []bpf.Instruction{bpf.RetConstant{}}),
		[]bpf.Instruction{bpf.LoadAbsolute{Off: offV6Payload + 2, Size: 2}},
		when(bpf.JumpBitsSet, v6Offset, []bpf.Instruction{bpf.RetConstant{}}),
		checkPort(passHeaders, offV6Payload+header.IPv6FragmentHeaderSize+offDstPort, false),
	)
	return slices.Concat(
		[]bpf.Instruction{bpf.LoadAbsolute{Off: offV6Next, Size: 1}},
		when(bpf.JumpEqual, uint32(header.ICMPv6ProtocolNumber), icmp),
		when(bpf.JumpEqual, uint32(header.TCPProtocolNumber), checkPort(passWhole, offV6Payload+offDstPort, false)),
		when(bpf.JumpEqual, uint32(header.IPv6FragmentHeader), fragment),
		[]bpf.Instruction{bpf.RetConstant{}},
	)
}
