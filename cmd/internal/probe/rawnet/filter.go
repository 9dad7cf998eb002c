package rawnet

import (
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// program accepts TCP segments to the ports from first to last, and ICMP errors, in packets that begin with the IP header.
func program(first, last uint16) ([]unix.SockFilter, error) {
	const (
		drop   = 0
		accept = 1 << 18
	)
	inRange := func(load bpf.Instruction) []bpf.Instruction {
		return []bpf.Instruction{load,
			bpf.JumpIf{Cond: bpf.JumpLessThan, Val: uint32(first), SkipTrue: 1},
			bpf.JumpIf{Cond: bpf.JumpLessOrEqual, Val: uint32(last), SkipTrue: 1},
			bpf.RetConstant{Val: drop}, bpf.RetConstant{Val: accept},
		}
	}
	tcp4 := inRange(bpf.LoadIndirect{Off: 2, Size: 2})
	icmp4 := []bpf.Instruction{ // destination unreachable, time exceeded, parameter problem
		bpf.LoadIndirect{Off: 0, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 3, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 11, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 12, SkipTrue: 1},
		bpf.RetConstant{Val: drop}, bpf.RetConstant{Val: accept},
	}
	tcp6 := inRange(bpf.LoadAbsolute{Off: 42, Size: 2})
	icmp6 := []bpf.Instruction{ // errors are below 128. RFC 4443, Section 2.1
		bpf.LoadAbsolute{Off: 40, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: 128, SkipTrue: 1},
		bpf.RetConstant{Val: drop}, bpf.RetConstant{Val: accept},
	}
	v6 := []bpf.Instruction{
		bpf.LoadAbsolute{Off: 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_TCP, SkipFalse: uint8(len(tcp6))},
	}
	v6 = append(v6, tcp6...)
	v6 = append(v6, bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 1}, bpf.RetConstant{Val: drop})
	v6 = append(v6, icmp6...)
	v4 := []bpf.Instruction{
		bpf.LoadMemShift{Off: 0},
		bpf.LoadAbsolute{Off: 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: 0x3fff, SkipTrue: 1},
		bpf.RetConstant{Val: drop}, // a fragment
		bpf.LoadAbsolute{Off: 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_TCP, SkipFalse: uint8(len(tcp4))},
	}
	v4 = append(v4, tcp4...)
	v4 = append(v4, bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_ICMP, SkipTrue: 1}, bpf.RetConstant{Val: drop})
	v4 = append(v4, icmp4...)
	all := []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtProto},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IP, SkipFalse: uint8(len(v4))},
	}
	all = append(all, v4...)
	all = append(all, bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IPV6, SkipTrue: 1}, bpf.RetConstant{Val: drop})
	raw, err := bpf.Assemble(append(all, v6...))
	if err != nil {
		return nil, err
	}
	out := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		out[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return out, nil
}
