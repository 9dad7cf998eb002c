package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// way is one way from a client program to a server program.
type way struct {
	name   string
	policy string // the client daemon's; empty: no daemon of ours at the client
	relay  bool   // the plain relay instead of the client daemon
	serve  bool   // the server daemon in front of the service
	resume bool   // later connections of a session are resumed
}

var allWays = []way{
	{name: "direct"},
	{name: "plain-relay", relay: true},
	{name: "off", policy: "off", serve: true},
	{name: "encrypted", policy: "require", serve: true},
	{name: "resumed", policy: "require", serve: true, resume: true},
}

func wayNames() string {
	var names []string
	for _, w := range allWays {
		names = append(names, w.name)
	}
	return strings.Join(names, ",")
}

func pick(only string) ([]way, error) {
	if only == "" {
		return allWays, nil
	}
	var picked []way
	for name := range strings.SplitSeq(only, ",") {
		found := false
		for _, w := range allWays {
			if w.name == name {
				picked, found = append(picked, w), true
			}
		}
		if !found {
			return nil, fmt.Errorf("no way named %q: there are %s", name, wayNames())
		}
	}
	return picked, nil
}

// result holds a way's rounds.
type result struct {
	Way                     string
	OneStream, EightStreams []float64 // Gbit/s
	Upload                  []float64 // Gbit/s, the other direction, one stream
	ConnsOne, ConnsSixteen  []float64 // connections a second
	ClientIdle, ServerIdle  []float64 // MiB more than at rest, with 1,000 idle connections
	ClientBusy, ServerBusy  []float64 // MiB resident after 8 bulk streams
	Short, ShortSlowest     []float64 // connections a second over many to one destination; the slowest one, ms
	ShortFailed             []float64
}

// daemons are the processes of a way, at both ends.
type daemons struct{ client, server *process }

func (d *daemons) close() {
	d.client.close()
	d.server.close()
}

