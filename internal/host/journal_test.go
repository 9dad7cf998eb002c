package host_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"innertun/internal/host"
	"innertun/internal/host/hosttest"
)

var someRule = host.Rule{Family: host.IPv4, Priority: 1000, Mark: 0x1000000, Mask: 0x3000000, Table: 18771}

// changeEverything makes one change of each kind, on eth0.
func changeEverything(j *host.Journal) error {
	rule6 := someRule
	rule6.Family = host.IPv6
	control := os.Getenv(childControl)
	if control == "" {
		control = filepath.Join(os.TempDir(), "innertun-host-test.sock")
	}
	for _, step := range []func() (*host.Change, error){
		func() (*host.Change, error) {
			return j.ReservePorts(host.NewPorts(host.PortRange{First: 61000, Last: 65535}))
		},
		func() (*host.Change, error) { return j.AddRule(someRule) },
		func() (*host.Change, error) { return j.AddRule(rule6) },
		func() (*host.Change, error) {
			return j.Hold(host.KindTable, "netdev innertun", func() (io.Closer, error) {
				t, err := host.NewDropTable("eth0")
				if err != nil {
					return nil, err
				}
				return t, t.Set(host.NewPorts(host.PortRange{First: 61000, Last: 65535}), []netip.AddrPort{netip.MustParseAddrPort("[::]:80")})
			})
		},
		func() (*host.Change, error) {
			return j.AddGuard(host.Guard{TUN: "inner0", Mark: someRule.Mark, Mask: someRule.Mask})
		},
		func() (*host.Change, error) {
			return j.Hold(host.KindTable, "inet innertun", func() (io.Closer, error) {
				return host.NewMarkTable(host.MarkConfig{Egress: "eth0", TUN: "inner0", Mark: 0x1000000, Mask: 0x3000000})
			})
		},
		func() (*host.Change, error) {
			return j.Hold(host.KindSocket, control, func() (io.Closer, error) { return net.Listen("unix", control) })
		},
	} {
		if _, err := step(); err != nil {
			return err
		}
	}
	return nil
}

func open(t *testing.T, control string) *host.Journal {
	t.Helper()
	j, err := host.Open(host.Config{Control: control})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func mustBeGone(t *testing.T, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if _, err := os.Lstat(p); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there (%v)", p, err)
		}
	}
}

func TestCloseUndoesEverything(t *testing.T) {
	hosttest.Pair(t)
	// What is not ours must come through unharmed.
	hosttest.Run(t, "nft", "add table inet innertun2; add chain inet innertun2 out { type filter hook output priority 0; }")
	hosttest.Run(t, "sysctl", "-w", "net.ipv4.ip_local_reserved_ports=700-720,61500,8080")
	hosttest.Run(t, "ip", "rule", "add", "fwmark", "0x1000000", "lookup", "77", "priority", "999")
	before := hosttest.Look(t)
	folder := filepath.Join(t.TempDir(), "run", "innertun")
	control := filepath.Join(folder, "control.sock")
	t.Setenv(childControl, control)
	j := open(t, control)
	if err := changeEverything(j); err != nil {
		t.Fatal(err)
	}
	hosttest.Differs(t, before, "nft list ruleset", "ip rule", "ip -6 rule", "sysctl -a --pattern ^net")
	if got, _ := host.Sysctl("net/ipv4/ip_local_reserved_ports"); got != "700-720,8080,61000-65535" {
		t.Errorf("reserved ports: %q", got)
	}
	for _, f := range []string{control + ".record", control + ".lock"} {
		if info, err := os.Stat(f); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", f, info.Mode(), err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	hosttest.Same(t, before)
	mustBeGone(t, filepath.Dir(folder))
	if err := j.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := j.AddRule(someRule); !errors.Is(err, host.ErrClosed) {
		t.Errorf("a closed journal made a change: %v", err)
	}
}

// startChild starts this test binary as a process that holds the journal, in the namespace of the test's thread.
func startChild(t *testing.T, control string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childControl+"="+control)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, _ := bufio.NewReader(out).ReadString('\n')
	if strings.TrimSpace(line) != "ready" {
		t.Fatalf("child: %s", line)
	}
	return cmd
}

func kill9(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
}

