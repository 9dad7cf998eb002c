package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const sysctlRoot = "/proc/sys"

// Sysctl reads a kernel parameter of the calling thread's network namespace, without the line end. The name is its path
// below /proc/sys, such as "net/ipv4/conf/eth0.7/rp_filter": interface names may hold dots.
func Sysctl(name string) (string, error) {
	if err := checkSysctlName(name); err != nil {
		return "", err
	}
	b, err := os.ReadFile(filepath.Join(sysctlRoot, name))
	if err != nil {
		return "", fmt.Errorf("read sysctl %s: %w", name, err)
	}
	return strings.TrimSuffix(string(b), "\n"), nil
}

// WriteSysctl sets a kernel parameter and records nothing: it is for parameters that go away by themselves, those of an
// interface of our own. The reserved ports go through [Journal.ReservePorts].
func WriteSysctl(name, value string) error {
	if err := checkSysctlName(name); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(sysctlRoot, name), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("set sysctl %s: %w", name, err)
	}
	// An empty value needs the line end: a write of nothing changes nothing.
	_, err = f.WriteString(value + "\n")
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("set sysctl %s to %q: %w", name, value, err)
	}
	return nil
}

// checkSysctlName admits network parameters only, and no way out of their folder.
func checkSysctlName(name string) error {
	ok := strings.HasPrefix(name, "net/") && !strings.ContainsAny(name, "\x00\n")
	for part := range strings.SplitSeq(name, "/") {
		ok = ok && part != "" && part != "." && part != ".."
	}
	if !ok {
		return fmt.Errorf("sysctl %q is not a path such as net/ipv4/ip_forward", name)
	}
	return nil
}
