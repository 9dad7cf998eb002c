package netlab

import (
	"os/exec"
	"runtime"
	"testing"
	"time"
)

// What waits by itself counts in full; what waits for a processor does not.
func TestStopwatch(t *testing.T) {
	s := StartStopwatch()
	time.Sleep(50 * time.Millisecond)
	if wall, own := s.Took(); wall < 50*time.Millisecond || own > wall {
		t.Errorf("a sleep of 50 ms: %v, %v", wall, own)
	}
	var hogs []*exec.Cmd
	end := func() {
		for _, c := range hogs {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
		hogs = nil
	}
	defer end()
	begin := func() {
		for range 3 * runtime.NumCPU() {
			c := exec.Command("sh", "-c", "while :; do :; done")
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			hogs = append(hogs, c)
		}
	}
	begin()
	s = StartStopwatch()
	time.Sleep(500 * time.Millisecond)
	if wall, own := s.Took(); own > wall/2 {
		t.Errorf("with three programs a processor, none of which gets more than a third: %v of %v", own, wall)
	}
	end()
	s = StartStopwatch()
	begin()
	time.Sleep(500 * time.Millisecond)
	end()
	if wall, own := s.Took(); own > wall/2 {
		t.Errorf("with three programs a processor that have ended: %v of %v", own, wall)
	}
}
