package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"innertun/cmd/internal/seam"
	"innertun/integration/lab"
	"innertun/stack"
	"innertun/stack/link"
	"innertun/tcpinc"
	"innertun/tcpinc/tcpcrypt"
)

// opening is a way to open a connection. All of them run over the same two netstacks, which an in-memory path without
// delay joins.
type opening struct {
	name string
	port uint16
	dial func() dialFunc // what one client of several at once dials with
}

type dialFunc func(ctx context.Context, to netip.AddrPort) (net.Conn, error)

// openings is the world in which handshakes are compared.
type openings struct {
	ways    []opening
	closers []func() error
}

var openingServer = netip.MustParseAddr("198.18.0.2")

func (w *openings) close() {
	for _, c := range slices.Backward(w.closers) {
		_ = c()
	}
}

func newOpenings() (w *openings, err error) {
	w = new(openings)
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	path := lab.NewPath(nil)
	a, b := link.NewWire(1500, path.From(lab.A)), link.NewWire(1500, path.From(lab.B))
	path.Connect(a.Inject, b.Inject)
	w.closers = append(w.closers, func() error { path.Close(); return nil })
	var stacks [2]*stack.Stack
	for i, wire := range []*link.Wire{a, b} {
		if stacks[i], err = stack.New(stack.Config{
			Link:      wire,
			Addresses: []netip.Prefix{netip.PrefixFrom([]netip.Addr{netip.MustParseAddr("198.18.0.1"), openingServer}[i], 32)},
			Routes:    []stack.Route{{Prefix: netip.MustParsePrefix("0.0.0.0/0")}},
		}); err != nil {
			return w, err
		}
		w.closers = append(w.closers, stacks[i].Close)
	}
	return w, w.add(stacks[0], stacks[1])
}

// add makes a served port and a dialer for each way.
func (w *openings) add(client, server *stack.Stack) error {
	pool := tcpcrypt.NewKeyPool(0)
	w.closers = append(w.closers, pool.Close)
	certificate, roots, err := newCertificate()
	if err != nil {
		return err
	}
	dialer := func(cfg tcpinc.Config, o tcpinc.DialOptions) func() dialFunc {
		return func() dialFunc {
			d := &tcpinc.Dialer{Connect: seam.Connect(client), Config: cfg}
			return func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
				return d.Dial(ctx, netip.Addr{}, to, o)
			}
		}
	}
	plain := dialer(tcpinc.Config{}, tcpinc.DialOptions{Policy: tcpinc.Off})
	off, encrypted := tcpinc.ListenConfig{Policy: tcpinc.Off}, tcpinc.ListenConfig{Policy: tcpinc.Require}
	pooled, cached := encrypted, encrypted
	pooled.Config.KeyPool = pool
	cached.Config.Sessions = new(tcpcrypt.SessionCache)
	w.closers = append(w.closers, cached.Config.Sessions.Close)
	require := tcpinc.DialOptions{Policy: tcpinc.Require}
	// The key exchange is tcpcrypt's favourite: crypto/tls would add ML-KEM to it by default.
	exchange := []tls.CurveID{tls.X25519}
	client13 := &tls.Config{MinVersion: tls.VersionTLS13, CurvePreferences: exchange, RootCAs: roots, ServerName: "bench.test"}
	server13 := &tls.Config{MinVersion: tls.VersionTLS13, CurvePreferences: exchange, Certificates: []tls.Certificate{certificate}}
	resumedCrypt := func() dialFunc {
		return mustResume(dialer(tcpinc.Config{Sessions: new(tcpcrypt.SessionCache)}, require)())
	}
	full := func() dialFunc { return overTLS(plain(), client13) }
	resumed := func() dialFunc {
		cfg := client13.Clone()
		cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		return overTLS(plain(), cfg)
	}
	for _, way := range []struct {
		name   string
		dial   func() dialFunc
		listen tcpinc.ListenConfig
		tls    *tls.Config
	}{
		{"plain", plain, off, nil},
		{"tcpcrypt-fresh", dialer(tcpinc.Config{}, require), encrypted, nil},
		{"tcpcrypt-fresh-pool", dialer(tcpinc.Config{KeyPool: pool}, require), pooled, nil},
		{"tcpcrypt-resumed", resumedCrypt, cached, nil},
		{"tls-full", full, off, server13},
		{"tls-resumed", resumed, off, server13},
	} {
		o := opening{name: way.name, port: uint16(5000 + len(w.ways)), dial: way.dial}
		l, err := seam.Listen(server, netip.AddrPortFrom(openingServer, o.port), way.listen)
		if err != nil {
			return err
		}
		w.closers = append(w.closers, l.Close)
		go echoOctet(l, way.tls)
		w.ways = append(w.ways, o)
	}
	return nil
}