func TestKilledProcessIsCleanedUpAfter(t *testing.T) {
	for name, clean := range map[string]func(t *testing.T, control string){
		"down": func(t *testing.T, control string) {
			undone, err := host.Clean(host.Config{Control: control})
			if err != nil {
				t.Fatal(err)
			}
			if len(undone) != 7 || undone[0].Kind != host.KindSocket || undone[6].Kind != host.KindPorts {
				t.Errorf("undone, last first: %+v", undone)
			}
		},
		"next start": func(t *testing.T, control string) {
			if err := open(t, control).Close(); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			hosttest.Pair(t)
			before := hosttest.Look(t)
			control := filepath.Join(t.TempDir(), "innertun", "control.sock")
			cmd := startChild(t, control)
			hosttest.Differs(t, before, "nft list ruleset", "ip rule", "ip -6 rule", "sysctl -a --pattern ^net")
			kill9(t, cmd)
			after := hosttest.Look(t)
			if rules := after["nft list ruleset"]; strings.Count(rules, "table ") != 1 || !strings.Contains(rules, "table inet innertun_guard") {
				t.Errorf("not the guard's table alone outlived the process:\n%s", rules)
			}
			hosttest.Differs(t, before, "nft list ruleset", "ip rule", "ip -6 rule", "sysctl -a --pattern ^net")
			clean(t, control)
			hosttest.Same(t, before)
			mustBeGone(t, filepath.Dir(control))
		})
	}
}

func TestLiveProcessIsNamed(t *testing.T) {
	hosttest.Pair(t)
	control := filepath.Join(t.TempDir(), "control.sock")
	cmd := startChild(t, control)
	before := hosttest.Look(t)
	_, openErr := host.Open(host.Config{Control: control})
	_, cleanErr := host.Clean(host.Config{Control: control})
	for _, err := range []error{openErr, cleanErr} {
		var live *host.LiveError
		if !errors.As(err, &live) || live.PID != cmd.Process.Pid {
			t.Errorf("pid %d is alive, but: %v", cmd.Process.Pid, err)
		}
	}
	hosttest.Same(t, before)
}

// TestSecondInOneNamespace: another control socket, so another record, but the tables are taken.
func TestSecondInOneNamespace(t *testing.T) {
	hosttest.Pair(t)
	startChild(t, filepath.Join(t.TempDir(), "control.sock"))
	before := hosttest.Look(t)
	var taken *host.TableError
	if _, err := host.NewDropTable("eth0"); !errors.As(err, &taken) || !strings.Contains(err.Error(), "another process") {
		t.Errorf("second drop table: %v", err)
	}
	if _, err := host.NewMarkTable(host.MarkConfig{Egress: "eth0"}); !errors.As(err, &taken) || !strings.Contains(err.Error(), "another process") {
		t.Errorf("second marking table: %v", err)
	}
	other := open(t, filepath.Join(t.TempDir(), "control.sock"))
	if _, err := other.AddGuard(host.Guard{TUN: "inner0", Mark: 1, Mask: 3}); !errors.As(err, &taken) {
		t.Errorf("second guard: %v", err)
	}
	if err := other.Close(); err != nil { // takes nothing of the first one's away
		t.Error(err)
	}
	hosttest.Same(t, before)
}

