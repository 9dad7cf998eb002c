package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// tools are the programs the benchmark runs inside its namespaces, by re-executing itself.
var tools = map[string]func(args []string) int{
	"echo-one":   echoOne,
	"short":      shortConnections,
	"idle":       idleConnections,
	"plainrelay": plainRelay,
	"flood":      flood,
	"good":       good,
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// echoOne serves ADDR: one octet in, the same octet out, until the client closes.
func echoOne(args []string) int {
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return fail(err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return fail(err)
		}
		go func() {
			defer c.Close()
			var b [1]byte
			for {
				if _, err := io.ReadFull(c, b[:]); err != nil {
					return
				}
				if _, err := c.Write(b[:]); err != nil {
					return
				}
			}
		}()
	}
}

// oneConnection connects, sends an octet, reads it back and closes.
func oneConnection(addr string, timeout time.Duration) error {
	c, err := net.DialTimeout("tcp", addr, timeout)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(timeout))
	if _, err := c.Write([]byte{'x'}); err != nil {
		return err
	}
	var b [1]byte
	_, err = io.ReadFull(c, b[:])
	return err
}

// shortConnections ADDR WORKERS SECONDS|Nx prints the number of connections made, the seconds taken, the slowest in ms and the failures.
func shortConnections(args []string) int {
	workers, err := strconv.Atoi(args[1])
	if err != nil {
		return fail(err)
	}
	total, end := int64(1<<62), time.Now().Add(time.Hour)
	if n, err := strconv.Atoi(args[2]); err == nil {
		end = time.Now().Add(time.Duration(n) * time.Second)
	} else if _, err := fmt.Sscanf(args[2], "%dx", &total); err != nil {
		return fail(errors.New("short: ADDR WORKERS SECONDS or COUNTx"))
	}
	var started, done, failed, slowest atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range workers {
		wg.Go(func() {
			for started.Add(1) <= total && time.Now().Before(end) {
				at := time.Now()
				err := oneConnection(args[0], 20*time.Second)
				took := int64(time.Since(at))
				for {
					old := slowest.Load()
					if took <= old || slowest.CompareAndSwap(old, took) {
						break
					}
				}
				if err != nil {
					if failed.Add(1) == 1 {
						fmt.Fprintln(os.Stderr, err)
					}
					continue
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	fmt.Println(done.Load(), time.Since(start).Seconds(), float64(slowest.Load())/1e6, failed.Load())
	return 0
}

// idleConnections ADDR N opens N connections, passes an octet over each, says "ready", and holds them until its input ends.
func idleConnections(args []string) int {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return fail(err)
	}
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		limit.Cur = limit.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
	conns := make([]net.Conn, 0, n)
	for range n {
		c, err := net.DialTimeout("tcp", args[0], 20*time.Second)
		if err != nil {
			return fail(err)
		}
		if _, err := c.Write([]byte{'x'}); err != nil {
			return fail(err)
		}
		var b [1]byte
		if _, err := io.ReadFull(c, b[:]); err != nil {
			return fail(err)
		}
		conns = append(conns, c)
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	for _, c := range conns {
		c.Close()
	}
	return 0
}
