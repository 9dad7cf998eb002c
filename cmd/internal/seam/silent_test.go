package seam

import (
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"innertun/integration/lab"
	"innertun/tcpinc"
)

// Hosts that complete TCP handshakes and then say nothing: the oldest give way, good clients get through, and as much is held as
// there may be handshakes.
func TestSilentConnections(t *testing.T) {
	const most, silent = 50, 600
	c, s := pair(t, lab.Delay(time.Millisecond))
	var crowded atomic.Int64
	server := innerServer
	server.MaxHandshakes = most
	server.Failed = func(net.Addr, error) { crowded.Add(1) }
	serve(t, s, server)
	d := &tcpinc.Dialer{Connect: Connect(c), Config: tcpinc.Config{Clock: clock}}
	if _, err := exchangeText(d, tcpinc.Require, tcpinc.DialOptions{}); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	var mu sync.Mutex
	var held []tcpinc.Transport
	defer func() {
		for _, x := range held {
			x.Abort()
		}
	}()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range silent / 4 {
				h, err := tcpinc.Config{Clock: clock}.NewActive()
				if err != nil {
					t.Error(err)
					return
				}
				x, err := d.Connect(t.Context(), netip.AddrPort{}, service, h)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				held = append(held, x)
				mu.Unlock()
			}
		})
	}
	for range 30 {
		if state, err := exchangeText(d, tcpinc.Require, tcpinc.DialOptions{}); err != nil || !state.Encrypted {
			t.Errorf("a good client: %+v, %v", state, err)
		}
	}
	all.Wait()
	eventually(t, 10*time.Second, "the others were given up", func() bool { return crowded.Load() >= silent-most })
	eventually(t, 10*time.Second, "their goroutines have ended", func() bool { return runtime.NumGoroutine() < goroutines+most+40 })
	if st := s.Stats(); st.Established > most+10 {
		t.Errorf("%d connections are open", st.Established)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 32<<20 {
		t.Errorf("the heap has grown by %d octets", grown)
	}
	if state, err := exchangeText(d, tcpinc.Require, tcpinc.DialOptions{}); err != nil || !state.Encrypted {
		t.Errorf("afterwards: %+v, %v", state, err)
	}
}
