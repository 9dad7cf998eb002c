package decode

import (
	"bytes"
	"errors"
)

const (
	exIDCookie = 0x4966
	maxCookie  = 200
)

// cookie returns the first echo cookie among the options; nil: there is none.
func (u *Upgraded) cookie() []byte {
	for _, o := range u.Options() {
		if o.Kind == kindExperiment && o.ExID == exIDCookie {
			return append([]byte{}, o.Data...)
		}
	}
	return nil
}

// sameButCookie tells whether a repeated SYN-ACK-U differs from the first one in nothing but the octets of its cookie.
func (c *checker) sameButCookie(u *Upgraded) bool {
	return bytes.Equal(withoutCookie(u), withoutCookie(c.n.UpgradedB)) && len(u.cookie()) == len(c.n.Cookies[0])
}

func withoutCookie(u *Upgraded) (b []byte) {
	for _, o := range u.Options() {
		raw := bytes.Clone(o.Raw)
		if o.Kind == kindExperiment && o.ExID == exIDCookie {
			clear(raw[4:])
		}
		b = append(b, raw...)
	}
	return append(b, u.Payload...)
}

// readEcho takes the unit in which host A sends a cookie back. It is there if the SYN-ACK-U had one, goes before anything
// else, directly over TCP, and holds nothing else.
func (s *Session) readEcho() error {
	if len(s.Negotiation.Cookies) == 0 {
		return nil
	}
	for _, cookie := range s.Negotiation.Cookies {
		option := append([]byte{kindExperiment, byte(4 + len(cookie)), exIDCookie >> 8, exIDCookie & 0xff}, cookie...)
		for len(option)%4 != 0 {
			option = append(option, 1)
		}
		n := len(option)/4<<2 | lenUnit
		unit := append([]byte{0, 0, byte(n >> 8), byte(n)}, option...)
		if bytes.HasPrefix(s.StreamAB.Data, unit) {
			s.Echoed = len(unit)
			return nil
		}
	}
	return errors.New("host A's stream does not begin with a unit that echoes the cookie of the SYN-ACK-U, and nothing else")
}
