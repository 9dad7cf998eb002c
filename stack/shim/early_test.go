package shim

import (
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/faketime"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
)

// What was refused before its turn has come is not opened early: it has been aborted.
func TestGoneIsNotOpenedEarly(t *testing.T) {
	for _, gone := range []bool{false, true} {
		s := New(Config{Lower: channel.New(1, 1500, ""), Host: noHost{}, Clock: faketime.NewManualClock(), MaxFlows: 8, Timeouts: new(tcpip.StatCounter)})
		up := &above{}
		s.Attach(up)
		f := Flow{Local: netip.MustParseAddrPort("198.18.0.1:80"), Remote: netip.MustParseAddrPort("198.18.0.2:8000")}
		e := s.table.addPassive(newEntry(f, noHandshake{}, false, s.clock.NowMonotonic()), false)
		e.synAck = make([]byte, header.TCPMinimumSize)
		e.early.ip = append([]byte{0x45}, make([]byte, header.IPv4MinimumSize-1)...)
		if gone {
			s.table.remove(e)
		}
		s.openEarly(e)
		if e.awaitsThird() == gone || up.packets == 1 == gone {
			t.Errorf("gone %v: opened %v, %d packets", gone, e.awaitsThird(), up.packets)
		}
		s.Stop()
	}
}
