package netlab

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Stopwatch measures how long something takes on a machine that has other things to do, too.
type Stopwatch struct {
	begin time.Time
	delay map[string]time.Duration // of each thread, at the begin
	steal time.Duration
	stop  chan struct{}
	late  chan time.Duration
}

// StartStopwatch starts one. Took stops it.
func StartStopwatch() *Stopwatch {
	s := &Stopwatch{delay: runDelays(), steal: stolen(), stop: make(chan struct{}), late: make(chan time.Duration, 1)}
	s.begin = time.Now()
	go s.listen()
	return s
}

// Took returns the time since the start, and what is left of it without the time for which the test's own processes were
// ready to run and did not: what is to happen at once has an upper bound of the latter only. As all their threads count, it
// may come out as zero where there is much load.
func (s *Stopwatch) Took() (wall, own time.Duration) {
	wall = time.Since(s.begin)
	close(s.stop)
	waited := <-s.late + stolen() - s.steal
	for thread, d := range runDelays() {
		waited += d - s.delay[thread]
	}
	return wall, max(wall-waited, 0)
}

// listen counts what sleeps take too long: the whole machine may be made to wait by another one.
func (s *Stopwatch) listen() {
	const nap, usual = 5 * time.Millisecond, 5 * time.Millisecond
	late := time.Duration(0)
	for last := s.begin; ; {
		select {
		case <-s.stop:
			s.late <- late
			return
		case <-time.After(nap):
		}
		now := time.Now()
		late += max(now.Sub(last)-nap-usual, 0)
		last = now
	}
}

// runDelays returns, for each thread of this process and of its descendants, how long it has waited for a processor. See
// sched-stats in the kernel's documentation.
func runDelays() map[string]time.Duration {
	parents := make(map[int]int)
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is well-formed
	for _, name := range stats {
		pid, _ := strconv.Atoi(strings.Split(name, "/")[2])
		b, _ := os.ReadFile(name) // a process may end at any time
		// The name in parentheses may hold anything; state and parent follow it.
		if i := strings.LastIndexByte(string(b), ')'); i >= 0 {
			var state string
			var parent int
			if n, _ := fmt.Sscan(string(b[i+1:]), &state, &parent); n == 2 {
				parents[pid] = parent
			}
		}
	}
	ours := func(pid int) bool {
		for range len(parents) + 1 {
			if pid == os.Getpid() || pid == 0 {
				return pid != 0
			}
			pid = parents[pid]
		}
		return false
	}
	delays := make(map[string]time.Duration)
	for pid := range parents {
		if !ours(pid) {
			continue
		}
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		for _, name := range threads {
			b, _ := os.ReadFile(name)
			if f := strings.Fields(string(b)); len(f) == 3 {
				ns, _ := strconv.ParseInt(f[1], 10, 64)
				delays[name] = time.Duration(ns)
			}
		}
	}
	return delays
}

// stolen returns for how long processors of this machine waited for the host that it is a guest of. See /proc/stat in
// proc(5); the unit is a hundredth of a second.
func stolen() time.Duration {
	b, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line)
	if len(f) < 9 {
		return 0
	}
	ticks, _ := strconv.ParseInt(f[8], 10, 64)
	return time.Duration(ticks) * 10 * time.Millisecond
}
