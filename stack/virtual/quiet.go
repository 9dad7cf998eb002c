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
func Quiet(limit time.Duration) bool {
	buf := make([]byte, 1<<20)
	seen := 0 // in a row
	for deadline := time.Now().Add(limit); ; {
		n := runtime.Stack(buf, true) // stops the world: a consistent picture
		switch {
		case n == len(buf):
			buf = make([]byte, 2*len(buf))
		case !blocked(buf[:n]):
			seen = 0
		case seen == 1:
			return true
		default:
			seen++ // a timer of the runtime's may be about to wake one: look again
		}
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(50 * time.Microsecond)
	}
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
		case s == "semacquire", s == "IO wait", s == "sleep", s == "finalizer wait", s == "cleanup wait":
		case s == "syscall" && bytes.HasPrefix(dump, []byte("os/signal.signal_recv(")):
		default: // running, runnable, in a system call, helping the garbage collector ...
			return false
		}
	}
	return !first
}
