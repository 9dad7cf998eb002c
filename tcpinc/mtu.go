package tcpinc

import "innertun/tcpinc/innerspace"

// linked is the optional part of a Transport that knows the largest IP packet, in octets, that reaches this host by the
// link the connection uses; 0: not known.
type linked interface{ MTU() int }

// tellMTU has the first data carry what this host's link takes.
func (c *Conn) tellMTU() {
	l, ok := c.lower.(linked)
	if !ok {
		return
	}
	if mtu := l.MTU(); mtu >= innerspace.MinMTU {
		o, err := innerspace.AppendMTU(nil, uint16(min(mtu, 1<<16-1)))
		if err == nil {
			c.inner.AddOption(o) // the queue is as good as empty
		}
	}
}

// toldMTU takes the peer's hint.
func (c *Conn) toldMTU(o innerspace.Option) {
	octets, _, err := innerspace.ParseMTU(o)
	if err != nil {
		c.inner.Fail(err)
		return
	}
	c.peerMTU.Store(uint32(octets))
}