func (w *world) daemons(ctx context.Context, way way) (d *daemons, err error) {
	d = &daemons{}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if way.serve {
		control := filepath.Join(w.dir, "server.sock")
		config := fmt.Sprintf("[egress]\ninterface = \"bench0\"\n[control]\nsocket = %q\n", control)
		for _, port := range []int{bulkPort, shortPort} {
			config += fmt.Sprintf("[[serve]]\nlisten = \":%d\"\nforward = \"127.0.0.1:%d\"\n", port, port)
		}
		if d.server, err = w.daemon(ctx, w.server, "server", config, control); err != nil {
			return d, err
		}
	}
	if way.policy != "" {
		control := filepath.Join(w.dir, "client.sock")
		config := fmt.Sprintf("[egress]\ninterface = \"bench0\"\n[tcpinc]\npolicy = %q\nresume = %v\nskip_ports = []\n[tun]\nname = \"inner0\"\n[control]\nsocket = %q\n", way.policy, way.resume, control)
		if d.client, err = w.daemon(ctx, w.client, "client", config, control); err != nil {
			return d, err
		}
	}
	if way.relay {
		if d.client, err = w.start(w.client, "plainrelay", w.self, "plainrelay", "bench0"); err != nil {
			return d, err
		}
		for range 100 {
			if _, err = w.exec(ctx, w.client, "ip", "link", "show", "relay0"); err == nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(300 * time.Millisecond)
		if err != nil {
			return d, fmt.Errorf("%w: %s", err, d.client.tail())
		}
	}
	return d, nil
}

func (w *world) daemon(ctx context.Context, ns, name, config, control string) (*process, error) {
	file := filepath.Join(w.dir, name+".toml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	p, err := w.start(ns, name, w.binary, "run", "-c", file, "--log-level", "warn")
	if err != nil {
		return nil, err
	}
	return p, w.ready(ctx, ns, control, p)
}

func measure(ctx context.Context, w *world, way way, o options, r *result, first bool) error {
	iperf, err := w.start(w.server, "iperf3", "iperf3", "-s", "-p", strconv.Itoa(bulkPort))
	if err != nil {
		return err
	}
	defer iperf.close()
	echo, err := w.start(w.server, "echo", w.self, "echo-one", net.JoinHostPort("", strconv.Itoa(shortPort)))
	if err != nil {
		return err
	}
	defer echo.close()
	d, err := w.daemons(ctx, way)
	if err != nil {
		return err
	}
	defer d.close()
	time.Sleep(300 * time.Millisecond)
	if err := w.encryptedAsMeant(ctx, way); err != nil {
		return err
	}

	bulk := func(args ...string) (float64, error) {
		out, err := w.exec(ctx, w.client, append([]string{"iperf3", "-c", serverAddress, "-p", strconv.Itoa(bulkPort), "-J",
			"-t", strconv.Itoa(o.seconds), "-O", "1"}, args...)...)
		if err != nil {
			return 0, err
		}
		var report struct {
			End struct {
				SumReceived struct {
					BitsPerSecond float64 `json:"bits_per_second"`
				} `json:"sum_received"`
			} `json:"end"`
		}
		if err := json.Unmarshal([]byte(out), &report); err != nil {
			return 0, err
		}
		return report.End.SumReceived.BitsPerSecond / 1e9, nil
	}
	conns := func(workers int, amount string) (rate, slowest, failed float64, err error) {
		out, err := w.exec(ctx, w.client, w.self, "short", net.JoinHostPort(serverAddress, strconv.Itoa(shortPort)), strconv.Itoa(workers), amount)
		if err != nil {
			return 0, 0, 0, err
		}
		var n, s float64
		if _, err := fmt.Sscan(out, &n, &s, &slowest, &failed); err != nil {
			return 0, 0, 0, err
		}
		return n / s, slowest, failed, nil
	}
	atRest := d.rss()
	if first {
		if err := w.idle(ctx, d, r, atRest); err != nil {
			return err
		}
	}
	one, err := bulk()
	if err != nil {
		return err
	}
	r.OneStream = append(r.OneStream, one)
	up, err := bulk("-R")
	if err != nil {
		return err
	}
	r.Upload = append(r.Upload, up)
	eight, err := bulk("-P", "8")
	if err != nil {
		return err
	}
	r.EightStreams = append(r.EightStreams, eight)
	busy := d.rss()
	r.ClientBusy, r.ServerBusy = append(r.ClientBusy, mib(busy[0])), append(r.ServerBusy, mib(busy[1]))
	for _, workers := range []int{1, 16} {
		rate, _, _, err := conns(workers, strconv.Itoa(o.seconds))
		if err != nil {
			return err
		}
		if workers == 1 {
			r.ConnsOne = append(r.ConnsOne, rate)
		} else {
			r.ConnsSixteen = append(r.ConnsSixteen, rate)
		}
	}
	if first && o.short > 0 {
		rate, slowest, failed, err := conns(16, fmt.Sprintf("%dx", o.short))
		if err != nil {
			return err
		}
		r.Short, r.ShortSlowest, r.ShortFailed = append(r.Short, rate), append(r.ShortSlowest, slowest), append(r.ShortFailed, failed)
	}
	return nil
}

// encryptedAsMeant makes two connections and asks the client daemon what became of the second: a way must not be measured
// under another's name.
func (w *world) encryptedAsMeant(ctx context.Context, way way) error {
	if _, err := w.exec(ctx, w.client, w.self, "short", net.JoinHostPort(serverAddress, strconv.Itoa(shortPort)), "1", "2x"); err != nil {
		return err
	}
	if way.policy == "" {
		return nil
	}
	out, err := w.exec(ctx, w.client, w.binary, "conns", "--json", "--control", filepath.Join(w.dir, "client.sock"))
	if err != nil {
		return err
	}
	var newest struct {
		ID                 uint64
		Encrypted, Resumed bool
	}
	for line := range strings.Lines(out) {
		c := newest
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			return err
		}
		if c.ID > newest.ID {
			newest = c
		}
	}
	switch {
	case newest.ID < 2:
		return errors.New("the connections did not pass the client daemon")
	case newest.Encrypted != (way.policy == "require"), newest.Resumed != way.resume:
		return fmt.Errorf("the connection is not what this way measures: %s", out)
	}
	return nil
}

func (d *daemons) rss() (r [2]int64) {
	for i, p := range []*process{d.client, d.server} {
		if p != nil {
			r[i] = rss(p.cmd.Process.Pid)
		}
	}
	return r
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// idle holds 1,000 connections and notes what each daemon has grown by.
func (w *world) idle(ctx context.Context, d *daemons, r *result, atRest [2]int64) error {
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", w.client, w.self, "idle", net.JoinHostPort(serverAddress, strconv.Itoa(shortPort)), "1000")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil && line == "ready\n" {
		time.Sleep(time.Second)
		now := d.rss()
		r.ClientIdle, r.ServerIdle = append(r.ClientIdle, mib(now[0]-atRest[0])), append(r.ServerIdle, mib(now[1]-atRest[1]))
	}
	in.Close()
	if werr := cmd.Wait(); werr != nil {
		return werr
	}
	return err
}
