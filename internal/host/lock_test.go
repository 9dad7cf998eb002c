package host

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestLockExcludes: many take and release at once, and the file comes and goes, but never two have it.
func TestLockExcludes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	var holders, taken atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for taken.Load() < 300 {
				l, err := takeLock(path, 0)
				if live := new(LiveError); errors.As(err, &live) {
					if live.PID != 0 && live.PID != os.Getpid() {
						t.Errorf("the holder is said to be %d", live.PID)
					}
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				taken.Add(1)
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d hold it", n)
				}
				holders.Add(-1)
				if err := l.release(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
}

// TestLockOfKilled: the lock of a process that was just killed, and has not ended yet, is waited for.
func TestLockOfKilled(t *testing.T) {
	const childLock = "INNERTUN_HOST_TEST_LOCK"
	if path := os.Getenv(childLock); path != "" {
		if _, err := takeLock(path, 0); err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("!")
		select {}
	}
	for range 10 {
		path := filepath.Join(t.TempDir(), "lock")
		child := exec.Command(os.Args[0], "-test.run=^TestLockOfKilled$")
		child.Env = append(os.Environ(), childLock+"="+path)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if isEnding(child.Process.Pid) {
			t.Error("a process that lives is said to be ending")
		}
		live := new(LiveError)
		// At once: nobody has killed it.
		if _, err := takeLock(path, time.Hour); !errors.As(err, &live) || live.PID != child.Process.Pid {
			t.Errorf("while it lives: %v", err)
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		l, err := takeLock(path, time.Minute)
		if err != nil {
			t.Error(err)
		} else if err := l.release(); err != nil {
			t.Error(err)
		}
		child.Wait()
	}
}
