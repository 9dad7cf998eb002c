package integration

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"innertun/integration/lossy"
	"innertun/integration/netlab"
)

// TestLoss makes 200 transfers over a path that loses 3 % of all packets each way, reorders and repeats some: no
// corruption, no connection lost, and none in plain because a lost packet was taken for a middlebox. Two packets of any opening
// may be lost; three, as chance has it once in hundreds of connections, can make one that is given up rightly: a SYN, which makes the
// retransmission of Init1 slow, and Init1 twice.
func TestLoss(t *testing.T) {
	lab := netlab.New(t, netlab.Options{Wire: true})
	web := lab.Server.StartNginx(t, 8<<20, "127.0.0.1:8080")
	var bridge *lossy.Bridge
	if err := lab.Wire.Do(func() (err error) {
		bridge, err = lossy.Open("left", "right", lossy.Config{Seed: 20190501, Loss: 0.03, Reorder: 0.02, Duplicate: 0.005, OpeningLosses: 2})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bridge.Close(); err != nil {
			t.Error(err)
		}
	})
	server := startServe(t, lab.Server, "80", "127.0.0.1:8080")
	client := startRun(t, lab.Client, clientConfig)

	const transfers, size, atOnce = 200, 200 << 10, 20
	slots := make(chan struct{}, atOnce)
	both := ways(lab.Client)
	many(t, transfers, func(_ context.Context, i int) error {
		slots <- struct{}{}
		defer func() { <-slots }()
		ctx, cancel := context.WithTimeout(t.Context(), 3*netlab.Patience)
		defer cancel()
		w, address := both[i%2], families()[i/2%2].at(80)
		if i%5 == 4 {
			return putAndCheck(ctx, w, web, address, fmt.Sprint("u", i), pattern(byte(i), size))
		}
		from := i * 20_000
		got, err := get(ctx, w, address, from, from+size)
		if err == nil && !bytes.Equal(got, web.Data[from:from+size]) {
			err = fmt.Errorf("%w octets", errUnexpected)
		}
		return err
	})
	s := bridge.Stats()
	t.Logf("path: %+v", s)
	if s.Lost < 500 || s.Reordered < 300 || s.Oversized > 0 {
		t.Errorf("the path did not do its work: %+v", s)
	}
	for _, r := range client.conns(t) { // of the last minute
		if !r.Encrypted {
			t.Errorf("not encrypted: %+v", r)
		}
	}
	if all, err := client.status(); err != nil || all.Totals.Encrypted < transfers || len(all.Totals.Plain) > 0 {
		t.Errorf("totals: %+v, %v", all.Totals, err)
	}
	client.waitIdle(t)
	server.waitIdle(t)
}
