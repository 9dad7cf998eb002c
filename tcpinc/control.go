package tcpinc

import "innertun/tcpinc/innerspace"

// handle deals with the options that are this package's own business. It is called by whoever reads, and never blocks but
// for an Authenticator.
func (c *Conn) handle(r innerspace.Received) bool {
	id, _, ok := r.Option.ExID()
	if !ok {
		return false
	}
	switch id {
	case innerspace.ExIDEarlyData:
		return c.early.judgeVerdict(c, r.Option)
	case innerspace.ExIDProof:
		return c.proof.take(r)
	case innerspace.ExIDRekey:
		if c.crypt == nil {
			return false
		}
		c.asked(r.Option)
	case innerspace.ExIDMTU:
		c.toldMTU(r.Option)
	case innerspace.ExIDClose:
		c.closed(r.Option)
	default:
		return false
	}
	return true
}
