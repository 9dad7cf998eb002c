package stack_test

import (
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	tcpipstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"innertun/stack"
	"innertun/stack/stacktest"
)

// offloading is a link that takes whole super-segments, and completes checksums.
type offloading struct{ *channel.Endpoint }

func newOffloading() offloading {
	e := channel.New(64, 1500, "")
	e.SupportedGSOKind = tcpipstack.HostGSOSupported
	return offloading{e}
}

func (o offloading) LinkEndpoint() tcpipstack.LinkEndpoint { return o.Endpoint }

func (o offloading) Close() error {
	o.Endpoint.Close()
	return nil
}

func (o offloading) next(t *testing.T) *tcpipstack.PacketBuffer {
	t.Helper()
	pkt := o.ReadContext(testContext(t))
	if pkt == nil {
		t.Fatal("no packet came")
	}
	t.Cleanup(pkt.DecRef)
	return pkt
}

func (o offloading) inject(proto tcpip.NetworkProtocolNumber, raw []byte) {
	pkt := tcpipstack.NewPacketBuffer(tcpipstack.PacketBufferOptions{Payload: buffer.MakeWithData(raw)})
	o.InjectInbound(proto, pkt)
	pkt.DecRef()
}

// Super-segments leave with ENO too, and what the link makes of them fits the path.
func TestOptionsOnSuperSegments(t *testing.T) {
	families(t, func(t *testing.T, at netip.AddrPort) {
		o := newOffloading()
		// By a clock that stands still nothing is sent again.
		s := newStack(t, stack.Config{Link: o, Addresses: []netip.Prefix{client4, client6}, Routes: routes, Clock: stacktest.NewClock()})
		dialled := make(chan *stack.Conn, 1)
		go func() {
			c, err := s.Dial(testContext(t), stack.Flow{Remote: at}, clientHandshake())
			if err != nil {
				t.Errorf("Dial: %v", err)
			}
			dialled <- c
		}()
		pkt := o.next(t)
		syn, err := stacktest.Parse(pkt.ToView().AsSlice())
		if err != nil || !hasENO(syn.Options) {
			t.Fatalf("the SYN: %v, %v", syn, err)
		}
		synOptions := []byte{2, 4, 5, 180, 4, 2, 3, 3, 10, 69, 3, 0x23}
		if ts, ok := syn.Option(8); ok {
			synOptions = append(append(synOptions, 8, 10, 0, 0, 0, 1), ts[:4]...)
		}
		o.inject(pkt.NetworkProtocolNumber, stacktest.Segment(at, syn.Src, 9000, syn.Seq+1, stacktest.SYN|stacktest.ACK, synOptions, nil))
		c := <-dialled
		defer c.Abort()

		checkPartial(t, o.next(t)) // the third segment
		c.SetWriteDeadline(time.Now().Add(testTimeout))
		if _, err := c.Write(make([]byte, 60000)); err != nil {
			t.Fatal(err)
		}
		super := o.next(t)
		checkPartial(t, super)
		g, t4 := super.GSOOptions, header.TCP(super.TransportHeader().Slice())
		if g.Type == tcpipstack.GSONone || super.Data().Size() <= int(g.MSS) {
			t.Fatalf("not a super-segment: %d octets, %+v", super.Data().Size(), g)
		}
		ip := len(super.NetworkHeader().Slice())
		if int(g.L3HdrLen) != ip || int(g.MSS)+int(t4.DataOffset())+ip > 1500 {
			t.Fatalf("segments of %d octets: %+v", int(g.MSS)+int(t4.DataOffset())+ip, g)
		}
	})
}

// checkPartial checks a segment with ENO whose checksum the link completes.
func checkPartial(t *testing.T, pkt *tcpipstack.PacketBuffer) {
	t.Helper()
	raw := pkt.ToView().AsSlice()
	t4 := header.TCP(pkt.TransportHeader().Slice())
	if !hasENO(t4[header.TCPMinimumSize:t4.DataOffset()]) {
		t.Fatalf("no ENO: %x", []byte(t4))
	}
	if pkt.TransportProtocolNumber != header.TCPProtocolNumber || !pkt.GSOOptions.NeedsCsum {
		t.Fatalf("%+v", pkt.GSOOptions)
	}
	var pseudo uint16
	length := len(t4) + pkt.Data().Size()
	if pkt.NetworkProtocolNumber == header.IPv4ProtocolNumber {
		ip := header.IPv4(raw)
		if !ip.IsChecksumValid() || int(ip.TotalLength()) != len(raw) {
			t.Fatalf("IP header: %x", raw[:20])
		}
		pseudo = header.PseudoHeaderChecksum(header.TCPProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(length))
	} else {
		ip := header.IPv6(raw)
		if int(ip.PayloadLength()) != length {
			t.Fatalf("IP header: %x", raw[:40])
		}
		pseudo = header.PseudoHeaderChecksum(header.TCPProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(length))
	}
	if t4.Checksum() != pseudo {
		t.Fatalf("checksum %04x, that of the pseudo-header is %04x", t4.Checksum(), pseudo)
	}
}
