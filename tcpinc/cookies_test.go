package tcpinc

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"innertun/tcpinc/innerspace"
)

// handClock is a clock that is set by hand.
type handClock struct{ now time.Time }

func (c *handClock) Now() time.Time { return c.now }
func (c *handClock) AfterFunc(time.Duration, func()) func() bool {
	return func() bool { return true }
}

var (
	cookieEnds = ends{netip.MustParseAddrPort("198.18.0.2:80"), netip.MustParseAddrPort("198.18.0.1:40000")}
	cookieHalf = half{early: 300, isn: 0x12345678, peer: []byte{69, 3, 0x23}, own: []byte{69, 4, 1, 0x23}}
)

func bakery(t *testing.T) (*Cookies, *handClock, []byte) {
	t.Helper()
	clock := &handClock{time.Unix(1_700_000_000, 0)}
	c := NewCookies(clock, nil)
	clock.now = clock.now.Add(1500 * time.Millisecond)
	token, err := c.bake(nil, cookieEnds, cookieHalf)
	if err != nil {
		t.Fatal(err)
	}
	return c, clock, token
}

func TestCookie(t *testing.T) {
	c, _, token := bakery(t)
	if want := minCookieLen + len(cookieHalf.peer) + len(cookieHalf.own); len(token) != want {
		t.Errorf("%d octets, want %d", len(token), want)
	}
	got, err := c.open(token, cookieEnds)
	if err != nil || got.early != cookieHalf.early || got.isn != cookieHalf.isn || !bytes.Equal(got.peer, cookieHalf.peer) || !bytes.Equal(got.own, cookieHalf.own) {
		t.Errorf("%+v, %v", got, err)
	}
	mapped := cookieEnds
	mapped.remote = netip.AddrPortFrom(netip.AddrFrom16(mapped.remote.Addr().As16()), mapped.remote.Port())
	if _, err := c.open(token, mapped); err != nil {
		t.Errorf("the same address, mapped: %v", err)
	}
	if _, err := c.open(token, cookieEnds); err != nil {
		t.Errorf("again: %v", err)
	}
}

// No other octets are taken for a cookie.
func TestCookieAltered(t *testing.T) {
	c, _, token := bakery(t)
	for i := range token {
		for _, bit := range []byte{1, 0x80, 0xff} {
			x := bytes.Clone(token)
			x[i] ^= bit
			if _, err := c.open(x, cookieEnds); !errors.Is(err, ErrCookie) {
				t.Errorf("octet %d ^ %#x: %v", i, bit, err)
			}
		}
		if _, err := c.open(token[:i], cookieEnds); !errors.Is(err, ErrCookie) {
			t.Errorf("%d octets of it: %v", i, err)
		}
	}
	for _, more := range [][]byte{append(bytes.Clone(token), 0), make([]byte, minCookieLen), make([]byte, innerspace.MaxCookie+1), nil} {
		if _, err := c.open(more, cookieEnds); !errors.Is(err, ErrCookie) {
			t.Errorf("%x: %v", more, err)
		}
	}
	if _, err := NewCookies(nil, nil).open(token, cookieEnds); !errors.Is(err, ErrCookie) {
		t.Errorf("of another process: %v", err)
	}
	// The border between the two options is covered too.
	x := bytes.Clone(token)
	x[5]++
	if _, err := c.open(x, cookieEnds); !errors.Is(err, ErrCookie) {
		t.Error(err)
	}
}

func TestCookieOfAnotherConnection(t *testing.T) {
	c, _, token := bakery(t)
	for _, other := range []ends{
		{cookieEnds.remote, cookieEnds.local},
		{netip.AddrPortFrom(cookieEnds.local.Addr(), 81), cookieEnds.remote},
		{netip.AddrPortFrom(cookieEnds.local.Addr().Next(), 80), cookieEnds.remote},
		{cookieEnds.local, netip.AddrPortFrom(cookieEnds.remote.Addr(), 40001)},
		{cookieEnds.local, netip.AddrPortFrom(cookieEnds.remote.Addr().Next(), 40000)},
		{cookieEnds.local, netip.MustParseAddrPort("[fd00::1]:40000")},
		{},
	} {
		if _, err := c.open(token, other); !errors.Is(err, ErrCookie) {
			t.Errorf("%v: %v", other, err)
		}
	}
}

