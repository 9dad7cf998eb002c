package lossy

import (
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"innertun/integration/netlab"
)

func frame(i int) []byte {
	b := make([]byte, 60)
	b[12], b[13] = 8, 0
	binary.BigEndian.PutUint32(b[20:], uint32(i))
	return b
}

func run(cfg Config, n int) (order []int, s Stats) {
	f := newFate(cfg, 1)
	now := time.Unix(0, 0)
	take := func(frames [][]byte) {
		for _, b := range frames {
			order = append(order, int(binary.BigEndian.Uint32(b[20:])))
		}
	}
	for i := range n {
		take(f.judge(frame(i), now))
		now = now.Add(10 * time.Microsecond)
	}
	take(f.due(now.Add(time.Hour)))
	return order, f.takeStats()
}

func TestFate(t *testing.T) {
	cfg := Config{Seed: 7, Loss: 0.03, Reorder: 0.02, Duplicate: 0.01, HoldFor: 3, HoldTime: time.Millisecond}
	const n = 100000
	a, s := run(cfg, n)
	b, _ := run(cfg, n)
	if fmt.Sprint(a) != fmt.Sprint(b) {
		t.Error("the same seed gave another order")
	}
	near := func(name string, got int, p float64) {
		if want := p * n; float64(got) < 0.85*want || float64(got) > 1.15*want {
			t.Errorf("%s: %d of %d, want about %.0f", name, got, n, want)
		}
	}
	near("lost", s.Lost, 0.03)
	near("reordered", s.Reordered, 0.02)
	near("duplicated", s.Duplicated, 0.01)
	if s.Lost+s.Passed != n || len(a) != s.Passed+s.Duplicated {
		t.Errorf("%+v, %d came out", s, len(a))
	}
	late := 0
	for i := 1; i < len(a); i++ {
		if a[i] < a[i-1] {
			late++
		}
	}
	near("late", late, 0.02)
}

func TestARPPasses(t *testing.T) {
	f := newFate(Config{Loss: 1}, 1)
	arp := frame(1)
	arp[13] = 6
	if len(f.judge(arp, time.Time{})) != 1 || len(f.judge(frame(1), time.Time{})) != 0 {
		t.Error("want ARP to pass and IP to be lost")
	}
}

// TestKernelTransfers is the control experiment: the kernel's own TCP over the lossy path.
func TestKernelTransfers(t *testing.T) {
	l := netlab.New(t, netlab.Options{Wire: true})
	var b *Bridge
	if err := l.Wire.Do(func() (err error) {
		b, err = Open("left", "right", Config{Seed: 1, Loss: 0.03, Reorder: 0.02, Duplicate: 0.01})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	n := l.Server.StartNginx(t, 256<<10, "198.18.2.2:8081", "[fd00:2::2]:8081")
	var wg sync.WaitGroup
	for i := range 40 {
		url := "http://198.18.2.2:8081/file"
		if i%2 == 1 {
			url = "http://[fd00:2::2]:8081/file"
		}
		wg.Go(func() {
			o := l.Client.Run(t.Context(), "sh", "-c", "curl -sSf --max-time 60 "+url+" | sha256sum")
			if o.Err != nil || !strings.HasPrefix(o.Stdout, n.SHA256) {
				t.Errorf("%s: %v %s %s", url, o.Err, o.Stdout, o.Stderr)
			}
		})
	}
	wg.Wait()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	s := b.Stats()
	t.Logf("%+v", s)
	if s.Lost < 50 || s.Reordered < 30 || s.Oversized > 0 {
		t.Errorf("the path did not do its work: %+v", s)
	}
}
