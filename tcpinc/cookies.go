package tcpinc

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"

	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt"
)

// ErrCookie says that a stream began with an echo cookie that this host has not made, not for this connection, or too long
// ago, or that came too late: it was aborted, and nothing of it delivered.
var ErrCookie = errors.New("tcpinc: the stream begins with an echo cookie that does not hold")

const (
	// CookieLife is how long an echo cookie holds: a client echoes it with its first segment, or what repeats that.
	CookieLife = 60 * time.Second
	// cookieKeyTime is how long a key makes cookies. It is no less than CookieLife, so that two keys are enough, and fits
	// the 16 bits that count milliseconds in a cookie.
	cookieKeyTime = 64 * time.Second
)

// The parts of a cookie in octets.
const (
	cookieHeadLen = 10 // key, time, early data, length of the peer's option, sequence number
	cookieMACLen  = 16 // HMAC-SHA-256, cut off
	minCookieLen  = cookieHeadLen + cookieMACLen
	// maxCookieOptions is how long both ENO options can be together.
	maxCookieOptions = innerspace.MaxCookie - minCookieLen
)

// Cookies makes echo cookies and checks them: in one goes to the client, and comes back, what a host that keeps no state of
// a half-open connection needs to know of it later.
//
//	 0                   1                   2                   3
//	+---------------+-------------------------------+---------------+
//	| key, modulo 2^8|  milliseconds of that key    |   octets of
//	+---------------+-------------------------------+---------------+
//	  early data    |   n           |  sequence number of
//	+---------------+---------------+-------------------------------+
//	  the SYN                       | n octets: the client's ENO option
//	+-------------------------------+-------------------------------+
//	| this host's ENO option        | HMAC-SHA-256, 16 octets       |
//	+---------------------------------------------------------------+
//
// The MAC covers both ends of the connection as well. A key makes cookies for 64 s and is erased after as long again. One
// Cookies serves any number of Listeners and is safe for concurrent use.
type Cookies struct {
	clock Clock
	rand  io.Reader
	start time.Time

	mu    sync.Mutex
	now   uint64    // the key that makes cookies, counted from 1; 0: none yet
	keys  [2][]byte // it and the one before, by their numbers modulo 2; nil: none
	baked time.Time // the last cookie; zero: none
}

// NewCookies returns a Cookies. clock: nil is the real one; random: nil is crypto/rand.
func NewCookies(clock Clock, random io.Reader) *Cookies {
	if clock == nil {
		clock = tcpcrypt.RealClock{}
	}
	if random == nil {
		random = rand.Reader
	}
	return &Cookies{clock: clock, rand: random, start: clock.Now()}
}

// ends are the two ends of a connection, seen from this host.
type ends struct{ local, remote netip.AddrPort }

// half is what a cookie says of a half-open connection.
type half struct {
	early     uint16 // octets of early data, which was declined
	isn       uint32 // the sequence number of the SYN
	peer, own []byte // both ENO options, empty if there was none
}

// turn makes the key for a moment, unless it is there, and forgets the one before the last. The caller holds the lock.
func (c *Cookies) turn(now time.Time) (key uint64, since time.Duration, err error) {
	age := max(now.Sub(c.start), 0)
	key, since = uint64(age/cookieKeyTime)+1, age%cookieKeyTime
	if key == c.now {
		return key, since, nil
	}
	if key < c.now { // the clock was set back
		return 0, 0, ErrCookie
	}
	if key > c.now+1 {
		c.forget(c.now)
	}
	c.forget(key)
	fresh := make([]byte, sha256.Size)
	if _, err := io.ReadFull(c.rand, fresh); err != nil {
		return 0, 0, fmt.Errorf("%w: %w", ErrNoRandomness, err)
	}
	c.keys[key%2], c.now = fresh, key
	return key, since, nil
}

func (c *Cookies) forget(key uint64) {
	clear(c.keys[key%2])
	c.keys[key%2] = nil
}

// bake appends a cookie.
func (c *Cookies) bake(dst []byte, at ends, x half) ([]byte, error) {
	if len(x.peer)+len(x.own) > maxCookieOptions {
		return dst, fmt.Errorf("%w: %d octets of ENO options", ErrCookie, len(x.peer)+len(x.own))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock.Now()
	key, since, err := c.turn(now)
	if err != nil {
		return dst, err
	}
	c.baked = now
	start := len(dst)
	dst = append(dst, byte(key))
	dst = binary.BigEndian.AppendUint16(dst, uint16(since/time.Millisecond))
	dst = binary.BigEndian.AppendUint16(dst, x.early)
	dst = append(dst, byte(len(x.peer)))
	dst = binary.BigEndian.AppendUint32(dst, x.isn)
	dst = append(append(dst, x.peer...), x.own...)
	return appendCookieMAC(dst, c.keys[key%2], at, dst[start:]), nil
}

// open returns what a cookie says. It aliases the cookie. Error: ErrCookie.
func (c *Cookies) open(cookie []byte, at ends) (half, error) {
	if len(cookie) < minCookieLen || len(cookie) > innerspace.MaxCookie {
		return half{}, fmt.Errorf("%w: %d octets", ErrCookie, len(cookie))
	}
	body, mac := cookie[:len(cookie)-cookieMACLen], cookie[len(cookie)-cookieMACLen:]
	if err := c.check(body, mac, at); err != nil {
		return half{}, err
	}
	n := int(body[5])
	options := body[cookieHeadLen:]
	if n > len(options) {
		return half{}, ErrCookie
	}
	return half{binary.BigEndian.Uint16(body[3:]), binary.BigEndian.Uint32(body[6:]), options[:n:n], options[n:]}, nil
}

func (c *Cookies) check(body, mac []byte, at ends) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock.Now()
	if _, _, err := c.turn(now); err != nil {
		return err
	}
	key := c.now
	if body[0] != byte(key) {
		key--
	}
	secret := c.keys[key%2]
	if body[0] != byte(key) || secret == nil {
		return fmt.Errorf("%w: its key is forgotten", ErrCookie)
	}
	var room [cookieMACLen]byte
	if !hmac.Equal(appendCookieMAC(room[:0], secret, at, body), mac) {
		return fmt.Errorf("%w: it was altered, or is another connection's", ErrCookie)
	}
	made := c.start.Add(time.Duration(key-1)*cookieKeyTime + time.Duration(binary.BigEndian.Uint16(body[1:]))*time.Millisecond)
	if age := now.Sub(made); age < 0 || age > CookieLife {
		return fmt.Errorf("%w: it is %v old", ErrCookie, age)
	}
	return nil
}

// outstanding reports whether a cookie may be on its way.
func (c *Cookies) outstanding() bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.baked.IsZero() && c.clock.Now().Sub(c.baked) <= CookieLife
}

// appendCookieMAC appends the MAC of a cookie for a connection. All that stands before body has one length.
func appendCookieMAC(dst, key []byte, at ends, body []byte) []byte {
	var room [36]byte
	b := room[:0]
	for _, end := range []netip.AddrPort{at.local, at.remote} {
		a := end.Addr().As16()
		b = binary.BigEndian.AppendUint16(append(b, a[:]...), end.Port())
	}
	m := hmac.New(sha256.New, key)
	m.Write(b)
	m.Write(body)
	var sum [sha256.Size]byte
	return append(dst, m.Sum(sum[:0])[:cookieMACLen]...)
}
