package seam

import (
	"net/netip"
	"testing"
	"time"

	"innertun/integration/lab"
	"innertun/stack"
	"innertun/stack/virtual"
	"innertun/tcpinc"

	"innertun/internal/leak"
)

// clock is the time of all tests here, for stacks, paths and protocols. It moves from one timer to the next, and only while
// no goroutine has anything else to do: on a machine however busy, what is measured is exact.
var clock = protocolTime{virtual.New(time.Unix(1_600_000_000, 0))}

// guard is for what hangs: of the clock in deadlines, of real time in contexts.
const guard = 3 * time.Minute

// protocolTime is the clock as tcpinc knows it.
type protocolTime struct{ *virtual.Clock }

func (c protocolTime) AfterFunc(d time.Duration, f func()) (stop func() bool) {
	return c.Clock.AfterFunc(d, func() { go f() }).Stop
}

// pathTime is the clock as a path knows it.
type pathTime struct{ *virtual.Clock }

func (c pathTime) AfterFunc(d time.Duration, f func()) lab.Timer { return c.Clock.AfterFunc(d, f) }

func after(d time.Duration) <-chan struct{} {
	passed := make(chan struct{})
	clock.Clock.AfterFunc(d, func() { close(passed) })
	return passed
}

func sleep(d time.Duration) { <-after(d) }

func since(start time.Time) time.Duration { return clock.Now().Sub(start) }

// listener is Listen by the clock.
func listener(s *stack.Stack, at netip.AddrPort, cfg tcpinc.ListenConfig) (*tcpinc.Listener, error) {
	cfg.Config.Clock = clock
	return Listen(s, at, cfg)
}

// passing has time pass while the tests run.
type passing struct{ *testing.M }

func (m passing) Run() int {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, waiting := clock.Next(); waiting && virtual.Settled(time.Minute) {
				if next, waiting := clock.Next(); waiting {
					clock.Step(next)
					continue
				}
			}
			time.Sleep(50 * time.Microsecond)
		}
	}()
	defer func() { close(stop); <-stopped }()
	return m.M.Run()
}

func TestMain(m *testing.M) { leak.VerifyTestMain(passing{m}) }