// A cookie holds for its life, over a change of keys, and no longer; keys are erased when nothing can need them.
func TestCookieLife(t *testing.T) {
	c, clock, _ := bakery(t)
	for _, after := range []time.Duration{0, 30 * time.Second, cookieKeyTime - time.Millisecond, 100 * cookieKeyTime, 1000*cookieKeyTime + 63*time.Second} {
		made := clock.now.Add(after)
		clock.now = made
		token, err := c.bake(nil, cookieEnds, cookieHalf)
		if err != nil {
			t.Fatal(err)
		}
		key := c.keys[c.now%2]
		for _, age := range []struct {
			d    time.Duration
			good bool
		}{
			{0, true}, {time.Second, true}, {CookieLife - time.Millisecond, true},
			{CookieLife + time.Millisecond, false}, {cookieKeyTime, false}, {2 * cookieKeyTime, false},
		} {
			clock.now = made.Add(age.d)
			if _, err := c.open(token, cookieEnds); (err == nil) != age.good {
				t.Errorf("baked after %v, %v old: %v", after, age.d, err)
			}
			if outstanding := c.outstanding(); outstanding != (age.d <= CookieLife) {
				t.Errorf("%v old: outstanding %v", age.d, outstanding)
			}
		}
		clock.now = made.Add(2 * cookieKeyTime)
		c.open(token, cookieEnds)
		if !bytes.Equal(key, make([]byte, len(key))) {
			t.Error("a key is left that nothing needs")
		}
	}
	clock.now = clock.now.Add(-time.Hour)
	if _, err := c.bake(nil, cookieEnds, cookieHalf); err == nil {
		t.Error("the clock was set back")
	}
	if (*Cookies)(nil).outstanding() || NewCookies(nil, nil).outstanding() {
		t.Error("none was baked")
	}
}

func TestCookieTooLong(t *testing.T) {
	c, _, _ := bakery(t)
	long := half{peer: make([]byte, maxCookieOptions)}
	token, err := c.bake(nil, cookieEnds, long)
	if err != nil || len(token) != innerspace.MaxCookie {
		t.Errorf("%d octets, %v", len(token), err)
	}
	if got, err := c.open(token, cookieEnds); err != nil || len(got.peer) != maxCookieOptions || len(got.own) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	long.own = []byte{69}
	if out, err := c.bake([]byte("x"), cookieEnds, long); err == nil || string(out) != "x" {
		t.Errorf("%x, %v", out, err)
	}
	if _, err := NewCookies(nil, io.LimitReader(rand.Reader, 5)).bake(nil, cookieEnds, cookieHalf); !errors.Is(err, ErrNoRandomness) {
		t.Errorf("without randomness: %v", err)
	}
}

// A SYN-U whose answer is not kept costs no key exchange.
func BenchmarkFleeting(b *testing.B) {
	server := Config{InnerSpace: InnerSpaceAuto, Cookies: NewCookies(nil, nil)}.filled()
	syn := synOf(b)
	for name, serve := range map[string]func(*Handshake){
		"SYN-U, not kept": func(h *Handshake) {
			h.Fleeting(cookieEnds.local, cookieEnds.remote, cookieHalf.isn)
			h.Receive(SYN, []byte{2, 4, 5, 180}, syn)
			h.AppendOptions(nil, SYNACK, 20)
			h.AppendPayload(nil, SYNACK, 1400)
		},
		"SYN-U, kept": func(h *Handshake) {
			h.Receive(SYN, []byte{2, 4, 5, 180}, syn)
			h.AppendOptions(nil, SYNACK, 20)
			h.AppendPayload(nil, SYNACK, 1400)
		},
		"SYN with ENO": func(h *Handshake) {
			h.Receive(SYN, []byte{2, 4, 5, 180, 69, 3, 0x23, 1}, nil)
			h.AppendOptions(nil, SYNACK, 20)
			h.AppendPayload(nil, SYNACK, 1400)
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				h, err := server.NewPassive()
				if err != nil {
					b.Fatal(err)
				}
				serve(h)
			}
		})
	}
}
