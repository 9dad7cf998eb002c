package link

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// transferSize is how many octets exchange sends each way.
const transferSize = 8 << 20

type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// exchange sends different octets both ways at once, in writes of random sizes, and compares them.
func exchange(t testing.TB, a, b net.Conn) {
	t.Helper()
	deadline := time.Now().Add(2 * patience)
	check(t, a.SetDeadline(deadline))
	check(t, b.SetDeadline(deadline))
	type result struct {
		who string
		sum [sha256.Size]byte
		err error
	}
	results := make(chan result, 4)
	send := func(who string, c net.Conn, seed uint64) {
		r := rand.NewChaCha8([32]byte{byte(seed)})
		sizes := rand.New(rand.NewPCG(seed, seed))
		h := sha256.New()
		buf := make([]byte, 300_000)
		var err error
		for left := transferSize; left > 0 && err == nil; {
			n := min(left, 1+sizes.IntN(len(buf)))
			_, _ = r.Read(buf[:n])
			h.Write(buf[:n])
			_, err = c.Write(buf[:n])
			left -= n
		}
		if err == nil {
			err = c.(halfCloser).CloseWrite()
		}
		results <- result{who, [sha256.Size]byte(h.Sum(nil)), err}
	}
	receive := func(who string, c net.Conn) {
		h := sha256.New()
		n, err := io.Copy(h, c)
		if err == nil && n != transferSize {
			err = fmt.Errorf("%d octets of %d", n, transferSize)
		}
		results <- result{who, [sha256.Size]byte(h.Sum(nil)), err}
	}
	go send("a to b", a, 1)
	go send("b to a", b, 2)
	go receive("a to b", b)
	go receive("b to a", a)
	sums := map[string][sha256.Size]byte{}
	for range 4 {
		r := <-results
		if r.err != nil {
			t.Errorf("%s: %v", r.who, r.err)
			continue
		}
		if first, ok := sums[r.who]; ok && first != r.sum {
			t.Errorf("%s: octets differ", r.who)
		}
		sums[r.who] = r.sum
	}
}