func TestTableMadeByHand(t *testing.T) {
	hosttest.Enter(t)
	hosttest.Run(t, "nft", "add table netdev innertun")
	var taken *host.TableError
	if _, err := host.NewDropTable("lo"); !errors.As(err, &taken) || !strings.Contains(err.Error(), "nft delete table netdev innertun") {
		t.Errorf("error: %v", err)
	}
	hosttest.Run(t, "nft", "add table inet innertun_guard")
	before := hosttest.Look(t)
	j := open(t, filepath.Join(t.TempDir(), "control.sock"))
	if _, err := j.AddGuard(host.Guard{TUN: "inner0", Mark: 1, Mask: 3}); !errors.As(err, &taken) || !strings.Contains(err.Error(), "nft delete table inet innertun_guard") {
		t.Errorf("guard: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	hosttest.Same(t, before)
}

func TestNamespacesSideBySide(t *testing.T) {
	peer := hosttest.Pair(t)
	folder := t.TempDir()
	a := open(t, filepath.Join(folder, "a.sock"))
	mine := hosttest.Look(t)
	if _, err := a.AddRule(someRule); err != nil {
		t.Fatal(err)
	}
	withRule := hosttest.Look(t)
	peer.Do(func() {
		before := hosttest.Look(t)
		b := open(t, filepath.Join(folder, "b.sock"))
		if _, err := b.AddRule(someRule); err != nil {
			t.Error(err)
		}
		hosttest.Differs(t, before, "ip rule")
		var elsewhere *host.NamespaceError
		if err := a.Close(); !errors.As(err, &elsewhere) {
			t.Errorf("closed from another namespace: %v", err)
		}
		if _, err := a.AddRule(someRule); !errors.As(err, &elsewhere) {
			t.Errorf("changed from another namespace: %v", err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		hosttest.Same(t, before)
	})
	hosttest.Same(t, withRule)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	hosttest.Same(t, mine)
}

// TestRecordOfAnotherNamespace: the control socket's path is shared by mistake.
func TestRecordOfAnotherNamespace(t *testing.T) {
	peer := hosttest.Pair(t)
	before := hosttest.Look(t)
	control := filepath.Join(t.TempDir(), "control.sock")
	kill9(t, startChild(t, control))
	killed := hosttest.Look(t)
	peer.Do(func() {
		there := hosttest.Look(t)
		var elsewhere *host.NamespaceError
		if _, err := host.Clean(host.Config{Control: control}); !errors.As(err, &elsewhere) {
			t.Errorf("clean: %v", err)
		}
		if _, err := host.Open(host.Config{Control: control}); !errors.As(err, &elsewhere) {
			t.Errorf("open: %v", err)
		}
		hosttest.Same(t, there)
	})
	hosttest.Same(t, killed)
	if _, err := host.Clean(host.Config{Control: control}); err != nil {
		t.Fatal(err)
	}
	hosttest.Same(t, before)
}

// TestRecordOfNamespaceThatIsGone: same inode number, other cookie or other boot.
func TestRecordOfNamespaceThatIsGone(t *testing.T) {
	hosttest.Enter(t)
	hosttest.Run(t, "ip", "rule", "add", "fwmark", "0x1000000/0x3000000", "lookup", "18771", "priority", "1000")
	before := hosttest.Look(t)
	now, err := host.CurrentNamespace()
	if err != nil {
		t.Fatal(err)
	}
	reused, rebooted := now, now
	reused.Cookie += 1000
	rebooted.Boot = "another"
	rebooted.Inode++
	for _, n := range []host.Namespace{reused, rebooted} {
		control := filepath.Join(t.TempDir(), "control.sock")
		writeRecord(t, control, host.Record{Version: 1, PID: 1, Namespace: n, Undo: []host.Entry{{Kind: host.KindRule, Rule: &someRule}}})
		if undone, err := host.Clean(host.Config{Control: control}); err != nil || len(undone) != 0 {
			t.Errorf("%+v: undone %v, %v", n, undone, err)
		}
		mustBeGone(t, control+".record", control+".lock")
	}
	hosttest.Same(t, before)
}

func writeRecord(t *testing.T, control string, r host.Record) {
	t.Helper()
	b, err := host.AppendRecord(nil, r)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(control+".record", b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestUnusableRecord(t *testing.T) {
	hosttest.Enter(t)
	now, err := host.CurrentNamespace()
	if err != nil {
		t.Fatal(err)
	}
	good, err := host.AppendRecord(nil, host.Record{Version: 1, PID: 1, Namespace: now})
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(path string) error{
		"truncated": func(path string) error { return os.WriteFile(path, good[:len(good)/2], 0o600) },
		"empty":     func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"writable":  func(path string) error { return os.Chmod(path, 0o666) },
		"foreign":   func(path string) error { return os.Chown(path, 12345, 0) },
		"folder":    func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
		"pipe":      func(path string) error { return errors.Join(os.Remove(path), mkfifo(path)) },
		"link":      func(path string) error { return errors.Join(os.Rename(path, path+"2"), os.Symlink(path+"2", path)) },
	} {
		control := filepath.Join(t.TempDir(), "control.sock")
		path := control + ".record"
		if err := errors.Join(os.WriteFile(path, good, 0o600), spoil(path)); err != nil {
			t.Fatal(err)
		}
		var unusable *host.RecordError
		_, err := host.Clean(host.Config{Control: control})
		if !errors.As(err, &unusable) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "remove the file") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s: the record was removed", name)
		}
		mustBeGone(t, control+".lock")
	}
}

func TestNothingToClean(t *testing.T) {
	hosttest.Enter(t)
	folder := t.TempDir()
	for _, control := range []string{filepath.Join(folder, "control.sock"), filepath.Join(folder, "none", "control.sock")} {
		if undone, err := host.Clean(host.Config{Control: control}); err != nil || len(undone) != 0 {
			t.Errorf("%s: %v, %v", control, undone, err)
		}
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
