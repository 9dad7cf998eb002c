package tcpinc

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"innertun/tcpinc/eno"
)

func destination(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}), 80)
}

var epoch = time.Unix(1e9, 0)

func TestPathMemoryExpires(t *testing.T) {
	m := &PathMemory{TTL: time.Minute, SuccessTTL: time.Hour}
	now := epoch
	to := destination(1)
	p := m.path(to)
	if got := m.Failed(to, now); got != eno.NoReason {
		t.Errorf("unknown path: %v", got)
	}
	m.succeed(p, false, now)
	m.fail(p, eno.Stripped, now)
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
	mapped := netip.AddrPortFrom(netip.AddrFrom16(to.Addr().As16()), to.Port())
	if got := m.Failed(mapped, now); got != eno.Stripped {
		t.Errorf("the same address, mapped: %v", got)
	}
	if was, first := m.downgraded(to, now.Add(time.Minute)); !was || !first {
		t.Errorf("downgraded %v, first %v", was, first)
	}
	if was, first := m.downgraded(mapped, now.Add(time.Minute)); !was || first {
		t.Errorf("again: downgraded %v, first %v", was, first)
	}
	if was, _ := m.downgraded(to, now.Add(time.Hour)); was {
		t.Error("success does not expire")
	}
	m.succeed(p, false, now)
	if got := m.Failed(to, now); got != eno.NoReason {
		t.Errorf("after a success: %v", got)
	}
	if _, first := m.downgraded(to, now); !first {
		t.Error("a success does not start anew")
	}
	if was, _ := m.downgraded(destination(2), now); was {
		t.Error("an unknown destination was downgraded")
	}
}

// A path that goes on failing is tried ever more rarely, at most once in MaxTTL, and by one attempt at a time.
func TestPathMemoryGrows(t *testing.T) {
	m := new(PathMemory)
	now := epoch
	p := m.path(destination(1))
	var waits []time.Duration
	for range 10 {
		if got := m.try(p, now); got != eno.NoReason {
			t.Fatalf("at %v: %v", now.Sub(epoch), got)
		}
		m.fail(p, eno.Stripped, now)
		m.fail(p, eno.Stripped, now.Add(time.Second)) // under way beside it: one failure
		wait := faultOf(m, now).Retry.Sub(now)
		waits = append(waits, wait)
		if got := m.try(p, now.Add(wait-1)); got != eno.Stripped {
			t.Errorf("just before %v: %v", wait, got)
		}
		now = now.Add(wait)
	}
	minutes := func(l ...int) (d []time.Duration) {
		for _, n := range l {
			d = append(d, time.Duration(n)*time.Minute)
		}
		return d
	}
	if d := cmp.Diff(minutes(10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440), waits); d != "" {
		t.Error(d)
	}
	if m.try(p, now) != eno.NoReason || m.try(p, now) != eno.Stripped || m.try(p, now.Add(probeTime-1)) != eno.Stripped {
		t.Error("more than one finds out")
	}
	if m.try(p, now.Add(probeTime)) != eno.NoReason {
		t.Error("one that never told holds up all")
	}
	m.succeed(p, false, now)
	m.fail(p, eno.Stripped, now)
	if got := faultOf(m, now); got.Retry != now.Add(DefaultPathTTL) || got.Failures != 1 {
		t.Errorf("after a success: %+v", got)
	}
	m.fail(p, eno.Stripped, now.Add(DefaultPathTTL+DefaultMaxPathTTL)) // nobody tried for long
	if got := faultOf(m, now); got.Failures != 1 {
		t.Errorf("a fault of another day: %+v", got)
	}
}

// faultOf returns the one fault that m knows of.
func faultOf(m *PathMemory, now time.Time) PathInfo {
	for _, i := range m.List(now) {
		if i.Fault != eno.NoReason {
			return i
		}
	}
	return PathInfo{}
}

func TestGrowing(t *testing.T) {
	for _, v := range []struct {
		first, limit time.Duration
		times        int
		want         time.Duration
	}{
		{1, 8, 1, 1}, {1, 8, 3, 4}, {1, 8, 4, 8}, {1, 8, 5, 8}, {3, 8, 2, 6}, {3, 8, 3, 8}, {9, 8, 1, 8},
		{time.Minute, 1<<63 - 1, 1000, 1<<63 - 1}, {1, 1, 1000, 1},
	} {
		if got := growing(v.first, v.limit, v.times); got != v.want {
			t.Errorf("%+v: %v", v, got)
		}
	}
}

