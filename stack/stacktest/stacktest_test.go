package stacktest

import (
	"sync/atomic"
	"testing"
	"time"
)

func TestClock(t *testing.T) {
	c := NewClock()
	start := c.Now()
	ran := time.Duration(-1)
	c.AfterFunc(time.Second, func() { ran = c.Now().Sub(start) })
	c.Advance(999 * time.Millisecond)
	if ran >= 0 {
		t.Fatalf("ran after %v", ran)
	}
	c.Advance(time.Second)
	if ran != time.Second || c.Now().Sub(start) != 1999*time.Millisecond {
		t.Errorf("ran at %v, clock shows %v", ran, c.Now().Sub(start))
	}
}

func TestQuiet(t *testing.T) {
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
		}
	}()
	if Quiet(20 * time.Millisecond) {
		t.Error("quiet while a goroutine runs")
	}
	stop.Store(true)
	<-done

	blockedOn := make(chan struct{})
	go func() { <-blockedOn }()
	if !Quiet(10 * time.Second) {
		t.Error("not quiet while all are blocked")
	}
	close(blockedOn)
}
