package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"innertun/integration/netlab"
)

// SOCKS5 reply codes (RFC 1928, Section 6).
const (
	socksNetUnreachable  = socksError(3)
	socksHostUnreachable = socksError(4)
	socksRefused         = socksError(5)
	socksTTLExpired      = socksError(6)
)

// TestFailures connects to destinations that refuse, cannot be reached or do not answer: the application must see
// just that, as without innertun.
func TestFailures(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t, netlab.Options{})
	lab.Router.Script(t, `
		iptables -I FORWARD -d 198.18.4.5 -j REJECT --reject-with icmp-net-unreachable
		ip6tables -I FORWARD -d fd00:4::5 -j REJECT --reject-with icmp6-no-route`)
	destinations := []struct {
		name  string
		to    string
		errno syscall.Errno
		reply socksError
	}{
		{"refused/ipv4", netip.AddrPortFrom(netlab.ServerIP4, 7).String(), syscall.ECONNREFUSED, socksRefused},
		{"refused/ipv6", netip.AddrPortFrom(netlab.ServerIP6, 7).String(), syscall.ECONNREFUSED, socksRefused},
		{"host unreachable/ipv4", netip.AddrPortFrom(netlab.UnreachableIP4, 7).String(), syscall.EHOSTUNREACH, socksHostUnreachable},
		{"host unreachable/ipv6", netip.AddrPortFrom(netlab.UnreachableIP6, 7).String(), syscall.EHOSTUNREACH, socksHostUnreachable},
		{"net unreachable/ipv4", "198.18.4.5:7", syscall.ENETUNREACH, socksNetUnreachable},
		{"net unreachable/ipv6", "[fd00:4::5]:7", syscall.ENETUNREACH, socksNetUnreachable},
	}
	try := func(t *testing.T, w way, to string) error {
		ctx, cancel := context.WithTimeout(t.Context(), netlab.Patience)
		defer cancel()
		c, err := w.dial(ctx, to)
		if err == nil {
			_ = c.Close()
		}
		return err
	}
	both := ways(lab.Client)
	for _, d := range destinations { // what the kernel makes of it
		if err := try(t, both[0], d.to); !errors.Is(err, d.errno) {
			t.Fatalf("without innertun, %s: %v, want %v", d.name, err, d.errno)
		}
	}
	client := startRun(t, lab.Client, clientConfig)
	for _, d := range destinations {
		t.Run("tun/"+d.name, func(t *testing.T) {
			if err := try(t, both[0], d.to); !errors.Is(err, d.errno) {
				t.Errorf("got %v, want %v", err, d.errno)
			}
		})
		t.Run("socks/"+d.name, func(t *testing.T) {
			if err := try(t, both[1], d.to); err != d.reply {
				t.Errorf("got %v, want %v", err, d.reply)
			}
			if r := client.ended(t, to(d.to)); r.State != "failed" || r.Error == "" {
				t.Errorf("record: %+v", r)
			}
		})
	}
	t.Run("socks/local", func(t *testing.T) {
		lab.Client.Serve(t, "127.0.0.1:7001", answerSum)
		if err := exchange(t, both[1], "127.0.0.1:7001"); err != nil {
			t.Error(err)
		}
		if r := client.newest(t, to("127.0.0.1:7001")); r.FallbackReason != "local" || r.Encrypted {
			t.Errorf("record: %+v", r)
		}
		if err := try(t, both[1], "127.0.0.1:7002"); err != socksRefused {
			t.Errorf("closed local port: %v", err)
		}
	})
	t.Run("tun/silent", func(t *testing.T) {
		// Two SYNs, three seconds: the application's own kernel gives up, as it would without innertun.
		lab.Client.Script(t, "sysctl -qw net.ipv4.tcp_syn_retries=1")
		for _, silent := range []netip.Addr{netlab.SilentIP4, netlab.SilentIP6} {
			if err := try(t, both[0], netip.AddrPortFrom(silent, 7).String()); !errors.Is(err, syscall.ETIMEDOUT) {
				t.Errorf("%v: got %v, want %v", silent, err, syscall.ETIMEDOUT)
			}
		}
	})
	t.Run("after", func(t *testing.T) {
		lab.Server.Serve(t, "198.18.2.2:7003", answerSum)
		if err := exchange(t, both[0], "198.18.2.2:7003"); err != nil {
			t.Errorf("an ordinary connection after all these: %v", err)
		}
	})
}

// TestSilentSOCKS waits for the reply to a request for a destination that does not answer.
func TestSilentSOCKS(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t, netlab.Options{})
	client := startRun(t, lab.Client, clientConfig)
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Second)
	defer cancel()
	w, begin := ways(lab.Client)[1], time.Now()
	_, err := w.dial(ctx, netip.AddrPortFrom(netlab.SilentIP4, 7).String())
	t.Logf("%v after %v", err, time.Since(begin).Round(time.Second))
	// RFC 1928 has no code for a timeout.
	if err != socksHostUnreachable && err != socksTTLExpired {
		t.Errorf("got %v, want host unreachable or TTL expired", err)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, io.EOF) {
		t.Errorf("no reply at all: %v", err)
	}
	if took := time.Since(begin); took < 5*time.Second {
		t.Errorf("gave up after %v", took)
	}
	client.waitIdle(t)
}

// TestManySilent is a program that waits for thousands of silent hosts at once: others must not notice, and once its
// sockets are closed nothing is left of it.
func TestManySilent(t *testing.T) {
	t.Parallel()
	const many = 3000
	lab := netlab.New(t, netlab.Options{})
	lab.Server.Serve(t, "198.18.2.2:7003", answerSum)
	client := startRun(t, lab.Client, clientConfig)
	before := residentSize(t, client) >> 10
	var sockets []int
	closeAll := func() {
		for _, fd := range sockets {
			_ = unix.Close(fd)
		}
		sockets = nil
	}
	defer closeAll()
	if err := lab.Client.Do(func() error {
		for i := range many {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			sockets = append(sockets, fd)
			if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 7 + i%3, Addr: netlab.SilentIP4.As4()}); err != unix.EINPROGRESS {
				return fmt.Errorf("connect: %w", err)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	netlab.WaitFor(t, netlab.Patience, "the daemon to hold nearly all of them", func() error {
		s, err := client.status()
		if err == nil && s.Active < many*9/10 {
			err = fmt.Errorf("%d active", s.Active)
		}
		return err
	})
	t.Logf("memory: %d KiB before, %d KiB with %d waiting", before, residentSize(t, client)>>10, many)
	watch := netlab.StartStopwatch()
	if err := exchange(t, ways(lab.Client)[0], "198.18.2.2:7003"); err != nil {
		t.Errorf("another program: %v", err)
	}
	if wall, own := watch.Took(); own > time.Second {
		t.Errorf("another program's connection took %v, %v of it by itself", wall, own)
	}
	closeAll()
	begin := time.Now()
	netlab.WaitFor(t, netlab.Patience, "the daemon to give all of them up", func() error {
		s, err := client.status()
		if err == nil && s.Active != 0 {
			err = fmt.Errorf("%d active", s.Active)
		}
		return err
	})
	t.Logf("given up after %v", time.Since(begin).Round(100*time.Millisecond))
	s, err := client.status()
	if err != nil {
		t.Fatal(err)
	}
	if s.Totals.Failed["cancelled"] < many*9/10 {
		t.Errorf("totals: %+v", s.Totals)
	}
	if _, after, found := strings.Cut(client.Log(), "connection failed"); found {
		t.Errorf("log: connection failed%.300s", after)
	}
}