// What happens on a network, and which destinations are then spared ENO on it.
func TestPathMemoryNetworks(t *testing.T) {
	const drop, strip = eno.SYNENODropped, eno.Stripped
	type memory struct {
		*PathMemory
		here string
		now  time.Time
	}
	fail := func(n int, why eno.Reason) func(*memory) {
		return func(m *memory) { m.fail(m.path(destination(n)), why, m.now) }
	}
	succeed := func(n int) func(*memory) {
		return func(m *memory) { m.succeed(m.path(destination(n)), false, m.now) }
	}
	answered := func(n int) func(*memory) { return func(m *memory) { m.answered(m.path(destination(n))) } }
	move := func(to string) func(*memory) { return func(m *memory) { m.here = to } }
	wait := func(d time.Duration) func(*memory) { return func(m *memory) { m.now = m.now.Add(d) } }
	for _, v := range []struct {
		name  string
		steps []func(*memory)
		want  eno.Reason // of a destination never seen
		known eno.Reason // of destination 9, if it is not the same
	}{
		{name: "one failure", steps: []func(*memory){fail(1, drop)}},
		{name: "one destination, again and again", steps: []func(*memory){fail(1, drop), wait(DefaultPathTTL), fail(1, drop), wait(time.Hour), fail(1, drop)}},
		{name: "two", steps: []func(*memory){fail(1, drop), fail(2, drop)}, want: drop, known: drop},
		{name: "two that are stripped", steps: []func(*memory){fail(1, strip), fail(2, strip)}, want: strip, known: strip},
		{name: "two, differently", steps: []func(*memory){fail(1, drop), fail(2, strip)}},
		{name: "two, far apart", steps: []func(*memory){fail(1, drop), wait(suspicion), fail(2, drop)}},
		{name: "an answer between", steps: []func(*memory){fail(1, drop), answered(7), fail(2, drop)}},
		{name: "an answer says nothing about stripping", steps: []func(*memory){fail(1, strip), answered(7), fail(2, strip)}, want: strip, known: strip},
		{name: "a success between", steps: []func(*memory){fail(1, strip), succeed(7), fail(2, strip)}},
		{name: "a success after", steps: []func(*memory){fail(1, drop), fail(2, drop), succeed(9)}},
		{name: "an answer after", steps: []func(*memory){fail(1, drop), fail(2, drop), answered(9)}},
		{name: "a destination known to encrypt is tried", steps: []func(*memory){succeed(9), fail(1, drop), fail(2, drop)}, want: drop},
		{name: "on another network", steps: []func(*memory){fail(1, drop), fail(2, drop), move("b")}},
		{name: "one on each", steps: []func(*memory){fail(1, drop), move("b"), fail(2, drop)}},
		{name: "back again", steps: []func(*memory){fail(1, drop), fail(2, drop), move("b"), succeed(3), move("a")}, want: drop, known: drop},
		{name: "over in time", steps: []func(*memory){fail(1, drop), fail(2, drop), wait(DefaultPathTTL)}},
		{name: "one more failure then is enough, for longer", steps: []func(*memory){fail(1, drop), fail(2, drop), wait(DefaultPathTTL),
			fail(3, drop), wait(2*DefaultPathTTL - 1)}, want: drop, known: drop},
		{name: "but not much later", steps: []func(*memory){fail(1, drop), fail(2, drop), wait(DefaultPathTTL + suspicion), fail(3, drop)}},
		{name: "and that is over too", steps: []func(*memory){fail(1, drop), fail(2, drop), wait(DefaultPathTTL), fail(3, drop), wait(2 * DefaultPathTTL)}},
		{name: "a success starts anew", steps: []func(*memory){fail(1, drop), fail(2, drop), wait(DefaultPathTTL), succeed(3), fail(4, drop)}},
		{name: "flushed", steps: []func(*memory){fail(1, drop), fail(2, drop), func(m *memory) { m.Flush() }}},
		{name: "flushed for one", steps: []func(*memory){fail(1, drop), fail(2, drop), func(m *memory) { m.FlushDestination(destination(1)) }}},
	} {
		t.Run(v.name, func(t *testing.T) {
			m := &memory{here: "a", now: epoch}
			m.PathMemory = &PathMemory{Network: func(netip.Addr) string { return m.here }}
			for _, step := range v.steps {
				step(m)
			}
			for n, want := range map[int]eno.Reason{8: v.want, 9: v.known} {
				if got := m.Failed(destination(n), m.now); got != want {
					t.Errorf("destination %d: %v, want %v", n, got, want)
				}
			}
		})
	}
}

