package stack_test

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"innertun/stack"
	"innertun/stack/stacktest"
)

// narrow is a router before a link with an MTU of mtu octets: it drops what is too big and tells the client.
func narrow(w *world, mtu int) stacktest.Tap {
	return func(d stacktest.Direction, p stacktest.Packet) [][]byte {
		if d == stacktest.AtoB && len(p.Raw) > mtu {
			go w.path.A.Inject(tooBig(p, mtu))
			return nil
		}
		if p.Flags&stacktest.SYN != 0 {
			withoutSACK(p)
		}
		return [][]byte{p.Raw}
	}
}

// withoutSACK takes the SACK-permitted option away: the netstack keeps room for SACK blocks in all segments, which
// options of a handshake could use unnoticed.
func withoutSACK(p stacktest.Packet) {
	for i := 0; i+1 < len(p.Options); i++ {
		switch {
		case p.Options[i] == 4 && p.Options[i+1] == 2:
			p.Options[i], p.Options[i+1] = 1, 1
			stacktest.SetTCPChecksum(p.Raw)
			return
		case p.Options[i] != 1:
			i += int(p.Options[i+1]) - 1
		}
	}
}

// tooBig is the router's message about a packet.
func tooBig(p stacktest.Packet, mtu int) []byte {
	quote := p.Raw[:80]
	m := make([]byte, 8+len(quote))
	copy(m[8:], quote)
	src, dst := p.Dst.Addr(), p.Src.Addr()
	if src.Is4() {
		m[0], m[1] = 3, 4
		binary.BigEndian.PutUint16(m[6:], uint16(mtu))
		binary.BigEndian.PutUint16(m[2:], ^checksum.Checksum(m, 0))
		ip := make(header.IPv4, header.IPv4MinimumSize)
		ip[0], ip[8], ip[9] = 0x45, 64, 1
		ip.SetTotalLength(uint16(len(ip) + len(m)))
		copy(ip[12:], src.AsSlice())
		copy(ip[16:], dst.AsSlice())
		ip.SetChecksum(^ip.CalculateChecksum())
		return append(ip, m...)
	}
	m[0] = 2
	binary.BigEndian.PutUint32(m[4:], uint32(mtu))
	ip := make(header.IPv6, header.IPv6MinimumSize)
	ip[0], ip[6], ip[7] = 0x60, 58, 64
	ip.SetPayloadLength(uint16(len(m)))
	copy(ip[8:], src.AsSlice())
	copy(ip[24:], dst.AsSlice())
	pseudo := header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(len(m)))
	binary.BigEndian.PutUint16(m[2:], ^checksum.Checksum(m, pseudo))
	return append(ip, m...)
}

// Full-sized segments with ENO meet a path that is narrower than the interface.
func TestEarlyDataOnNarrowPath(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		exact := 1280 - 20 - 32 // the payload of one segment that fits, but for the options
		if at.Addr().Is6() {
			exact -= 20
		}
		for _, x := range []struct{ mtu, octets int }{{1280, 100000}, {1400, 100000}, {1280, exact}} {
			mtu := x.mtu
			w := newWorld(t, 2*time.Millisecond)
			w.path.SetTap(narrow(w, mtu))
			var hs serverHandshakes
			l := w.listen(t, at, hs.new)
			c, err := w.client.Dial(testContext(t), stack.Flow{Remote: at}, clientHandshake())
			if err != nil {
				t.Fatal(err)
			}
			data := randomBytes(x.octets)
			go c.Write(data)
			s, err := l.AcceptConn()
			if err != nil {
				t.Fatal(err)
			}
			s.SetDeadline(time.Now().Add(testTimeout))
			got := make([]byte, len(data))
			if n, err := readFull(s, got); err != nil || string(got) != string(data) {
				t.Fatalf("MTU %d: %d octets arrived, %v", mtu, n, err)
			}
			checkShown(t, c.Handshake(), s.Handshake())
			c.Close()
			s.Close()
		}
	})
}

// What ICMP says of impossible MTUs does not make segments of single octets.
func TestForgedPathMTU(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		w := newWorld(t, 0)
		c, s := w.connect(t, w.listen(t, at, nil), at, nil)
		w.path.Capture()
		carry(t, c, s, randomBytes(10000))
		for _, mtu := range []int{0, 1, 67} {
			for _, p := range w.path.Packets() {
				if len(p.Payload) > 1000 {
					w.path.A.Inject(tooBig(p.Packet, mtu))
					break
				}
			}
		}
		w.path.Capture()
		carry(t, c, s, randomBytes(10000))
		for _, p := range w.path.Packets() {
			if p.Direction == stacktest.AtoB && len(p.Payload) > 400 {
				return
			}
		}
		t.Fatal("segments have become tiny")
	})
}
