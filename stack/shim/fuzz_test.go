package shim

import (
	"bytes"
	"net/netip"
	"syscall"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/faketime"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	tcpipstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

type noHost struct{}

func (noHost) Connected(Flow) bool               { return false }
func (noHost) Arrives(Flow)                      {}
func (noHost) Abort(Flow)                        {}
func (noHost) Renew(Flow)                        {}
func (noHost) Unreachable(Flow, syscall.Errno)   {}
func (noHost) Reset(Flow, uint32, uint32, uint8) {}
func (noHost) Timeouts(Flow) uint64              { return 0 }
func (noHost) Narrow(Flow, int)                  {}

type noHandshake struct{}

func (noHandshake) AppendOptions(dst []byte, _ Segment, _ int) []byte { return dst }
func (noHandshake) AppendPayload(dst []byte, _ Segment, _ int) []byte { return dst }
func (noHandshake) Receive(Segment, []byte, []byte) (bool, error)     { return true, nil }
func (noHandshake) Incoming(Header) Verdict                           { return Hold }

// above takes what the shim delivers.
type above struct{ packets int }

func (a *above) DeliverNetworkPacket(tcpip.NetworkProtocolNumber, *tcpipstack.PacketBuffer) {
	a.packets++
}
func (a *above) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *tcpipstack.PacketBuffer) {}

// FuzzDeliver gives a shim packets of any form, on a connection it knows and on others.
func FuzzDeliver(f *testing.F) {
	local, remote := netip.MustParseAddrPort("198.18.0.1:80"), netip.MustParseAddrPort("198.18.0.2:8000")
	v4 := append([]byte{0x45, 0, 0, 44, 0, 0, 0, 0, 64, 6, 0, 0, 198, 18, 0, 2, 198, 18, 0, 1},
		0x1f, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 2, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 5, 180)
	f.Add(v4)
	f.Add(append(bytes.Clone(v4[:32]), 0x60, 0x10, 0xff, 0xff, 0, 0, 0, 0, 69, 2, 1, 1))
	f.Add(append(append([]byte{0x45, 0, 0, 72, 0, 0, 0, 0, 64, 1, 0, 0, 198, 18, 0, 2, 198, 18, 0, 1}, 3, 4, 0, 0, 0, 0, 5, 0), v4...))
	f.Add(append([]byte{0x60, 0, 0, 0, 0, 20, 6, 64}, make([]byte, 52)...))
	f.Fuzz(func(t *testing.T, raw []byte) {
		lower := channel.New(1, 1500, "")
		s := New(Config{Lower: lower, Host: noHost{}, Clock: faketime.NewManualClock(), MaxFlows: 8, Timeouts: new(tcpip.StatCounter)})
		defer s.Stop()
		up := &above{}
		s.Attach(up)
		s.Listen(local, func(Flow) Handshake { return noHandshake{} })
		if _, err := s.Register(Flow{Local: local, Remote: remote}, noHandshake{}); err != nil {
			t.Fatal(err)
		}
		for _, validated := range []bool{false, true} {
			for _, proto := range []tcpip.NetworkProtocolNumber{header.IPv4ProtocolNumber, header.IPv6ProtocolNumber} {
				pkt := tcpipstack.NewPacketBuffer(tcpipstack.PacketBufferOptions{Payload: buffer.MakeWithData(raw)})
				pkt.RXChecksumValidated = validated
				s.DeliverNetworkPacket(proto, pkt)
				pkt.DecRef()
			}
		}
	})
}

func TestPackOptions(t *testing.T) {
	in := []byte{1, 1, 2, 4, 5, 180, 4, 2, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 8, 0, 9, 9}
	want := []byte{2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 3, 3, 8}
	if got := packOptions(nil, in); !bytes.Equal(got, want) {
		t.Fatalf("%x, want %x", got, want)
	}
	if got := padOptions(bytes.Clone(want)); len(got) != 20 || got[19] != 1 {
		t.Fatalf("padded: %x", got)
	}
	// Every prefix is taken apart without harm, and gives no option that it does not have in full.
	for n := range in {
		if got := packOptions(nil, in[:n]); !bytes.HasPrefix(want, got) {
			t.Fatalf("%x of %x", got, in[:n])
		}
	}
}

func TestLowerMSS(t *testing.T) {
	for _, c := range []struct{ mss, own, want int }{{1460, 1460, 1456}, {8960, 1460, 1456}, {1200, 1460, 1196}, {60, 1460, 60}} {
		b := []byte{1, 2, 4, byte(c.mss >> 8), byte(c.mss)}
		lowerMSS(b, c.own)
		if got := int(b[3])<<8 | int(b[4]); got != c.want {
			t.Fatalf("%+v: %d", c, got)
		}
	}
	lowerMSS([]byte{2, 4, 5}, 1460) // cut short
}