// Once a network's time is over one connection finds out, whatever its destination; the others stay plain meanwhile.
func TestPathMemoryNetworkProbe(t *testing.T) {
	m := new(PathMemory)
	for n := range 2 {
		m.fail(m.path(destination(n)), eno.SYNENODropped, epoch)
	}
	now := epoch.Add(DefaultPathTTL)
	if m.try(m.path(destination(5)), now) != eno.NoReason || m.try(m.path(destination(6)), now) != eno.SYNENODropped {
		t.Error("not one alone")
	}
	m.answered(m.path(destination(5)))
	if m.try(m.path(destination(6)), now) != eno.NoReason {
		t.Error("not after it has found out")
	}
}

// A failure is no one's if the client has moved to another network on the way.
func TestPathMemoryMovedMeanwhile(t *testing.T) {
	here := "a"
	m := &PathMemory{Network: func(netip.Addr) string { return here }, Suspects: 1}
	p := m.path(destination(1))
	here = "b"
	if m.fail(p, eno.SYNENODropped, epoch) || m.Len() != 0 {
		t.Error("remembered")
	}
	here = "a"
	if !m.fail(p, eno.SYNENODropped, epoch) || m.Len() != 1 {
		t.Error("not remembered")
	}
}

func TestPathMemoryIsBounded(t *testing.T) {
	m := &PathMemory{Max: 100}
	now := epoch
	for i := range 1000 {
		m.fail(m.path(destination(i)), eno.SYNENODropped, now)
		m.answered(path{network: "", to: destination(5000)}) // the network is not to blame
		m.Failed(destination(0), now)                        // in use: kept
	}
	if m.Len() != 100 || m.failed.used.Len() != 100 {
		t.Errorf("%d destinations", m.Len())
	}
	for i, want := range map[int]eno.Reason{0: eno.SYNENODropped, 1: eno.NoReason, 900: eno.NoReason, 901: eno.SYNENODropped, 999: eno.SYNENODropped} {
		if got := m.Failed(destination(i), now); got != want {
			t.Errorf("destination %d: %v, want %v", i, got, want)
		}
	}
	for i := range 1000 {
		m.Network = func(netip.Addr) string { return fmt.Sprint(i) }
		m.fail(m.path(destination(i)), eno.Stripped, now)
		m.fail(m.path(destination(i+1)), eno.Stripped, now)
	}
	if m.networks.len() != maxNetworks || m.failed.len() != 100 {
		t.Errorf("%d networks, %d paths", m.networks.len(), m.failed.len())
	}
	for i := range 1000 {
		m.succeed(m.path(destination(i)), false, now)
	}
	if m.encrypted.len() != 100 {
		t.Errorf("%d that had encryption", m.encrypted.len())
	}
}

// Neither failures of other destinations nor their successes take a ratcheted one out.
func TestRatchetIsNotFloodedOut(t *testing.T) {
	m := &PathMemory{Max: 10, MaxRatcheted: 3}
	now := epoch
	to := destination(0)
	if m.MustEncrypt(to, now) {
		t.Error("before its first success")
	}
	if !m.succeed(m.path(to), true, now) || !m.MustEncrypt(to, now) {
		t.Error("not ratcheted")
	}
	full := 0
	for i := 1; i < 1000; i++ {
		p := m.path(destination(i))
		m.fail(p, eno.SYNENODropped, now)
		m.fail(m.path(to), eno.Stripped, now)
		m.downgraded(to, now)
		if !m.succeed(p, true, now) {
			full++
		}
		m.succeed(m.path(destination(1000+i)), false, now)
	}
	now = now.Add(1000 * DefaultSuccessTTL)
	if !m.MustEncrypt(to, now) || len(m.ratcheted) != 3 || full != 997 || m.encrypted.len() != 10 {
		t.Errorf("%d ratcheted, %d did not get in, %d others", len(m.ratcheted), full, m.encrypted.len())
	}
	m.Flush()
	if !m.MustEncrypt(to, now) {
		t.Error("flushing faults has undone it")
	}
	if m.FlushDestination(netip.AddrPortFrom(to.Addr(), 0)) == 0 || m.MustEncrypt(to, now) {
		t.Error("the operator's word does not count")
	}
	now = epoch
	m.succeed(m.path(to), false, now) // under another policy
	if !m.MustEncrypt(to, now) || !m.MustEncrypt(to, now.Add(1000*DefaultSuccessTTL)) {
		t.Error("success under another policy does not count, or not for good")
	}
}

