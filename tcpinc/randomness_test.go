package tcpinc_test

import (
	"crypto/rand"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"innertun/tcpinc"
)

// Without randomness no ENO option leaves, from either side. RFC 8547, Section 10.
func TestNoENOWithoutRandomness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(tcpinc.Config{})
		d := &tcpinc.Dialer{Connect: n.connect}
		seeded := rand.Reader
		defer func() { rand.Reader = seeded }()
		for _, broken := range []io.Reader{iotest.ErrReader(errors.New("not seeded")), strings.NewReader("")} {
			rand.Reader = broken
			if _, err := d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{}); !errors.Is(err, tcpinc.ErrNoRandomness) {
				t.Errorf("Dial: %v", err)
			}
			if _, err := (tcpinc.Config{}).NewPassive(); !errors.Is(err, tcpinc.ErrNoRandomness) {
				t.Errorf("NewPassive: %v", err)
			}
		}
		if n.dials() != 0 {
			t.Errorf("%d dials", n.dials())
		}
	})
}

// A source of randomness that runs dry fails the connection. It is no sign of a middlebox, and nothing leaves in plain.
func TestDialRandomnessRunsDry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, octets := range []int{0, 31, 32, 40} {
			n := newNetwork(tcpinc.Config{})
			d := &tcpinc.Dialer{Connect: n.connect, Paths: &tcpinc.PathMemory{},
				Config: tcpinc.Config{Rand: io.LimitReader(rand.Reader, int64(octets))}}
			c, err := d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{})
			if c != nil || err == nil || n.dials() != 1 || d.Paths.Len() != 0 {
				t.Errorf("after %d octets: %v, %d dials", octets, err, n.dials())
			}
		}
	})
}