// overTLS adds TLS to what dial opens. With a session cache every connection but the first must be resumed.
func overTLS(dial dialFunc, cfg *tls.Config) dialFunc {
	first := true
	return func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
		below, err := dial(ctx, to)
		if err != nil {
			return nil, err
		}
		c := tls.Client(below, cfg)
		if err := c.HandshakeContext(ctx); err != nil {
			below.Close()
			return nil, err
		}
		if want := cfg.ClientSessionCache != nil && !first; c.ConnectionState().DidResume != want {
			c.Close()
			return nil, fmt.Errorf("resumed is not %v", want)
		}
		first = false
		return c, nil
	}
}

// mustResume makes sure that every connection but the first is resumed.
func mustResume(dial dialFunc) dialFunc {
	first := true
	return func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
		c, err := dial(ctx, to)
		if err != nil {
			return nil, err
		}
		if s := c.(*tcpinc.Conn).ConnectionState(); s.Resumed == first {
			c.Close()
			return nil, fmt.Errorf("resumed is %v", s.Resumed)
		}
		first = false
		return c, nil
	}
}

// newCertificate makes a certificate of ECDSA P-256 that signs itself.
func newCertificate() (tls.Certificate, *x509.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench.test"}, DNSNames: []string{"bench.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, roots, nil
}

// echoOctet answers each connection's octet, over TLS if there is a configuration for it.
func echoOctet(l *tcpinc.Listener, cfg *tls.Config) {
	for {
		accepted, err := l.AcceptConn()
		if err != nil {
			return
		}
		go func() {
			defer accepted.Close()
			var c net.Conn = accepted
			if cfg != nil {
				c = tls.Server(accepted, cfg)
				defer c.Close()
			}
			var b [1]byte
			if _, err := io.ReadFull(c, b[:]); err == nil {
				if _, err := c.Write(b[:]); err == nil {
					_, _ = c.Read(b[:]) // the client's end
				}
			}
		}()
	}
}

// connect opens one connection, passes an octet there and back, closes it, and returns the time to the octet's return.
func (o opening) connect(ctx context.Context, dial dialFunc) (time.Duration, error) {
	begin := time.Now()
	c, err := dial(ctx, netip.AddrPortFrom(openingServer, o.port))
	if err != nil {
		return 0, err
	}
	defer c.Close()
	b := [1]byte{'x'}
	if _, err := c.Write(b[:]); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return 0, err
	}
	return time.Since(begin), nil
}

// latency is the median time in microseconds of n connections one after the other.
func (o opening) latency(ctx context.Context, n int) (float64, error) {
	var took []float64
	dial := o.dial()
	for range n {
		d, err := o.connect(ctx, dial)
		if err != nil {
			return 0, err
		}
		took = append(took, float64(d.Nanoseconds())/1000)
	}
	return median(took), nil
}

// processorTime is what this process has used so far.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// rate is connections a second with 16 at once, and what one costs both ends together in microseconds of processor time.
func (o opening) rate(ctx context.Context, d time.Duration) (rate, cpu float64, err error) {
	var workers sync.WaitGroup
	var done atomic.Int64
	var mu sync.Mutex
	var failed error
	begin, used := time.Now(), processorTime()
	for range 16 {
		workers.Go(func() {
			dial := o.dial()
			for time.Since(begin) < d {
				if _, err := o.connect(ctx, dial); err != nil {
					mu.Lock()
					failed = errors.Join(failed, err)
					mu.Unlock()
					return
				}
				done.Add(1)
			}
		})
	}
	workers.Wait()
	n := float64(done.Load())
	return n / time.Since(begin).Seconds(), float64((processorTime() - used).Microseconds()) / n, failed
}

// opened are a way's rounds.
type opened struct {
	Name    string
	Latency []float64 // us to the first octet of the reply, one at a time: medians
	Rate    []float64 // connections a second, 16 at once
	CPU     []float64 // us of processor time a connection, both ends together
}

// measureOpenings compares handshakes in rounds that take every way in turn.
func measureOpenings(ctx context.Context, rounds int, each time.Duration) ([]opened, error) {
	w, err := newOpenings()
	if err != nil {
		return nil, err
	}
	defer w.close()
	fmt.Fprintln(os.Stderr, "handshakes, warming up")
	all := make([]opened, len(w.ways))
	for round := range rounds + 1 {
		if round > 0 {
			fmt.Fprintf(os.Stderr, "handshakes, round %d/%d\n", round, rounds)
		}
		for i, way := range w.ways {
			all[i].Name = way.name
			us, err := way.latency(ctx, 200)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", way.name, err)
			}
			rate, cpu, err := way.rate(ctx, each)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", way.name, err)
			}
			if round > 0 { // the first is to warm up
				all[i].Latency, all[i].Rate = append(all[i].Latency, us), append(all[i].Rate, rate)
				all[i].CPU = append(all[i].CPU, cpu)
			}
		}
	}
	return all, nil
}
