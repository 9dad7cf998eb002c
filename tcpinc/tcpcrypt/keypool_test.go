package tcpcrypt

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt/crypttest"
)

func (p *KeyPool) held(tep eno.TEP) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.stock[tep])
}

// countedRandom is randomness that counts what was asked of it.
type countedRandom struct {
	octets atomic.Int64
	fail   atomic.Bool
}

func (c *countedRandom) Read(b []byte) (int, error) {
	if c.fail.Load() {
		return 0, errors.New("no randomness")
	}
	c.octets.Add(int64(len(b)))
	return rand.Read(b)
}

// A pool holds nothing until a TEP is used, then no more than its size, and none twice; without use it forgets.
func TestKeyPool(t *testing.T) {
	for _, tep := range TEPs() {
		t.Run(tep.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var random countedRandom
				p := newKeyPool(3, RealClock{}, &random)
				defer p.Close()
				if pair := p.take(tep); pair != nil || random.octets.Load() != 0 {
					t.Errorf("an unused pool has %v and has drawn %d octets", pair, random.octets.Load())
				}
				seen := make(map[string]bool)
				for range 5 {
					time.Sleep(time.Second)
					if n := p.held(tep); n != 3 {
						t.Fatalf("%d pairs held", n)
					}
					for i := range 4 {
						pair := p.take(tep)
						if (pair == nil) != (i == 3) {
							t.Fatalf("take %d: %v", i, pair)
						}
						if pair == nil {
							continue
						}
						public := string(pair.appendPublic(nil, nil))
						if seen[public] {
							t.Fatal("a pair was handed out twice")
						}
						seen[public] = true
					}
				}
				time.Sleep(time.Second)
				time.Sleep(idleAfter)
				if n := p.held(tep); n != 0 {
					t.Errorf("%d pairs held after %v of no use", n, idleAfter)
				}
				if p.take(tep) != nil {
					t.Error("a pair where there should be none")
				}
				time.Sleep(time.Second)
				if n := p.held(tep); n != 3 {
					t.Errorf("%d pairs held after the next use", n)
				}
			})
		})
	}
}

func TestKeyPoolClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newKeyPool(4, RealClock{}, rand.Reader)
		p.take(Curve448)
		time.Sleep(time.Second)
		p.mu.Lock()
		pair := p.stock[Curve448][0].(*x448Pair)
		p.mu.Unlock()
		p.take(P256) // a filling is due
		p.Close()
		if n := p.held(Curve448); n != 0 || !pair.spent || pair.private != [56]byte{} {
			t.Errorf("%d pairs after Close, the private key of one is %x", n, pair.private)
		}
		if p.take(Curve448) != nil {
			t.Error("a closed pool has a pair")
		}
		time.Sleep(time.Hour)
		if p.held(Curve448)+p.held(P256) != 0 {
			t.Error("a closed pool went on")
		}
		p.Close() // once more does no harm
	})
}

// Without randomness the pool is empty and tries again when next used.
func TestKeyPoolWithoutRandomness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var random countedRandom
		random.fail.Store(true)
		p := newKeyPool(2, RealClock{}, &random)
		defer p.Close()
		p.take(Curve25519)
		time.Sleep(time.Second)
		if n := p.held(Curve25519); n != 0 {
			t.Errorf("%d pairs made of nothing", n)
		}
		random.fail.Store(false)
		p.take(Curve25519)
		time.Sleep(time.Second)
		if n := p.held(Curve25519); n != 2 {
			t.Errorf("%d pairs", n)
		}
	})
}

// Connections with a shared pool, many at once: each has keys of its own.
func TestKeyPoolConnections(t *testing.T) {
	p := NewKeyPool(0)
	defer p.Close()
	var all sync.WaitGroup
	var mu sync.Mutex
	publics := make(map[string]int)
	for range 8 {
		all.Go(func() {
			for range 10 {
				var first []byte
				end := func(role eno.Role, e *crypttest.End) *Conn {
					e.Tap = func(_ uint64, b []byte) {
						if first == nil && role == eno.RoleA {
							first = bytes.Clone(b)
						}
					}
					c, err := New(e, Config{Role: role, TEP: Curve25519, Transcript: []byte("t"), KeyPool: p})
					if err != nil {
						t.Error(err)
					}
					return c
				}
				ea, eb := crypttest.Pipe(crypttest.Options{})
				a, b := end(eno.RoleA, ea), end(eno.RoleB, eb)
				var hs sync.WaitGroup
				hs.Go(func() {
					if err := b.Handshake(context.Background()); err != nil {
						t.Error(err)
					}
				})
				if err := a.Handshake(context.Background()); err != nil {
					t.Error(err)
				}
				hs.Wait()
				m, _, err := ParseInit1(first, Curve25519)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				publics[string(m.Public)]++
				mu.Unlock()
				a.Abort()
				b.Abort()
			}
		})
	}
	all.Wait()
	if len(publics) != 80 {
		t.Errorf("%d public keys for 80 connections", len(publics))
	}
}
