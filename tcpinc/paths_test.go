package tcpinc

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"innertun/tcpinc/eno"
)

func destination(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}), 80)
}

func TestPathMemoryExpires(t *testing.T) {
	m := &PathMemory{TTL: time.Minute, SuccessTTL: time.Hour}
	now := time.Unix(1e9, 0)
	to := destination(1)
	if got := m.Failed(to, now); got != eno.NoReason {
		t.Errorf("unknown path: %v", got)
	}
	m.Succeed(to, now)
	m.Fail(to, eno.Stripped, now)
	for after, want := range map[time.Duration]eno.Reason{
		0: eno.Stripped, time.Minute - 1: eno.Stripped, time.Minute: eno.NoReason, time.Hour: eno.NoReason,
	} {
		if got := m.Failed(to, now.Add(after)); got != want {
			t.Errorf("after %v: %v, want %v", after, got, want)
		}
	}
	if got := m.Failed(netip.AddrPortFrom(to.Addr(), 81), now); got != eno.NoReason {
		t.Errorf("another port: %v", got)
	}
	if was, first := m.Downgraded(to, now.Add(time.Minute)); !was || !first {
		t.Errorf("downgraded %v, first %v", was, first)
	}
	if was, first := m.Downgraded(to, now.Add(time.Minute)); !was || first {
		t.Errorf("again: downgraded %v, first %v", was, first)
	}
	if was, _ := m.Downgraded(to, now.Add(time.Hour)); was {
		t.Error("success does not expire")
	}
	m.Succeed(to, now)
	if got := m.Failed(to, now); got != eno.NoReason {
		t.Errorf("after a success: %v", got)
	}
	if _, first := m.Downgraded(to, now); !first {
		t.Error("a success does not start anew")
	}
	if was, _ := m.Downgraded(destination(2), now); was {
		t.Error("an unknown destination was downgraded")
	}
}

func TestPathMemoryIsBounded(t *testing.T) {
	m := &PathMemory{Max: 100}
	now := time.Unix(1e9, 0)
	for i := range 1000 {
		m.Fail(destination(i), eno.SYNENODropped, now)
		m.Failed(destination(0), now) // in use: kept
	}
	if m.Len() != 100 || m.used.Len() != 100 {
		t.Errorf("%d destinations", m.Len())
	}
	for i, want := range map[int]eno.Reason{0: eno.SYNENODropped, 1: eno.NoReason, 900: eno.NoReason, 901: eno.SYNENODropped, 999: eno.SYNENODropped} {
		if got := m.Failed(destination(i), now); got != want {
			t.Errorf("destination %d: %v, want %v", i, got, want)
		}
	}
}

func TestPathMemoryNil(t *testing.T) {
	var m *PathMemory
	m.Fail(destination(1), eno.Stripped, time.Now())
	m.Succeed(destination(1), time.Now())
	if was, first := m.Downgraded(destination(1), time.Now()); was || first || m.Failed(destination(1), time.Now()) != eno.NoReason || m.Len() != 0 {
		t.Error("nil remembers")
	}
}

func TestPathMemoryConcurrent(t *testing.T) {
	m := &PathMemory{Max: 10}
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 500 {
				to := destination((i*7 + g) % 30)
				m.Fail(to, eno.Stripped, time.Now())
				m.Failed(to, time.Now())
				m.Succeed(to, time.Now())
				m.Downgraded(to, time.Now())
			}
		})
	}
	all.Wait()
	if m.Len() > 10 {
		t.Errorf("%d destinations", m.Len())
	}
}
