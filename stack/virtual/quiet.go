package virtual

import (
	"bytes"
	"runtime"
	"strings"
	"time"
)

// Quiet waits until no goroutine but the caller's has anything to do: each is blocked, until a clock moves or someone
// else acts. It reports false if that has not come about within limit, in real time. A goroutine in time.Sleep, or one
// that waits for a timer of real time, counts as blocked.
func Quiet(limit time.Duration) bool { return quiet(limit, 2) }

// Settled is Quiet for where no timer of the runtime's is about to wake a goroutine; it takes half the time.
func Settled(limit time.Duration) bool { return quiet(limit, 1) }

// eager is how often quiet looks before it sleeps in between.
const eager = 10

// quiet looks until all is blocked so many times in a row.
func quiet(limit time.Duration, times int) bool {
	buf := make([]byte, 64<<10)
	var deadline time.Time
	for seen, looks := 0, 0; ; looks++ {
		runtime.Gosched()
		n := runtime.Stack(buf, true) // stops the world: a consistent picture
		switch {
		case n == len(buf):
			buf = make([]byte, 2*len(buf))
		case !blocked(buf[:n]):
			seen = 0
		case seen == times-1:
			return true
		default:
			seen++ // a timer of the runtime's may be about to wake one: look again
			time.Sleep(50 * time.Microsecond)
			continue
		}
		switch {
		case deadline.IsZero():
			deadline = time.Now().Add(limit)
		case time.Now().After(deadline):
			return false
		case looks > eager:
			time.Sleep(50 * time.Microsecond)
		}
	}
}

// waitsForLock tells from the frames of a goroutine in semacquire whether it waits for somebody else's lock. Otherwise it waits
// within an allocation for the world to start again, which this very look has stopped, and goes on at once.
func waitsForLock(frames []byte) bool {
	for _, of := range []string{"sync.", "internal/sync.", "gvisor.dev/gvisor/pkg/sync"} {
		if bytes.HasPrefix(frames, []byte(of)) {
			return true
		}
	}
	return false
}

// blocked reads a dump of all goroutines, the caller's first.
func blocked(dump []byte) bool {
	first := true
	for len(dump) > 0 {
		var line []byte
		line, dump, _ = bytes.Cut(dump, []byte("\n"))
		if !bytes.HasPrefix(line, []byte("goroutine ")) || !bytes.HasSuffix(line, []byte("]:")) {
			continue
		}
		if first {
			first = false
			continue
		}
		open := bytes.IndexByte(line, '[')
		state, _, _ := bytes.Cut(line[open+1:len(line)-2], []byte(","))
		switch s := string(state); {
		case strings.HasPrefix(s, "chan "), strings.HasPrefix(s, "select"), strings.HasPrefix(s, "sync."):
		case s == "semacquire" && waitsForLock(dump):
		case s == "IO wait", s == "sleep", s == "finalizer wait", s == "cleanup wait":
		case s == "syscall" && bytes.HasPrefix(dump, []byte("os/signal.signal_recv(")):
		default: // running, runnable, in a system call, helping the garbage collector ...
			return false
		}
	}
	return !first
}
