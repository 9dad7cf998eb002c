package netlab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Stopwatch measures how long something takes on a machine that has other things to do, too.
type Stopwatch struct {
	begin  time.Time
	steal  time.Duration
	stop   chan struct{}
	late   chan time.Duration
	waited chan time.Duration
}

// StartStopwatch starts one. Took stops it.
func StartStopwatch() *Stopwatch {
	s := &Stopwatch{steal: stolen(), stop: make(chan struct{}), late: make(chan time.Duration, 1), waited: make(chan time.Duration, 1)}
	begun := make(chan struct{})
	go s.watch(begun)
	<-begun
	s.begin = time.Now()
	go s.listen()
	return s
}

// Took returns the time since the start, and what is left of it without the time for which the test's own processes were
// ready to run and did not: what is to happen at once has an upper bound of the latter only. As all their threads count, those
// that have ended too, it may come out as zero where there is much load.
func (s *Stopwatch) Took() (wall, own time.Duration) {
	wall = time.Since(s.begin)
	close(s.stop)
	waited := <-s.late + <-s.waited + stolen() - s.steal
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

// watch counts for how long threads wait for a processor. It looks often, as nobody tells that of a thread which has ended: of
// such a one what it has waited since the last look is missing.
func (s *Stopwatch) watch(begun chan<- struct{}) {
	const pause, share = 10 * time.Millisecond, 20 // at most a twentieth of a processor
	waited, known := time.Duration(0), runDelays(family())
	close(begun)
	for over := false; ; {
		begin := time.Now()
		for thread, d := range runDelays(familyNow()) {
			if d < known[thread] { // another one of the same number
				known[thread] = 0
			}
			waited += d - known[thread]
			known[thread] = d
		}
		if over {
			break
		}
		select {
		case <-s.stop:
			over = true
		case <-time.After(max(pause, share*time.Since(begin))):
		}
	}
	s.waited <- waited
}

// runDelays returns, for each thread of some processes, how long it has waited for a processor. See sched-stats in the
// kernel's documentation.
func runDelays(pids []int) map[string]time.Duration {
	delays := make(map[string]time.Duration)
	for _, pid := range pids {
		for _, thread := range threads(pid) {
			b, _ := os.ReadFile(thread + "/schedstat")
			if f := strings.Fields(string(b)); len(f) == 3 {
				ns, _ := strconv.ParseInt(f[1], 10, 64)
				delays[thread] = time.Duration(ns)
			}
		}
	}
	return delays
}

// threads returns the directories of a process's threads. It may end at any time.
func threads(pid int) (dirs []string) {
	task := fmt.Sprintf("/proc/%d/task/", pid)
	entries, _ := os.ReadDir(task)
	for _, e := range entries {
		dirs = append(dirs, task+e.Name())
	}
	return dirs
}

// family returns this process and its descendants: all of them.
func family() (ours []int) {
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
	for pid := range parents {
		p := pid
		for range len(parents) + 1 {
			if p == os.Getpid() {
				ours = append(ours, pid)
			}
			if p == os.Getpid() || p == 0 {
				break
			}
			p = parents[p]
		}
	}
	return ours
}

// familyNow is family by the kernel's own lists, which is much faster where it has them. It may miss some while others end.
func familyNow() []int {
	ours := []int{os.Getpid()}
	for i := 0; i < len(ours); i++ {
		for _, thread := range threads(ours[i]) {
			b, err := os.ReadFile(thread + "/children")
			if errors.Is(err, os.ErrNotExist) && i == 0 && thread == fmt.Sprintf("/proc/%d/task/%[1]d", ours[i]) {
				return family()
			}
			for _, child := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(child); err == nil {
					ours = append(ours, pid)
				}
			}
		}
	}
	return ours
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
