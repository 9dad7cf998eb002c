package tcpinc

import "innertun/tcpinc/innerspace"

// RequestRekey asks the peer to seal under new keys from here on, as it would when its keys are used up. It does so when it
// sees the request, and this host follows; nobody waits for anything. The request may be repeated without effect. Errors:
// ErrNoSession, ErrNoInnerSpace, those of SendOption.
func (c *Conn) RequestRekey() error {
	if c.crypt == nil {
		return ErrNoSession
	}
	return c.requestRekey(c.crypt.State().Received.Generation + 1)
}

func (c *Conn) requestRekey(generation uint32) error {
	return c.SendOption(innerspace.AppendRekey(nil, generation))
}

// asked takes a request of the peer's.
func (c *Conn) asked(o innerspace.Option) {
	generation, _, err := innerspace.ParseRekey(o)
	if err == nil {
		err = c.crypt.Asked(generation)
	}
	if err != nil {
		c.inner.Fail(err)
	}
}
