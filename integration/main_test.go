package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"innertun/integration/netlab"
)

func TestMain(m *testing.M) {
	os.Exit(runAll(m))
}

func runAll(m *testing.M) int {
	if os.Geteuid() == 0 {
		if err := netlab.RemoveStale(); err != nil {
			fmt.Fprintln(os.Stderr, "remove stale namespaces:", err)
			return 1
		}
	}
	defer os.RemoveAll(buildDir())
	return m.Run()
}

func buildDir() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("innertun-test-%d", os.Getpid()))
}

// build makes the binary under test, once a run.
var build = sync.OnceValues(func() (string, error) {
	if err := os.MkdirAll(buildDir(), 0o700); err != nil {
		return "", err
	}
	bin := filepath.Join(buildDir(), "innertun")
	args := []string{"build", "-o", bin}
	if os.Getenv("INNERTUN_RACE") == "1" {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "innertun/cmd/innertun")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return bin, nil
})

func innertunBinary(t testing.TB) string {
	t.Helper()
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}
