package netlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const netnsDir = "/run/netns"

// Host is one network namespace.
type Host struct {
	Name string // the namespace's
	Role string // "client", "router", "server" or "wire"

	mu          sync.Mutex
	processes   []*Process
	connections map[[2]string]bool
}

// NoteConnection notes that a program of the host has had a connection, by its two ends.
func (h *Host) NoteConnection(local, remote string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.connections == nil {
		h.connections = make(map[[2]string]bool)
	}
	h.connections[[2]string{local, remote}] = true
}

// HasHad tells whether a connection between two ends, the host's first, has been noted. It may have been that of a program
// that has ended since.
func (h *Host) HasHad(local, remote string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.connections[[2]string{local, remote}]
}

func (h *Host) argv(args []string) []string {
	return append([]string{"netns", "exec", h.Name}, args...)
}

// script runs shell commands in the namespace and stops at the first that fails.
func (h *Host) script(text string) error {
	out, err := exec.Command("ip", h.argv([]string{"sh", "-ec", text})...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("in %s: %w: %s", h.Role, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Script runs shell commands in the namespace; a failing one ends the test.
func (h *Host) Script(t testing.TB, text string) {
	t.Helper()
	if err := h.script(text); err != nil {
		t.Fatal(err)
	}
}

// Output is what a command that has ended left behind.
type Output struct {
	Stdout, Stderr string
	Code           int // exit status; -1 if it was killed or could not start
	Err            error
}

// Run runs a command in the namespace to its end, or until ctx is done.
func (h *Host) Run(ctx context.Context, args ...string) Output {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "ip", h.argv(args)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 2 * time.Second
	err := cmd.Run()
	o := Output{Stdout: stdout.String(), Stderr: stderr.String(), Err: err, Code: -1}
	if cmd.ProcessState != nil {
		o.Code = cmd.ProcessState.ExitCode()
	}
	return o
}

// MustRun runs a command that has to succeed, and returns what it wrote to its standard output.
func (h *Host) MustRun(t testing.TB, args ...string) string {
	t.Helper()
	o := h.Run(t.Context(), args...)
	if o.Err != nil {
		t.Fatalf("in %s: %s: %v\n%s%s", h.Role, strings.Join(args, " "), o.Err, o.Stdout, o.Stderr)
	}
	return o.Stdout
}

// Process is a program in the background.
type Process struct {
	LogFile string // its standard output and error

	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid once done is closed
}

// Start runs a program in the background, its output in a file of the given directory. It is killed at the latest
// when the lab is removed.
func (h *Host) Start(t testing.TB, dir, name string, args ...string) *Process {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p := &Process{LogFile: log.Name(), done: make(chan struct{})}
	p.cmd = exec.Command("ip", h.argv(args)...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// A killed test run must not leave programs behind. The thread that starts it must not end before, so no Pdeathsig
	// is used; a process group of its own keeps a terminal's Ctrl-C with the test.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s in %s: %v", name, h.Role, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	h.mu.Lock()
	h.processes = append(h.processes, p)
	h.mu.Unlock()
	return p
}

// PID returns the program's process id: ip replaces itself by the program.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal to the program.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Exited tells whether the program has ended.
func (p *Process) Exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Wait waits for the program's end and returns its exit status, or an error after the timeout.
func (p *Process) Wait(timeout time.Duration) (code int, err error) {
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-time.After(timeout):
		return -1, fmt.Errorf("still running after %v", timeout)
	}
}

// Stop asks the program to end (SIGINT), kills it if it does not, and returns its exit status.
func (p *Process) Stop() (code int, err error) {
	_ = p.Signal(os.Interrupt)
	code, err = p.Wait(Patience)
	if err != nil {
		p.Kill()
		return -1, fmt.Errorf("did not end after SIGINT: %w", err)
	}
	return code, nil
}

// Kill ends the program with SIGKILL and waits for its end.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Log returns what the program has written so far.
func (p *Process) Log() string {
	b, err := os.ReadFile(p.LogFile)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func (h *Host) endAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.processes {
		if !p.Exited() {
			p.Kill()
		}
	}
	h.processes = nil
}

// Do runs f on a thread that is in the namespace: sockets made by f belong to it, and stay in it afterwards.
// Goroutines started by f do not run there.
func (h *Host) Do(f func() error) error {
	errc := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Open(filepath.Join(netnsDir, h.Name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			errc <- fmt.Errorf("open namespace %s: %w", h.Name, err)
			return
		}
		err = unix.Setns(fd, unix.CLONE_NEWNET)
		unix.Close(fd)
		if err != nil {
			errc <- fmt.Errorf("enter namespace %s: %w", h.Name, err)
			return
		}
		errc <- f()
		// The goroutine ends locked, so that its thread ends with it instead of coming back in this namespace.
	}()
	return <-errc
}

// Dial connects from the namespace with the kernel's TCP; address is an IP address and port, never a name.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if _, err := net.ResolveTCPAddr(network, address); err != nil {
		return nil, err
	}
	var conn net.Conn
	err := h.Do(func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// DialFrom is Dial from a given local port of the family's unspecified address.
func (h *Host) DialFrom(ctx context.Context, port int, address string) (net.Conn, error) {
	var conn net.Conn
	err := h.Do(func() (err error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{Port: port}, Control: func(_, _ string, c syscall.RawConn) (err error) {
			var set error
			err = c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
			return errors.Join(err, set)
		}}
		conn, err = d.DialContext(ctx, "tcp", address)
		return err
	})
	return conn, err
}

// Listen listens in the namespace with the kernel's TCP, until the test ends.
func (h *Host) Listen(t testing.TB, address string) net.Listener {
	t.Helper()
	var ln net.Listener
	if err := h.Do(func() (err error) {
		ln, err = net.Listen("tcp", address)
		return err
	}); err != nil {
		t.Fatalf("listen in %s: %v", h.Role, err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln
}

// Serve listens in the namespace and hands each connection to handle in a goroutine of its own. The test waits for
// all of them before it ends, so handle must end when its peer does.
func (h *Host) Serve(t testing.TB, address string, handle func(*net.TCPConn)) net.Addr {
	t.Helper()
	ln := h.Listen(t, address)
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := make(map[*net.TCPConn]bool)
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("accept in %s: %v", h.Role, err)
				}
				return
			}
			tc := c.(*net.TCPConn)
			mu.Lock()
			open[tc] = true
			mu.Unlock()
			wg.Go(func() {
				handle(tc)
				_ = tc.Close()
				mu.Lock()
				delete(open, tc)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr()
}
