package main

import (
	"crypto/rand"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"innertun/integration/lab"
	"innertun/tcpinc/eno"
	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt"
)

// forged says what the SYNs of a flood carry.
var forged = map[string]func() (func(i int) (options, payload []byte), error){
	"SYN":          func() (func(int) ([]byte, []byte), error) { return nil, nil },
	"SYN with ENO": func() (func(int) ([]byte, []byte), error) { return withENO, nil },
	"SYN-U": func() (func(int) ([]byte, []byte), error) {
		payload, err := upgradedSYN()
		return func(int) ([]byte, []byte) { return []byte{2, 4, 5, 180}, payload }, err
	},
}

func withENO(int) ([]byte, []byte) {
	return []byte{2, 4, 5, 180, eno.Kind, 3, byte(tcpcrypt.Curve25519), 1}, nil
}

func upgradedSYN() ([]byte, error) {
	x, err := tcpcrypt.NewExchange(tcpcrypt.Curve25519, tcpcrypt.Ciphers(), rand.Reader)
	if err != nil {
		return nil, err
	}
	suffix, err := eno.AppendOption(nil, eno.Option{Suboptions: []eno.Suboption{{TEP: tcpcrypt.Curve25519}}})
	if err != nil {
		return nil, err
	}
	if suffix, err = innerspace.AppendInit(suffix, x.Init1()); err != nil {
		return nil, err
	}
	return innerspace.AppendSYN(nil, innerspace.SYN{Suffix: suffix})
}

// flood KIND ADDR RATE SECONDS sends SYNs with forged sources and prints how many left.
func flood(args []string) int {
	syn, err := forged[args[0]]()
	if err != nil {
		return fail(err)
	}
	target, err := netip.ParseAddrPort(args[1])
	if err != nil {
		return fail(err)
	}
	rate, err := strconv.Atoi(args[2])
	if err != nil {
		return fail(err)
	}
	seconds, err := strconv.Atoi(args[3])
	if err != nil {
		return fail(err)
	}
	f := lab.Flood{Target: target, Sources: netip.MustParsePrefix("198.19.0.0/16"), SYN: syn}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fd)
	// What has a mark is not diverted into the client's TUN device.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 7); err != nil {
		return fail(err)
	}
	to := &unix.SockaddrInet4{Addr: target.Addr().As4()}
	sent, lost := 0, 0
	for start := time.Now(); time.Since(start) < time.Duration(seconds)*time.Second; time.Sleep(time.Millisecond) {
		for due := int(time.Since(start).Seconds() * float64(rate)); sent < due; sent++ {
			if err := unix.Sendto(fd, f.Segment(sent), 0, to); err != nil {
				lost++
			}
		}
	}
	fmt.Println(sent - lost)
	return 0
}

// good ADDR RATE SECONDS opens connections at a steady pace, passes an octet over each, and prints how many were tried and have
// failed, and of the others the median, the slowest but 5 % and the slowest, in ms.
func good(args []string) int {
	rate, err := strconv.Atoi(args[1])
	if err != nil {
		return fail(err)
	}
	seconds, err := strconv.Atoi(args[2])
	if err != nil {
		return fail(err)
	}
	var mu sync.Mutex
	var took []float64
	var failed atomic.Int64
	var wg sync.WaitGroup
	n := rate * seconds
	for range n {
		wg.Go(func() {
			start := time.Now()
			if oneConnection(args[0], 10*time.Second) != nil {
				failed.Add(1)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, float64(time.Since(start))/1e6)
		})
		time.Sleep(time.Second / time.Duration(rate))
	}
	wg.Wait()
	slices.Sort(took)
	at := func(share float64) float64 {
		if len(took) == 0 {
			return 0
		}
		return took[min(int(share*float64(len(took))), len(took)-1)]
	}
	fmt.Println(n, failed.Load(), at(0.5), at(0.95), at(1))
	return 0
}
