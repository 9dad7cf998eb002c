package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	clientAddress = "198.18.40.1"
	serverAddress = "198.18.40.2"
	bulkPort      = 5201 // iperf3's
	shortPort     = 5300
)

// world is two namespaces joined by one veth pair:
//
//	client ns  bench0 198.18.40.1 ──────── bench0 198.18.40.2  server ns
type world struct {
	binary         string
	client, server string // names of the namespaces
	dir            string
	self           string
}

func newWorld(ctx context.Context, binary string) (w *world, err error) {
	abs, err := filepath.Abs(binary)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(abs); err != nil {
		return nil, fmt.Errorf("%w: run 'make build' first", err)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "innertun-bench-")
	if err != nil {
		return nil, err
	}
	pid := strconv.Itoa(os.Getpid())
	w = &world{binary: abs, client: "itbench-c-" + pid, server: "itbench-s-" + pid, dir: dir, self: self}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	for _, step := range []string{
		"ip netns add " + w.client,
		"ip netns add " + w.server,
		"ip link add bench0 netns " + w.client + " type veth peer name bench0 netns " + w.server,
		"ip -n " + w.client + " addr add " + clientAddress + "/24 dev bench0",
		"ip -n " + w.server + " addr add " + serverAddress + "/24 dev bench0",
		"ip -n " + w.client + " link set bench0 up",
		"ip -n " + w.server + " link set bench0 up",
		"ip -n " + w.client + " link set lo up",
		"ip -n " + w.server + " link set lo up",
		"ip -n " + w.client + " route add default via " + serverAddress,
		"ip -n " + w.server + " route add default via " + clientAddress,
		// A new namespace inherits the host's choice, and pacing would be measured instead of the way.
		"ip netns exec " + w.client + " sysctl -qw net.ipv4.tcp_congestion_control=reno net.ipv4.tcp_tw_reuse=1 net.ipv4.ip_local_port_range=\"10000 60999\"",
		"ip netns exec " + w.server + " sysctl -qw net.ipv4.tcp_congestion_control=reno",
	} {
		if out, err := exec.CommandContext(ctx, "sh", "-c", step).CombinedOutput(); err != nil {
			return w, fmt.Errorf("%s: %v: %s", step, err, bytes.TrimSpace(out))
		}
	}
	return w, nil
}

func (w *world) close() {
	for _, ns := range []string{w.client, w.server} {
		_ = exec.Command("ip", "netns", "del", ns).Run()
	}
	_ = os.RemoveAll(w.dir)
}

// process is a program in a namespace, ended by close.
type process struct {
	cmd  *exec.Cmd
	log  *os.File
	done chan error
}

func (w *world) start(ns, name string, args ...string) (*process, error) {
	log, err := os.CreateTemp(w.dir, name+"-*.log")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("ip", append([]string{"netns", "exec", ns}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, log: log, done: make(chan error, 1)}
	go func() { p.done <- cmd.Wait() }()
	return p, nil
}

func (p *process) close() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // ip netns exec execs, so the process is the program itself
	select {
	case <-p.done:
	case <-time.After(15 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	p.log.Close()
}

func (p *process) tail() string {
	b, _ := os.ReadFile(p.log.Name())
	if len(b) > 2000 {
		b = b[len(b)-2000:]
	}
	return string(b)
}

// exec runs a program in a namespace and returns its standard output.
func (w *world) exec(ctx context.Context, ns string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", ns}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(append(stderr.Bytes(), out...)))
	}
	return string(out), nil
}

// ready waits until a daemon answers on its control socket.
func (w *world) ready(ctx context.Context, ns, control string, p *process) error {
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		select {
		case err := <-p.done:
			p.done <- err
			return fmt.Errorf("the daemon ended: %v\n%s", err, p.tail())
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		if _, err := w.exec(ctx, ns, w.binary, "status", "--control", control); err == nil {
			return nil
		}
	}
	return errors.New("the daemon did not become ready in 15 s:\n" + p.tail())
}

// rss is the resident memory of a process in octets.
func rss(pid int) int64 {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	defer f.Close()
	b, _ := io.ReadAll(f)
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10
		}
	}
	return 0
}
