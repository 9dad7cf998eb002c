package tcpcrypt

import (
	"crypto/rand"
	"io"
	"sync"
	"time"

	"innertun/tcpinc/eno"
)

const (
	// DefaultKeyPoolSize is how many key pairs of a TEP a KeyPool holds by default.
	DefaultKeyPoolSize = 8

	// refillAfter keeps the making of key pairs out of the way of the exchange that has just taken one.
	refillAfter = 5 * time.Millisecond
	// idleAfter is how long a stock that nobody takes from is held.
	idleAfter = 10 * time.Minute
)

// KeyPool makes key pairs in the background, before a connection needs them: for TEPs that were in use in the last ten
// minutes, a few of each. Every pair is handed out once. A pool that is empty costs nothing: then the pair is made on the
// spot. It is safe for concurrent use; several Configs may share one.
type KeyPool struct {
	size   int
	clock  Clock
	random io.Reader
	work   sync.WaitGroup

	mu     sync.Mutex
	stock  map[eno.TEP][]keyPair
	filled bool        // nothing to make until the next take
	stop   func() bool // the timer of the next filling, or of the end of an idle stock
	closed bool
}

// NewKeyPool returns an empty pool, to be closed in the end. size is how many pairs of each TEP it may hold; 0:
// DefaultKeyPoolSize.
func NewKeyPool(size int) *KeyPool {
	if size <= 0 {
		size = DefaultKeyPoolSize
	}
	return newKeyPool(size, RealClock{}, rand.Reader)
}

func newKeyPool(size int, clock Clock, random io.Reader) *KeyPool {
	return &KeyPool{size: size, clock: clock, random: random, stock: make(map[eno.TEP][]keyPair), filled: true}
}

// Close forgets all pairs. No goroutine of the pool stays; connections make their own pairs from then on.
func (p *KeyPool) Close() error {
	p.mu.Lock()
	p.closed = true
	p.stopTimer()
	p.forget()
	p.mu.Unlock()
	p.work.Wait()
	return nil
}

// take hands out a pair, nil if there is none. From the first call with a TEP on there will be some.
func (p *KeyPool) take(tep eno.TEP) keyPair {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	pairs, known := p.stock[tep]
	if !known {
		if _, err := agreementOf(tep); err != nil {
			return nil
		}
		p.stock[tep] = make([]keyPair, 0, p.size)
	}
	var pair keyPair
	if n := len(pairs); n > 0 {
		pair, pairs[n-1] = pairs[n-1], nil
		p.stock[tep] = pairs[:n-1]
	}
	if p.filled {
		p.filled = false
		p.stopTimer()
		p.after(refillAfter, p.fill)
	}
	return pair
}

// after calls f in a while, unless the timer is stopped. mu is held.
func (p *KeyPool) after(d time.Duration, f func()) {
	p.work.Add(1)
	p.stop = p.clock.AfterFunc(d, func() {
		defer p.work.Done()
		f()
	})
}

func (p *KeyPool) stopTimer() {
	if p.stop != nil && p.stop() {
		p.work.Done()
	}
	p.stop = nil
}

// fill makes pairs until every stock is full. Without randomness it gives up until the next take.
func (p *KeyPool) fill() {
	for {
		tep, ok := p.lacking()
		if !ok {
			return
		}
		scheme, err := agreementOf(tep)
		var pair keyPair
		if err == nil {
			pair, err = scheme.generate(p.random)
		}
		if !p.put(tep, pair, err) {
			return
		}
	}
}

// lacking returns a TEP of which there are too few pairs. If there is none the work is done.
func (p *KeyPool) lacking() (eno.TEP, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, false
	}
	for tep, pairs := range p.stock {
		if len(pairs) < p.size {
			return tep, true
		}
	}
	p.rest()
	return 0, false
}

func (p *KeyPool) put(tep eno.TEP, pair keyPair, err error) (goOn bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err != nil:
		if !p.closed {
			p.rest()
		}
		return false
	case p.closed:
		erasePair(pair)
		return false
	}
	p.stock[tep] = append(p.stock[tep], pair)
	return true
}

// rest waits for the next take, and for the end of an idle stock. mu is held.
func (p *KeyPool) rest() {
	p.filled = true
	p.after(idleAfter, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.filled { // else a take has come in between
			p.forget()
		}
	})
}

// forget drops all pairs. mu is held.
func (p *KeyPool) forget() {
	for _, pairs := range p.stock {
		for i, pair := range pairs {
			erasePair(pair)
			pairs[i] = nil
		}
	}
	clear(p.stock)
}

// erasePair clears a private key where that can be done; those of crypto/ecdh are left to the collector.
func erasePair(pair keyPair) {
	if k, ok := pair.(*x448Pair); ok {
		clear(k.private[:])
		k.spent = true
	}
}

// pooled is randomness that may have a key pair ready.
type pooled struct {
	io.Reader
	pool *KeyPool
}

// Pooled returns randomness that may have a key pair ready, for NewExchange and AnswerExchange; random itself without a
// pool.
func Pooled(random io.Reader, pool *KeyPool) io.Reader {
	if pool == nil {
		return random
	}
	return pooled{random, pool}
}

func (p pooled) take(tep eno.TEP) keyPair { return p.pool.take(tep) }
