package stack

import (
	"bytes"
	"sync"
	"testing"
	"testing/iotest"
)

// counting gives the octets 1, 2, 3 ... and is not safe for several goroutines.
type counting struct{ n byte }

func (c *counting) Read(b []byte) (int, error) {
	for i := range b {
		c.n++
		b[i] = c.n
	}
	return len(b), nil
}

// A source of the caller's own fills all that is asked for, and gives nothing twice.
func TestSecure(t *testing.T) {
	r := secure(iotest.OneByteReader(new(counting)))
	var seen [256]int
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			b := make([]byte, 51)
			if n, err := r.Read(b); n != len(b) || err != nil || bytes.IndexByte(b, 0) >= 0 {
				t.Error(n, err)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, x := range b {
				seen[x]++
			}
		})
	}
	all.Wait()
	for x, n := range seen[1:] {
		if n != 1 {
			t.Fatalf("octet %d: %d times", x+1, n)
		}
	}
}
