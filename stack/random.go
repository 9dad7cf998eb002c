package stack

import (
	"crypto/rand"
	"io"
	mathrand "math/rand"
	"sync"
)

// lockedSource makes a source of math/rand safe for the netstack's goroutines. Nothing secret is drawn from it:
// sequence numbers and cookies come from the netstack's secure generator.
type lockedSource struct {
	mu  sync.Mutex
	src mathrand.Source
}

func (l *lockedSource) Int63() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.src.Int63()
}

func (l *lockedSource) Seed(seed int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.src.Seed(seed)
}

// secure is what the netstack draws its secrets from: sequence numbers, timestamps, cookies. Unlike crypto/rand's, a reader of the
// caller's own need not be safe for several goroutines, nor fill what it is given.
func secure(r io.Reader) io.Reader {
	if r == rand.Reader {
		return r
	}
	return &lockedReader{r: r}
}

type lockedReader struct {
	mu sync.Mutex
	r  io.Reader
}

func (l *lockedReader) Read(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return io.ReadFull(l.r, b)
}
