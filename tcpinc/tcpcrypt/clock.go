package tcpcrypt

import "time"

// Clock is the time that a connection goes by.
type Clock interface {
	Now() time.Time
	// AfterFunc calls f once, in a goroutine of its own, after d. stop reports whether it was in time to prevent that.
	AfterFunc(d time.Duration, f func()) (stop func() bool)
}

// RealClock is the clock of package time.
type RealClock struct{}

func (RealClock) Now() time.Time { return time.Now() }
func (RealClock) AfterFunc(d time.Duration, f func()) func() bool {
	return time.AfterFunc(d, f).Stop
}
