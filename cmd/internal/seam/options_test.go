package seam

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"innertun/integration/lab"
	"innertun/tcpinc"
	"innertun/tcpinc/innerspace"
)

// meant is an option as it was sent: at what place in the data.
type meant struct {
	number uint32
	at     uint64
}

// numbered is option n, of one of several kinds, some of which nobody knows.
func numbered(n uint32) innerspace.Option {
	b := binary.BigEndian.AppendUint32(nil, n)
	switch n % 3 {
	case 0:
		return append(innerspace.Option{200, 6}, b...)
	case 1:
		o, _ := innerspace.AppendOuter(nil, append(innerspace.Option{28, 6}, b...))
		return o
	}
	o, _ := innerspace.AppendExperiment(nil, 0x49ff, b)
	return o
}

func numberOf(t *testing.T, r innerspace.Received) uint32 {
	o := r.Option
	if len(o) < 6 {
		t.Errorf("option %v", o)
		return 0
	}
	return binary.BigEndian.Uint32(o[len(o)-4:])
}

// Bulk data both ways with an option before each piece of it, through a path that cuts and joins segments: all options
// come, in order and in their places, and the data is whole.
func TestOptionInEverySegment(t *testing.T) {
	paths := map[string]func() []lab.Element{
		"straight": func() []lab.Element { return nil },
		"split":    func() []lab.Element { return []lab.Element{lab.NewSplit(97)} },
		"coalesce": func() []lab.Element { return []lab.Element{lab.NewCoalesce(9000, time.Millisecond)} },
		"both":     func() []lab.Element { return []lab.Element{lab.NewCoalesce(5000, time.Millisecond), lab.NewSplit(531)} },
	}
	for name, elements := range paths {
		t.Run(name, func(t *testing.T) {
			x := connected(t, true, tcpinc.Config{Clock: clock}, tcpinc.Config{Clock: clock}, elements()...)
			var wg sync.WaitGroup
			for _, way := range [][2]*tcpinc.Conn{{x.client, x.server}, {x.server, x.client}} {
				seed := rand.Uint64()
				t.Logf("seed %#x", seed)
				r := rand.New(rand.NewPCG(seed, 0))
				data := make([]byte, 1<<20)
				for i := range data {
					data[i] = byte(r.Uint32())
				}
				var sent []meant
				var told sync.Mutex
				wg.Go(func() {
					for at := 0; at < len(data); {
						n := min(1+r.IntN(4000), len(data)-at)
						told.Lock()
						m := meant{uint32(len(sent)), uint64(at)}
						sent = append(sent, m)
						told.Unlock()
						for way[0].SendOption(numbered(m.number)) != nil { // there is no room: it leaves with data or by itself
							sleep(time.Millisecond)
						}
						if _, err := way[0].Write(data[at : at+n]); err != nil {
							t.Error(err)
							return
						}
						at += n
					}
					way[0].CloseWrite()
				})
				var got []meant
				taken := make(chan struct{})
				go func() { // beside the reader: nothing is dropped
					defer close(taken)
					for way[1].WaitOption(context.Background()) == nil {
						for o := range way[1].Options() {
							got = append(got, meant{numberOf(t, o), o.Position})
							if o.Missed > 0 {
								t.Errorf("%d options missed", o.Missed)
							}
						}
					}
				}()
				wg.Go(func() {
					var all bytes.Buffer
					if _, err := io.Copy(&all, way[1]); err != nil || !bytes.Equal(all.Bytes(), data) {
						t.Errorf("%d octets of %d, %v", all.Len(), len(data), err)
					}
					<-taken
					told.Lock()
					defer told.Unlock()
					if len(got) != len(sent) {
						t.Errorf("%d options of %d", len(got), len(sent))
						return
					}
					for i, m := range sent {
						if got[i] != m {
							t.Errorf("option %d: %+v, want %+v", i, got[i], m)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// Both ends send options without end and nobody reads: both are told that there is no room, neither stalls for good or grows,
// and once they read, data gets through with all that was taken before it.
func TestOptionFloodBothWays(t *testing.T) {
	x := connected(t, true, tcpinc.Config{Clock: clock}, tcpinc.Config{Clock: clock}, lab.Delay(time.Millisecond))
	both := []*tcpinc.Conn{x.client, x.server}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var wg sync.WaitGroup
	var counts [2]uint64
	for i, c := range both {
		wg.Go(func() {
			full := 0
			for until := clock.Now().Add(time.Second); clock.Now().Before(until); {
				switch err := c.SendOption(numbered(uint32(counts[i]))); {
				case err == nil:
					counts[i]++
				case errors.Is(err, innerspace.ErrQueueFull):
					full++
					sleep(100 * time.Microsecond)
				default:
					t.Error(err)
					return
				}
			}
			if full == 0 {
				t.Error("there was room for all of a flood")
			}
		})
	}
	wg.Wait()
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 96<<20 { // windows of TCP, both ways
		t.Errorf("memory grew by %d octets", grown)
	}
	for i, c := range both {
		wg.Go(func() {
			if _, err := c.Write([]byte("data")); err != nil {
				t.Error(err)
			}
			c.CloseWrite()
		})
		wg.Go(func() {
			c.SetReadDeadline(clock.Now().Add(guard))
			if got, err := io.ReadAll(c); string(got) != "data" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
			var missed, taken uint64
			next := uint64(0)
			for r := range c.Options() {
				next += r.Missed
				if n := numberOf(t, r); uint64(n) != next {
					t.Errorf("option %d, want %d", n, next)
				}
				next++
				missed += r.Missed
				taken++
			}
			s := c.ConnectionState().Options
			if s.OptionsReceived != counts[1-i]+1 || s.Missed == 0 || s.Missed+taken != counts[1-i] || missed > s.Missed { // and one MTU
				t.Errorf("%+v, %d taken of %d", s, taken, counts[1-i])
			}
		})
	}
	wg.Wait()
}

// No option is answered by an option: with what every end may send by itself, and requests of every kind, all comes to rest.
func TestNothingAcknowledgesAnAcknowledgement(t *testing.T) {
	cfg := tcpinc.Config{Clock: clock, Identity: key(1), RST: tcpinc.AuthenticateResets}
	x := connected(t, true, cfg, cfg)
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, c := range []*tcpinc.Conn{x.client, x.server} {
		wg.Go(func() { io.Copy(io.Discard, c) })
		if err := c.RequestRekey(); err != nil {
			t.Fatal(err)
		}
		c.SendOuterOption(28, []byte{0, 1})
		c.SendOption(innerspace.Option{99, 2})
	}
	frames := func() (n uint64) {
		for _, c := range []*tcpinc.Conn{x.client, x.server} {
			s := c.ConnectionState()
			n += s.Sent.Frames
		}
		return n
	}
	var last atomic.Uint64
	eventually(t, 10*time.Second, "rest", func() bool {
		sleep(150 * time.Millisecond)
		now := frames()
		return last.Swap(now) == now
	})
	if n := frames(); n > 40 {
		t.Errorf("%d frames", n)
	}
	for _, c := range []*tcpinc.Conn{x.client, x.server} {
		if s := c.ConnectionState(); s.Options.OptionsSent > 5 || s.Sent.Generation < 1 || s.Sent.Generation > 4 {
			t.Errorf("%+v", s)
		}
	}
	x.client.Abort()
	x.server.Abort()
}

// A peer that asks for keys without end has each answered by no more than a frame, and one that asks for what it cannot want
// is left.
func TestRekeyFlood(t *testing.T) {
	x := connected(t, true, tcpinc.Config{Clock: clock}, tcpinc.Config{Clock: clock})
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(io.Discard, x.client) })
	failed := make(chan error, 1)
	wg.Go(func() {
		_, err := io.Copy(io.Discard, x.server)
		failed <- err
	})
	for i := range uint64(5000) {
		for x.client.RequestRekey() != nil {
			sleep(time.Millisecond)
		}
		if i%500 == 0 {
			sleep(5 * time.Millisecond)
		}
	}
	sleep(100 * time.Millisecond)
	if s := x.server.ConnectionState(); s.Sent.Frames > s.Received.Frames+10 {
		t.Errorf("%d frames for %d", s.Sent.Frames, s.Received.Frames)
	}
	x.client.SendOption(innerspace.AppendRekey(nil, 1<<31))
	select {
	case err := <-failed:
		if err == nil {
			t.Error("a request for generation 2^31 was taken")
		}
	case <-after(10 * time.Second):
		t.Error("a request for generation 2^31 was ignored")
	}
	x.client.Abort()
	x.server.Abort()
	wg.Wait()
}
