package stack

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"sync/atomic"
)

// portPicker chooses local ports by destination: RFC 6056, Section 3.3.4 (double-hash port selection). Ports to one
// destination come in turn from a secret start, so the one that is next has been out of use for longest, which is what
// reuse of a port in TIME-WAIT wants; those to other destinations tell nothing about them.
type portPicker struct {
	ports   []uint16
	secret  [sha256.Size]byte
	counter [1024]atomic.Uint32
}

func newPortPicker(ports []uint16, secret [sha256.Size]byte) *portPicker {
	return &portPicker{ports: ports, secret: secret}
}

// start returns a function whose n-th call gives the n-th candidate for a connection from local to remote.
func (p *portPicker) start(local netip.Addr, remote netip.AddrPort) func() uint16 {
	h := sha256.New()
	h.Write(p.secret[:])
	h.Write(local.AsSlice())
	h.Write(remote.Addr().AsSlice())
	h.Write(binary.BigEndian.AppendUint16(nil, remote.Port()))
	var sum [sha256.Size]byte
	h.Sum(sum[:0])
	offset := binary.BigEndian.Uint32(sum[:])
	counter := &p.counter[binary.BigEndian.Uint32(sum[4:])%uint32(len(p.counter))]
	return func() uint16 {
		n := counter.Add(1)
		return p.ports[(uint64(offset)+uint64(n))%uint64(len(p.ports))]
	}
}
