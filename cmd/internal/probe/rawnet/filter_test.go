package rawnet

import (
	"encoding/binary"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// The filter, run by the virtual machine of x/net, which has no word for the protocol of a packet: the load of it is replaced.
func TestFilter(t *testing.T) {
	raw, err := program(20000, 20255)
	if err != nil {
		t.Fatal(err)
	}
	accepts := func(pkt []byte) bool {
		protocol := uint32(unix.ETH_P_IP)
		if pkt[0]>>4 == 6 {
			protocol = unix.ETH_P_IPV6
		}
		var all []bpf.Instruction
		for i, r := range raw {
			var in bpf.Instruction = bpf.RawInstruction{Op: r.Code, Jt: r.Jt, Jf: r.Jf, K: r.K}.Disassemble()
			if i == 0 {
				if in != (bpf.LoadExtension{Num: bpf.ExtProto}) {
					t.Fatalf("begins with %v", in)
				}
				in = bpf.LoadConstant{Val: protocol}
			}
			all = append(all, in)
		}
		vm, err := bpf.NewVM(all)
		if err != nil {
			t.Fatal(err)
		}
		n, err := vm.Run(pkt)
		if err != nil {
			t.Fatal(err)
		}
		return n > 0
	}
	v4 := func(protocol byte, fragment uint16, options int, body ...byte) []byte {
		b := make([]byte, 20+options)
		b[0], b[9] = 0x40|byte(len(b)/4), protocol
		binary.BigEndian.PutUint16(b[6:], fragment)
		return append(append(b, body...), make([]byte, 40)...)
	}
	v6 := func(protocol byte, body ...byte) []byte {
		b := make([]byte, 40)
		b[0], b[6] = 0x60, protocol
		return append(append(b, body...), make([]byte, 40)...)
	}
	port := func(p uint16) []byte { return binary.BigEndian.AppendUint16([]byte{0, 80}, p) }
	for _, c := range []struct {
		name string
		pkt  []byte
		want bool
	}{
		{"first port", v4(6, 0x4000, 0, port(20000)...), true},
		{"last port", v4(6, 0, 8, port(20255)...), true},
		{"below", v4(6, 0, 0, port(19999)...), false},
		{"above", v4(6, 0, 0, port(20256)...), false},
		{"fragment", v4(6, 0x2000, 0, port(20000)...), false},
		{"UDP", v4(17, 0, 0, port(20000)...), false},
		{"unreachable", v4(1, 0, 0, 3), true},
		{"time exceeded", v4(1, 0, 4, 11), true},
		{"parameter problem", v4(1, 0, 0, 12), true},
		{"echo", v4(1, 0, 0, 8), false},
		{"IPv6, first port", v6(6, port(20000)...), true},
		{"IPv6, above", v6(6, port(20256)...), false},
		{"IPv6, time exceeded", v6(58, 3), true},
		{"IPv6, neighbour solicitation", v6(58, 135), false},
		{"IPv6, UDP", v6(17, port(20000)...), false},
	} {
		if got := accepts(c.pkt); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
