package seam

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"innertun/integration/lab"
	"innertun/stack"
	"innertun/stack/link"
	"innertun/tcpinc"
)

// What a forged SYN costs the server, in a flood that has filled all there is: netstack, shim and Handshake.
func BenchmarkForgedSYN(b *testing.B) {
	syn := upgradedSYN(b)
	for _, kind := range []struct {
		name string
		syn  func(i int) (options, payload []byte)
	}{
		{"SYN", nil},
		{"SYN with ENO", func(int) ([]byte, []byte) { return []byte{2, 4, 5, 180, 69, 3, 0x23, 1}, nil }},
		{"SYN-U", func(int) ([]byte, []byte) { return []byte{2, 4, 5, 180}, syn }},
	} {
		for _, room := range []int{64, 1 << 20} {
			b.Run(fmt.Sprintf("%s, room for %d", kind.name, room), func(b *testing.B) {
				sent := make(chan struct{}, 1024)
				w := link.NewWire(1500, func([]byte) {
					select {
					case sent <- struct{}{}:
					default:
					}
				})
				s, err := stack.New(stack.Config{
					Link: w, Addresses: []netip.Prefix{netip.PrefixFrom(serverAddr, 32)},
					Routes:   []stack.Route{{Prefix: netip.MustParsePrefix("0.0.0.0/0")}},
					MaxFlows: room, MaxHalfOpen: min(room, stack.DefaultMaxHalfOpen),
				})
				if err != nil {
					b.Fatal(err)
				}
				defer s.Close()
				l, err := Listen(s, service, tcpinc.ListenConfig{Config: tcpinc.Config{InnerSpace: tcpinc.InnerSpaceAuto}})
				if err != nil {
					b.Fatal(err)
				}
				defer l.Close()
				f := &lab.Flood{Target: service, Sources: netip.MustParsePrefix("198.19.0.0/16"), SYN: kind.syn}
				i := 0
				one := func() {
					w.Inject(f.Segment(i))
					i++
					select {
					case <-sent:
					case <-time.After(time.Minute):
						b.Fatal("no answer")
					}
				}
				for range 200 {
					one()
				}
				b.ReportAllocs()
				for b.Loop() {
					one()
				}
			})
		}
	}
}
