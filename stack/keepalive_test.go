package stack_test

import (
	"errors"
	"io"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"innertun/stack"
	"innertun/stack/stacktest"
)

// TCP's keep-alive finds out that a peer is gone, unless it is switched off.
func TestSetKeepAlive(t *testing.T) {
	for _, on := range []bool{true, false} {
		clock := stacktest.NewClock()
		w := newWorld(t, 0, func(c, _ *stack.Config) { c.Clock = clock })
		at := netip.AddrPortFrom(server4.Addr(), 80)
		c, _ := w.connect(t, w.listen(t, at, nil), at, nil)
		if err := c.SetKeepAlive(on); err != nil {
			t.Fatal(err)
		}
		w.path.SetTap(func(stacktest.Direction, stacktest.Packet) [][]byte { return nil }) // nothing gets through any more
		got := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			got <- err
		}()
		var err error
		for range 12 * 60 {
			clock.Advance(time.Second)
		}
		wait := testTimeout
		if !on {
			wait = 200 * time.Millisecond
		}
		select {
		case err = <-got:
		case <-time.After(wait):
		}
		if on != (err != nil) || on && (err == io.EOF || !errors.Is(err, syscall.ETIMEDOUT)) {
			t.Errorf("keep-alive %v: after 12 minutes %v", on, err)
		}
		c.Abort()
	}
}
