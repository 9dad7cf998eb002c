package host

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The expressions rules are built of. All work in register 1; numbers that the kernel keeps in its own byte order are
// compared in it, header fields in network order.

const reg = 1

func native32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func equal(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: data} }

func metaIs(key expr.MetaKey, data []byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: reg}, equal(data)}
}

func isTCP() []expr.Any { return metaIs(expr.MetaKeyL4PROTO, []byte{unix.IPPROTO_TCP}) }

// interfaceIs matches an interface by name, so that it may come and go.
func interfaceIs(key expr.MetaKey, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return metaIs(key, padded)
}

func interfaceIsNot(key expr.MetaKey, name string) []expr.Any {
	exprs := interfaceIs(key, name)
	exprs[1].(*expr.Cmp).Op = expr.CmpOpNeq
	return exprs
}

// isSYN matches the first segment of a TCP connection. It comes after [isTCP].
func isSYN() []expr.Any {
	const finSynRstAck, syn = 0x17, 0x02
	return []expr.Any{
		loadTransport(13, 1),
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 1, Mask: []byte{finSynRstAck}, Xor: []byte{0}},
		equal([]byte{syn}),
	}
}

func hasConnectionMark(mark, mask uint32) []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeyMARK, Register: reg}, masked(mask, 0), equal(native32(mark))}
}

// setConnectionMark changes the bits in mask only.
func setConnectionMark(mark, mask uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: reg}, masked(^mask, mark),
		&expr.Ct{Key: expr.CtKeyMARK, Register: reg, SourceRegister: true},
	}
}

// fibLocal matches destinations by whether they are addresses of this host, whichever it has at the time.
func fibLocal(op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: op, Register: reg, Data: native32(unix.RTN_LOCAL)},
	}
}

func loadNetwork(offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

func loadTransport(offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: length}
}

// loadDestination reads the destination address of the family's header.
func loadDestination(is4 bool) expr.Any {
	if is4 {
		return loadNetwork(16, 4)
	}
	return loadNetwork(24, 16)
}

func loadDestinationPort() expr.Any { return loadTransport(2, 2) }

func inSet(set *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: reg, SetName: set.Name, SetID: set.ID}
}

func masked(mask, xor uint32) expr.Any {
	return &expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: native32(mask), Xor: native32(xor)}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

// An interval of a set is two elements: its first member, and the first after it that is not one. The latter is left out
// where nothing comes after.

func portElements(ports Ports) []nftables.SetElement {
	var out []nftables.SetElement
	for _, r := range ports {
		out = append(out, nftables.SetElement{Key: binary.BigEndian.AppendUint16(nil, r.First)})
		if r.Last != 1<<16-1 {
			out = append(out, nftables.SetElement{Key: binary.BigEndian.AppendUint16(nil, r.Last+1), IntervalEnd: true})
		}
	}
	return out
}

func addrElements(ranges []addrRange) []nftables.SetElement {
	var out []nftables.SetElement
	for _, r := range ranges {
		out = append(out, nftables.SetElement{Key: r.first.AsSlice()})
		if after := r.last.Next(); after.IsValid() {
			out = append(out, nftables.SetElement{Key: after.AsSlice(), IntervalEnd: true})
		}
	}
	return out
}

func nfproto(is4 bool) []byte {
	if is4 {
		return []byte{unix.NFPROTO_IPV4}
	}
	return []byte{unix.NFPROTO_IPV6}
}

// etherType is how a netdev chain knows the family.
func etherType(addr netip.Addr) []byte {
	if addr.Is4() {
		return binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP)
	}
	return binary.BigEndian.AppendUint16(nil, unix.ETH_P_IPV6)
}
