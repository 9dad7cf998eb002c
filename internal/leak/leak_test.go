package leak

import (
	"testing"
	"time"
)

// slow is a run of tests that leaves a goroutine for a while.
type slow struct{ ended chan struct{} }

func (s slow) Run() int {
	go func() {
		time.Sleep(1500 * time.Millisecond) // longer than goleak waits
		close(s.ended)
	}()
	return 0
}

func TestPatience(t *testing.T) {
	s := slow{make(chan struct{})}
	if code := (patient{s}).Run(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	select {
	case <-s.ended:
	default:
		t.Error("it has not waited")
	}
}