func TestPathMemoryList(t *testing.T) {
	m := &PathMemory{Network: func(a netip.Addr) string { return "wifi" }, TTL: time.Minute}
	m.fail(m.path(destination(3)), eno.Stripped, epoch)
	m.fail(m.path(destination(1)), eno.Stripped, epoch)
	m.succeed(path{to: destination(2), network: "lan"}, true, epoch)
	m.succeed(path{to: destination(1), network: "lan"}, false, epoch)
	bad := PathInfo{Network: "wifi", Fault: eno.Stripped, Failures: 1, Failed: epoch, Retry: epoch.Add(time.Minute)}
	at := func(n int) PathInfo { i := bad; i.To = destination(n); return i }
	want := []PathInfo{bad, {To: destination(1), Encrypted: epoch}, at(1), {To: destination(2), Encrypted: epoch, Ratcheted: true}, at(3)}
	compare := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	if d := cmp.Diff(want, m.List(epoch), compare); d != "" {
		t.Error(d)
	}
	later := epoch.Add(DefaultSuccessTTL)
	if d := cmp.Diff([]PathInfo{bad, at(1), want[3], at(3)}, m.List(later), compare); d != "" {
		t.Error(d)
	}
	another := &PathMemory{}
	another.fail(another.path(destination(1)), eno.Stripped, epoch)
	another.fail(another.path(destination(2)), eno.Stripped, epoch)
	if all := another.List(epoch.Add(DefaultPathTTL + DefaultMaxPathTTL)); len(all) != 0 {
		t.Errorf("still there: %+v", all)
	}
	if n := m.FlushDestination(destination(1)); n != 3 { // its fault, its success, the network's fault
		t.Errorf("%d forgotten of one", n)
	}
	if d := cmp.Diff(want[3:], m.List(epoch), compare); d != "" {
		t.Error(d)
	}
	if n := m.FlushDestination(destination(4)); n != 0 {
		t.Errorf("%d forgotten of an unknown one", n)
	}
	if n := m.Flush(); n != 1 {
		t.Errorf("%d forgotten", n)
	}
	if d := cmp.Diff(want[3:4], m.List(epoch), compare); d != "" {
		t.Error(d)
	}
}

func TestPathMemoryNil(t *testing.T) {
	var m *PathMemory
	p := m.path(destination(1))
	m.fail(p, eno.Stripped, epoch)
	m.answered(p)
	was, first := m.downgraded(destination(1), epoch)
	if !m.succeed(p, true, epoch) || was || first || m.try(p, epoch) != eno.NoReason || m.Failed(destination(1), epoch) != eno.NoReason ||
		m.MustEncrypt(destination(1), epoch) || m.Len() != 0 || m.List(epoch) != nil || m.Flush() != 0 || m.FlushDestination(destination(1)) != 0 {
		t.Error("nil remembers")
	}
}

func TestPathMemoryConcurrent(t *testing.T) {
	m := &PathMemory{Max: 10, MaxRatcheted: 5}
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 500 {
				to := destination((i*7 + g) % 30)
				p := m.path(to)
				m.fail(p, eno.Stripped, time.Now())
				m.try(p, time.Now())
				m.answered(p)
				m.succeed(p, i%3 == 0, time.Now())
				m.downgraded(to, time.Now())
				m.MustEncrypt(to, time.Now())
				if i%50 == 0 {
					m.List(time.Now())
					m.Flush()
					m.FlushDestination(to)
				}
			}
		})
	}
	all.Wait()
	if m.Len() > 25 {
		t.Errorf("%d destinations", m.Len())
	}
}

// SYN-Us of connections that were opened together come to nothing together: that is one failure.
func TestInnerFailedTogether(t *testing.T) {
	var m PathMemory
	p := m.path(netip.MustParseAddrPort("198.18.0.1:80"))
	now := time.Unix(1000, 0)
	for i, spared := range []time.Duration{DefaultPathTTL, 2 * DefaultPathTTL, 4 * DefaultPathTTL} {
		for j := range 20 {
			m.innerFailed(p, PathEatsSYNData, now.Add(time.Duration(j)*time.Millisecond))
		}
		if got := m.innerSpace(p, now.Add(spared-time.Second)); got != PathEatsSYNData {
			t.Errorf("failure %d: %v before %v", i, got, spared)
		}
		now = now.Add(spared)
		if got := m.innerSpace(p, now); got != PathUnknown {
			t.Errorf("failure %d: %v after %v", i, got, spared)
		}
	}
}
