package seam

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"innertun/integration/lab"
	"innertun/tcpinc"
	"innertun/tcpinc/tcpcrypt"
)

// Where one local port is left for two connections, the one that has it is kept, and nothing is remembered of the path.
func TestDualWithOnePort(t *testing.T) {
	for i := range 8 {
		w := newWorldFrom(t, []uint16{40000}, tcpinc.InnerSpaceOn, false, []kind{upgradedServer}, lab.Delay(time.Millisecond))
		s, took, err := w.talk(t, tcpinc.Require)
		if err != nil || !s.InnerSpace || took > 2*time.Second {
			t.Errorf("connection %d: %+v after %v, %v", i, s, took, err)
		}
		for _, p := range w.dialer.Paths.List(clock.Now()) {
			if p.Inner == tcpinc.PathEatsSYNData {
				t.Errorf("connection %d: the path is %v", i, p.Inner)
			}
		}
	}
}

// Early data fits a path that takes less than the own interface, whose boxes tell TCP so by the MSS.
func TestEarlyDataThroughTunnel(t *testing.T) {
	for _, icmp := range []bool{false, true} {
		d, a := earlyPair(t, true, lab.NewBlackHole(1280, icmp), lab.NewClampMSS(1240), lab.Delay(time.Millisecond))
		for i := range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), guard)
			start := clock.Now()
			c, err := d.Dial(ctx, netip.Addr{}, service, tcpinc.DialOptions{
				Policy: tcpinc.Require, EarlyData: append([]byte(request), bytes.Repeat([]byte("x"), 1400)...),
			})
			cancel()
			if err != nil {
				t.Fatal(err)
			}
			if s, took := c.ConnectionState(), since(start); s.EarlyData != (i > 0) || i > 0 && took > 500*time.Millisecond {
				t.Errorf("connection %d, ICMP %v: early data %v, after %v", i, icmp, s.EarlyData, took)
			}
			eventually(t, 20*time.Second, "the request is there", func() bool { got, _, _ := a.take(); return len(got) == 1 })
			c.SetReadDeadline(clock.Now().Add(guard))
			if _, err := io.ReadFull(c, make([]byte, len("reply"))); err != nil {
				t.Errorf("connection %d: %v", i, err)
			}
			c.Abort()
		}
	}
}

// Who dials with early data that has left, and fails, is told so.
func TestEarlyDataHasLeft(t *testing.T) {
	c, s := pair(t)
	cfg := tcpinc.Config{Clock: clock, InnerSpace: tcpinc.InnerSpaceAuto, Sessions: &tcpcrypt.SessionCache{Clock: clock}, EarlyData: true}
	defer cfg.Sessions.Close()
	l, err := listener(s, service, tcpinc.ListenConfig{Config: cfg})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.AcceptConn()
			if err != nil {
				return
			}
			c.Read(make([]byte, 1))
			c.Abort()
		}
	}()
	d := &tcpinc.Dialer{Connect: Connect(c), Paths: new(tcpinc.PathMemory), Config: tcpinc.Config{Clock: clock,
		InnerSpace: tcpinc.InnerSpaceAuto, Sessions: &tcpcrypt.SessionCache{Clock: clock},
	}}
	defer d.Config.Sessions.Close()
	for range 3 {
		_, err := d.Dial(t.Context(), netip.Addr{}, service, tcpinc.DialOptions{Policy: tcpinc.Require, EarlyData: make([]byte, 64<<20)})
		if !errors.Is(err, tcpinc.ErrFirstSent) {
			t.Errorf("Dial: %v", err)
		}
	}
	l.Close()
	_, err = d.Dial(t.Context(), netip.Addr{}, service, tcpinc.DialOptions{Policy: tcpinc.Require, EarlyData: make([]byte, 100)})
	if err == nil || errors.Is(err, tcpinc.ErrFirstSent) {
		t.Errorf("nobody listens: %v", err)
	}
}
