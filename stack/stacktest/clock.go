// Package stacktest has what tests of programs on a netstack need: a path between two stacks that can lose, delay,
// double, rewrite and capture packets, handshakes that put options and data of one's choice into them, and a clock.
package stacktest

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/faketime"
)

// Clock is a clock for stack.Config that moves by Advance only.
type Clock struct{ manual *faketime.ManualClock }

var _ tcpip.Clock = (*Clock)(nil)

// NewClock returns a clock that stands still.
func NewClock() *Clock { return &Clock{faketime.NewManualClock()} }

// Advance moves the clock by d. It runs what falls due on the way and returns when these functions have; what they set
// in motion in other goroutines may still run.
func (c *Clock) Advance(d time.Duration) { c.manual.Advance(d) }

// Now implements tcpip.Clock.
func (c *Clock) Now() time.Time { return c.manual.Now() }

// NowMonotonic implements tcpip.Clock.
func (c *Clock) NowMonotonic() tcpip.MonotonicTime { return c.manual.NowMonotonic() }

// AfterFunc implements tcpip.Clock.
func (c *Clock) AfterFunc(d time.Duration, f func()) tcpip.Timer { return c.manual.AfterFunc(d, f) }
