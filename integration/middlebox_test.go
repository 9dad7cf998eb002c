package integration

import (
	"context"
	"net"
	"testing"
	"time"

	"innertun/integration/netlab"
)

// TestMiddlebox has routers on the path that strip or drop TCP options of kind 69 in all the ways known.
func TestMiddlebox(t *testing.T) {
	t.Parallel() // most of it is waiting
	lab := netlab.New(t, netlab.Options{})
	lab.Server.Serve(t, "127.0.0.1:9001", answerSum)
	server := startRun(t, lab.Server, "[egress]\ninterface = \"eth0\"\n[[serve]]\nlisten = \":2001\"\nforward = \"127.0.0.1:9001\"\n")
	strip := func(s netlab.Segments, d netlab.Direction) func(testing.TB) {
		return func(t testing.TB) { lab.StripENO(t, s, d) }
	}
	drop := func(d netlab.Direction) func(testing.TB) {
		return func(t testing.TB) { lab.DropENO(t, netlab.SYN, d) }
	}
	for _, test := range []struct {
		name      string
		interfere func(testing.TB)
		first     string        // fallback_reason of the first connection; empty: encrypted
		second    string        // of the next one
		within    time.Duration // the first one
	}{
		{"none", func(testing.TB) {}, "", "", 2 * time.Second},
		{"strip SYN", strip(netlab.SYN, netlab.Both), "peer-no-eno", "peer-no-eno", 2 * time.Second},
		{"strip all", strip(netlab.All, netlab.Both), "peer-no-eno", "peer-no-eno", 2 * time.Second},
		{"strip all to server", strip(netlab.All, netlab.ToServer), "peer-no-eno", "peer-no-eno", 2 * time.Second},
		{"strip all to client", strip(netlab.All, netlab.ToClient), "peer-no-eno", "peer-no-eno", 2 * time.Second},
		{"strip non-SYN", strip(netlab.NonSYN, netlab.Both), "eno-stripped", "remembered", 8 * time.Second},
		{"strip non-SYN to server", strip(netlab.NonSYN, netlab.ToServer), "eno-stripped", "remembered", 8 * time.Second},
		{"strip non-SYN to client", strip(netlab.NonSYN, netlab.ToClient), "", "", 2 * time.Second},
		{"drop SYN to server", drop(netlab.ToServer), "syn-eno-dropped", "remembered", 20 * time.Second},
		{"drop SYN-ACK to client", drop(netlab.ToClient), "syn-eno-dropped", "remembered", 20 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			lab.ClearMiddlebox(t)
			test.interfere(t)
			client := startRun(t, lab.Client, clientConfig) // it remembers nothing yet
			for i, w := range ways(lab.Client) {
				address := families()[i].at(2001)
				for n, want := range []string{test.first, test.second} {
					watch, limit := netlab.StartStopwatch(), test.within
					if n > 0 {
						limit = time.Second // it pays nothing
					}
					if err := exchange(t, w, address); err != nil {
						t.Fatalf("%s, connection %d: %v", w.name, n, err)
					}
					wall, own := watch.Took()
					t.Logf("%s, connection %d: %v", w.name, n, wall.Round(time.Millisecond))
					if own > limit {
						t.Errorf("%s, connection %d took %v, %v of it by itself; want at most %v", w.name, n, wall, own, limit)
					}
					r := client.newest(t, to(address))
					if r.Encrypted != (want == "") || r.FallbackReason != want {
						t.Errorf("%s, connection %d: want %q: %+v", w.name, n, want, r)
					}
				}
			}
			client.waitIdle(t)
			server.waitIdle(t)
			if _, err := client.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

func exchange(t *testing.T, w way, address string) error {
	ctx, cancel := context.WithTimeout(t.Context(), netlab.Patience)
	defer cancel()
	c, err := w.dial(ctx, address)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.(*net.TCPConn).SetDeadline(time.Now().Add(netlab.Patience)); err != nil {
		return err
	}
	return askSum(c, pattern(6, 200_000))
}
