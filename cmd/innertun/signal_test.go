package main

import (
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
	"time"
)

// TestSignals: a second signal right behind the first one does not keep a daemon from putting the host back as it was; a later
// one ends it. The test runs itself as the process that gets them.
func TestSignals(t *testing.T) {
	if text := os.Getenv("INNERTUN_TEST_PATIENCE"); text != "" {
		patience, err := time.ParseDuration(text)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := untilSignal(t.Context(), patience)
		defer stop()
		first := syscall.SIGHUP
		if signal.Ignored(first) { // under nohup
			first = syscall.SIGTERM
		}
		raise(t, first)
		<-ctx.Done()
		end := time.Now().Add(time.Minute)
		for i := 0; i < 100 || patience < time.Second && time.Now().Before(end); i++ {
			raise(t, syscall.SIGTERM)
			time.Sleep(10 * time.Millisecond)
		}
		return
	}
	for _, c := range []struct {
		patience string
		fatal    bool
	}{{"1h", false}, {"1ms", true}} {
		t.Run(c.patience, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(os.Args[0], "-test.run=^TestSignals$")
			cmd.Env = append(os.Environ(), "INNERTUN_TEST_PATIENCE="+c.patience)
			out, err := cmd.CombinedOutput()
			status := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if killed := status.Signaled() && status.Signal() == syscall.SIGTERM; killed != c.fatal || !killed && err != nil {
				t.Errorf("%v; killed: %v, want %v\n%s", err, killed, c.fatal, out)
			}
		})
	}
}

func raise(t *testing.T, s syscall.Signal) {
	if err := syscall.Kill(os.Getpid(), s); err != nil {
		t.Fatal(err)
	}
}
