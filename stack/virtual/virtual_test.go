package virtual

import (
	"os"
	"os/signal"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

func TestClock(t *testing.T) {
	start := time.Unix(1_000_000, 0)
	c := New(start)
	var ran []string
	note := func(what string) func() {
		return func() { ran = append(ran, what+"@"+c.Now().Sub(start).String()) }
	}
	c.AfterFunc(2*time.Second, note("b"))
	stopped := c.AfterFunc(time.Second, note("never"))
	moved := c.AfterFunc(time.Second, note("d"))
	c.AfterFunc(2*time.Second, func() { note("c")(); c.AfterFunc(0, note("at once")) })
	c.AfterFunc(time.Hour, note("late"))
	moved.Reset(3 * time.Second)
	if !stopped.Stop() || stopped.Stop() {
		t.Error("Stop reports the wrong thing")
	}
	until := start.Add(time.Minute)
	for c.Step(until) {
	}
	if want := []string{"b@2s", "c@2s", "at once@2s", "d@3s"}; !slices.Equal(ran, want) {
		t.Errorf("ran %v, want %v", ran, want)
	}
	if !c.Now().Equal(until) || moved.Stop() {
		t.Errorf("shows %v", c.Now())
	}
	c.Advance(time.Hour)
	if ran[len(ran)-1] != "late@1h0m0s" || c.NowMonotonic().Milliseconds() != 3_660_000 {
		t.Errorf("%v, %v", ran, c.NowMonotonic())
	}
}

// A program that waits for signals is quiet.
func TestQuietWithSignals(t *testing.T) {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, os.Interrupt)
	defer signal.Stop(ch)
	if !Quiet(10 * time.Second) {
		t.Error("not quiet")
	}
	var end atomic.Bool
	defer end.Store(true)
	go func() {
		for !end.Load() {
		}
	}()
	if Quiet(20 * time.Millisecond) {
		t.Error("quiet while a goroutine runs")
	}
}

// A goroutine that waits within an allocation, as the world is stopped, has something to do; one that waits for a lock not.
func TestBlocked(t *testing.T) {
	const caller = "goroutine 1 [running]:\nmain.main()\n\n"
	for dump, want := range map[string]bool{
		"goroutine 7 [semacquire]:\ninnertun/cmd/x.client()\n":                                        false,
		"goroutine 7 [semacquire, 2 minutes]:\nsync.runtime_Semacquire(0x1)\n":                        true,
		"goroutine 7 [semacquire]:\ninternal/sync.runtime_SemacquireMutex(0x1)\n":                     true,
		"goroutine 7 [semacquire]:\ngvisor.dev/gvisor/pkg/sync.semacquire(0x1)\n":                     true,
		"goroutine 7 [select]:\nx()\n\ngoroutine 8 [runnable]:\ny()\n":                                false,
		"goroutine 7 [select]:\nx()\n\ngoroutine 8 [syscall]:\nos/signal.signal_recv()\n":             true,
		"goroutine 7 [chan receive, locked to thread]:\nx()\n\ngoroutine 8 [sync.Mutex.Lock]:\ny()\n": true,
	} {
		if got := blocked([]byte(caller + dump)); got != want {
			t.Errorf("%q: blocked %v", dump, got)
		}
	}
}
