package link

import (
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A packet is read into three views. All headers fit the first, so that taking them off never copies the others; an
// ordinary full-size packet ends in the second; the third takes a super-packet. All are sizes of gVisor's pools.
const (
	headViewLen = 128
	midViewLen  = 2048
	tailViewLen = 65536

	// copyTailMax is up to how many octets in the third view are copied to a view of their own size, so that a
	// packet never holds many times its size in memory.
	copyTailMax = tailViewLen / 4
)

// slot is where one packet is read to.
type slot struct {
	vnet            [vnetHeaderLen]byte
	head, mid, tail *buffer.View
	iov             [4]unix.Iovec
}

// fill replaces the views that were handed on and points the iovecs at what is there.
func (s *slot) fill() {
	if s.head == nil {
		s.head = buffer.NewViewSize(headViewLen)
		s.iov[1] = iovec(s.head.AsSlice())
	}
	if s.mid == nil {
		s.mid = buffer.NewViewSize(midViewLen)
		s.iov[2] = iovec(s.mid.AsSlice())
	}
	if s.tail == nil {
		s.tail = buffer.NewViewSize(tailViewLen)
		s.iov[3] = iovec(s.tail.AsSlice())
	}
	s.iov[0] = iovec(s.vnet[:])
}

func (s *slot) release() {
	for _, v := range [...]*buffer.View{s.head, s.mid, s.tail} {
		if v != nil {
			v.Release()
		}
	}
	s.head, s.mid, s.tail = nil, nil, nil
}

// parts returns the n octets of the packet, link header included, where they lie.
func (s *slot) parts(n int) (first []byte, more [2][]byte) {
	first = s.head.AsSlice()[:min(n, headViewLen)]
	if n > headViewLen {
		more[0] = s.mid.AsSlice()[:min(n-headViewLen, midViewLen)]
	}
	if n > headViewLen+midViewLen {
		more[1] = s.tail.AsSlice()[:n-headViewLen-midViewLen]
	}
	return first, more
}

// take hands on the n octets of the packet.
func (s *slot) take(n int) *stack.PacketBuffer {
	var b buffer.Buffer
	s.head.CapLength(n)
	_ = b.Append(s.head)
	s.head = nil
	if n > headViewLen {
		s.mid.CapLength(n - headViewLen)
		_ = b.Append(s.mid)
		s.mid = nil
	}
	if rest := n - headViewLen - midViewLen; rest > copyTailMax {
		s.tail.CapLength(rest)
		_ = b.Append(s.tail)
		s.tail = nil
	} else if rest > 0 {
		_ = b.Append(buffer.NewViewWithData(s.tail.AsSlice()[:rest]))
	}
	return stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: b})
}

// receive turns the n octets that were read into the slot, virtio-net header included, into a packet for the
// netstack; nil if it is not to be delivered.
func (e *endpoint) receive(s *slot, n int) *stack.PacketBuffer {
	vnet, used, err := parseVnetHeader(s.vnet[:min(n, vnetHeaderLen)])
	if err != nil {
		e.stats.malformed.Add(1)
		return nil
	}
	n -= used
	e.stats.receivedBytes.Add(uint64(n))
	first, more := s.parts(n)
	if tap := e.tap.Load(); tap != nil {
		tapReceived(*tap, vnet, first, more)
	}
	linkLen := e.linkHeaderLen()
	if len(first) <= linkLen {
		e.stats.malformed.Add(1)
		return nil
	}
	proto := header.IPv4ProtocolNumber
	group := false
	if e.ethernet {
		eth := header.Ethernet(first)
		proto = eth.Type()
		group = eth[0]&1 != 0
	} else if header.IPVersion(first) == header.IPv6Version {
		proto = header.IPv6ProtocolNumber
	}
	switch proto {
	case header.ARPProtocolNumber:
		if !e.admitARP(first[linkLen:]) {
			return nil
		}
	case header.IPv4ProtocolNumber, header.IPv6ProtocolNumber:
		if !e.admit(inspect(first[linkLen:], more, vnet.checksumVouched())) {
			return nil
		}
	default:
		e.stats.malformed.Add(1)
		return nil
	}
	pkt := s.take(n)
	if _, ok := pkt.LinkHeader().Consume(linkLen); !ok {
		pkt.DecRef()
		return nil
	}
	pkt.NetworkProtocolNumber = proto
	if group {
		// A broadcast ARP reply answers no request of ours and must not confirm a neighbour.
		pkt.PktType = packetGroup
	}
	return pkt
}

// admit counts a packet that is not sound.
func (e *endpoint) admit(v verdict) bool {
	switch v {
	case sound:
		return true
	case fragment:
		e.stats.fragments.Add(1)
	case badChecksum:
		e.stats.badChecksums.Add(1)
	default:
		e.stats.malformed.Add(1)
	}
	return false
}
