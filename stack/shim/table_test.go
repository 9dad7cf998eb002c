package shim

import (
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/faketime"
)

// A half-open entry whose SYN had payload keeps its place for a time if it is taken back, and frees it at once if it opens.
func TestSlotsOfUpgradedSYNs(t *testing.T) {
	clock := faketime.NewManualClock()
	tab := newTable(clock, 100, 2)
	defer tab.close()
	port := uint16(0)
	add := func() *Entry {
		port++
		f := Flow{Local: netip.MustParseAddrPort("198.18.0.1:80"), Remote: netip.AddrPortFrom(netip.MustParseAddr("198.18.0.2"), port)}
		return tab.addPassive(newEntry(f, noHandshake{}, false, clock.NowMonotonic()), true)
	}
	tab.remove(add()) // by a RST, or as it was refused
	tab.open(add())
	if tab.crowded() {
		t.Fatal("an open connection has a place among half-open ones")
	}
	tab.remove(add())
	if !tab.crowded() {
		t.Fatal("who takes his SYN back has room for another at once")
	}
	clock.Advance(evictAge)
	if tab.crowded() {
		t.Fatal("a place is not free in time")
	}
	for range 2 {
		add()
	}
	if _, halfOpen := tab.count(); !tab.crowded() || tab.upgraded.Len() != 2 || halfOpen != 2 {
		t.Fatalf("%d places, %d half-open", tab.upgraded.Len(), halfOpen)
	}
	clock.Advance(evictAge)
	for range 2 {
		add()
	}
	if _, halfOpen := tab.count(); !tab.crowded() || tab.upgraded.Len() != 2 || halfOpen != 2 {
		t.Fatalf("the old ones do not make room: %d places, %d half-open", tab.upgraded.Len(), halfOpen)
	}
}
