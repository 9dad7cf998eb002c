package host

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// LiveError says that another process holds the lock.
type LiveError struct {
	Path string // of the lock file
	PID  int    // 0 when it could not be read
}

func (e *LiveError) Error() string {
	who := "an unknown pid"
	if e.PID != 0 {
		who = fmt.Sprintf("pid %d", e.PID)
	}
	return fmt.Sprintf("innertun is already running with this control socket (%s holds %s): stop it first, or choose another control socket",
		who, e.Path)
}

// killGrace is how long a process that was killed may take to end.
const killGrace = 5 * time.Second

// A lock is a file that one process holds with flock(2) and that has its pid as content. The record itself cannot be
// the locked file: it is replaced by renaming.
type lock struct{ file *os.File }

// takeLock waits for a holder that was killed and has not ended yet, for grace: to close a TUN device takes a second.
func takeLock(path string, grace time.Duration) (*lock, error) {
	for start := time.Now(); ; {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock file: %w", err)
		}
		if err := flock(f); err != nil {
			pid := holder(f)
			f.Close()
			switch {
			case !errors.Is(err, unix.EWOULDBLOCK):
				return nil, fmt.Errorf("lock %s: %w", path, err)
			case pid != 0 && time.Since(start) < grace && isEnding(pid):
				time.Sleep(10 * time.Millisecond)
				continue
			}
			return nil, &LiveError{Path: path, PID: pid}
		}
		// The last holder may have removed the file after it was opened here: that lock would be on no name at all.
		if !sameFile(f, path) {
			f.Close()
			continue
		}
		l := &lock{file: f}
		if err := l.sign(); err != nil {
			l.release()
			return nil, err
		}
		return l, nil
	}
}

func flock(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var lockErr error
	if err := conn.Control(func(fd uintptr) { lockErr = unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB) }); err != nil {
		return err
	}
	return lockErr
}

func sameFile(f *os.File, path string) bool {
	a, errA := f.Stat()
	b, errB := os.Lstat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

func (l *lock) sign() error {
	if err := l.file.Truncate(0); err != nil {
		return fmt.Errorf("sign lock file: %w", err)
	}
	if _, err := l.file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return fmt.Errorf("sign lock file: %w", err)
	}
	return nil
}

// holder reads who holds the lock; he may just have taken it and not have signed yet.
func holder(f *os.File) int {
	for range 20 {
		b, err := io.ReadAll(io.NewSectionReader(f, 0, 32))
		if err != nil {
			return 0
		}
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			return pid
		}
		time.Sleep(5 * time.Millisecond)
	}
	return 0
}

// isEnding reports whether a process is about to end, whatever it would rather do, or has ended just now. One of its threads is
// enough of a sign: what is asked here is looked at again soon.
func isEnding(pid int) bool {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	if len(tasks) == 0 {
		return true // it has ended since the folder was opened
	}
	return slices.ContainsFunc(tasks, func(task os.DirEntry) bool {
		return isEndingThread(filepath.Join("/proc", strconv.Itoa(pid), "task", task.Name()))
	})
}

const flagExiting = 0x4 // PF_EXITING, in the kernel's include/linux/sched.h

// isEndingThread reports whether a thread, by its folder in /proc, is on its way out or has a SIGKILL to come. proc(5).
func isEndingThread(dir string) bool {
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return true
	}
	// Behind the name: state, parent, group, session, terminal, its group, flags.
	if fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])); len(fields) > 6 {
		flags, err := strconv.ParseUint(fields[6], 10, 32)
		if err == nil && flags&flagExiting != 0 || fields[0] == "Z" || fields[0] == "X" {
			return true
		}
	}
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(status)) {
		if key, value, _ := strings.Cut(line, ":"); key == "SigPnd" || key == "ShdPnd" {
			pending, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			if err == nil && pending>>(unix.SIGKILL-1)&1 == 1 {
				return true
			}
		}
	}
	return false
}

// release removes the file while it is still locked, then lets go.
func (l *lock) release() error {
	return errors.Join(os.Remove(l.file.Name()), l.file.Close())
}
