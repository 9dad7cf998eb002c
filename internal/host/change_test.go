package host_test

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"innertun/internal/host"
	"innertun/internal/host/hosttest"
)

func mkfifo(path string) error { return unix.Mkfifo(path, 0o600) }

const reserved = "net/ipv4/ip_local_reserved_ports"

// TestReservedPortsChangedMeanwhile: what others added or removed since stays so.
func TestReservedPortsChangedMeanwhile(t *testing.T) {
	hosttest.Enter(t)
	for _, c := range []struct{ before, meanwhile, after string }{
		{"", "61000-65535", ""},
		{"", "", ""},
		{"8080,62000-62010", "8080,61000-65535", "8080,62000-62010"},
		{"8080", "9090,61000-65535", "9090"},
		{"8080", "8080,61500,61700-65535", "8080"},
		{"61000-65535", "61000-65535", "61000-65535"},
	} {
		if err := host.WriteSysctl(reserved, c.before); err != nil {
			t.Fatal(err)
		}
		j := open(t, filepath.Join(t.TempDir(), "c"))
		if _, err := j.ReservePorts(host.NewPorts(host.PortRange{First: 61000, Last: 65535})); err != nil {
			t.Fatal(err)
		}
		if err := host.WriteSysctl(reserved, c.meanwhile); err != nil {
			t.Fatal(err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := host.Sysctl(reserved); got != c.after || err != nil {
			t.Errorf("%+v: got %q, %v", c, got, err)
		}
	}
}

// TestFailedChangeIsForgotten: a rule of someone else's, met on the way, is not removed at the end.
func TestFailedChangeIsForgotten(t *testing.T) {
	hosttest.Enter(t)
	hosttest.Run(t, "ip", "rule", "add", "fwmark", "0x1000000/0x3000000", "lookup", "18771", "priority", "1000")
	before := hosttest.Look(t)
	j := open(t, filepath.Join(t.TempDir(), "c"))
	if _, err := j.AddRule(someRule); !errors.Is(err, unix.EEXIST) {
		t.Errorf("error: %v", err)
	}
	broken := errors.New("broken")
	if _, err := j.Hold(host.KindTUN, "x", func() (io.Closer, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("error: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	hosttest.Same(t, before)
}

func TestSysctlRefused(t *testing.T) {
	hosttest.Enter(t)
	for _, name := range []string{"net/ipv4/conf/none/rp_filter", "kernel/panic", "net/../kernel/panic", "net//ipv4", ""} {
		if err := host.WriteSysctl(name, "1"); err == nil {
			t.Errorf("sysctl %q was set", name)
		}
	}
	if err := host.WriteSysctl("net/ipv4/ip_forward", "nonsense"); err == nil {
		t.Error("a sysctl was set to nonsense")
	}
}

func TestUndoOne(t *testing.T) {
	hosttest.Enter(t)
	before := hosttest.Look(t)
	j := open(t, filepath.Join(t.TempDir(), "c"))
	first, err := j.AddRule(someRule)
	if err != nil {
		t.Fatal(err)
	}
	withFirst := hosttest.Look(t)
	second, err := j.ReservePorts(host.NewPorts(host.PortRange{First: 7, Last: 9}))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := second.Undo(); err != nil {
			t.Fatal(err)
		}
		hosttest.Same(t, withFirst)
	}
	if err := first.Undo(); err != nil {
		t.Fatal(err)
	}
	hosttest.Same(t, before)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := first.Undo(); err != nil {
		t.Errorf("undone after Close: %v", err)
	}
}

// TestUndoneByOthers: what is gone already is no error.
func TestUndoneByOthers(t *testing.T) {
	hosttest.Enter(t)
	before := hosttest.Look(t)
	control := filepath.Join(t.TempDir(), "c")
	j := open(t, control)
	if _, err := j.AddRule(someRule); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Hold(host.KindSocket, control, func() (io.Closer, error) { return net.Listen("unix", control) }); err != nil {
		t.Fatal(err)
	}
	hosttest.Run(t, "ip", "rule", "del", "priority", "1000")
	if err := os.Remove(control); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	hosttest.Same(t, before)
}

// TestWhatCannotBeUndoneStaysRecorded: and is undone once it can be.
func TestWhatCannotBeUndoneStaysRecorded(t *testing.T) {
	hosttest.Enter(t)
	before := hosttest.Look(t)
	control := filepath.Join(t.TempDir(), "c")
	j := open(t, control)
	if _, err := j.Hold(host.KindSocket, control, func() (io.Closer, error) { return nil, os.WriteFile(control, nil, 0o600) }); err != nil {
		t.Fatal(err)
	}
	if _, err := j.AddRule(someRule); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err == nil {
		t.Error("a file that is no socket was removed as one")
	}
	hosttest.Same(t, before)
	if _, err := host.Clean(host.Config{Control: control}); err == nil {
		t.Error("and so it was by Clean")
	}
	if err := os.Remove(control); err != nil {
		t.Fatal(err)
	}
	if undone, err := host.Clean(host.Config{Control: control}); err != nil || len(undone) != 1 {
		t.Errorf("undone %v, %v", undone, err)
	}
	mustBeGone(t, control+".record", control+".lock")
}
