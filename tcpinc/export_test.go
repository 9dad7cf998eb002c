package tcpinc

// Raw returns the encrypted stream of a connection with the hello in it, as somebody in the middle would read it.
func Raw(c *Conn) Transport { return c.crypt }

// PeerSignsResets reports whether the peer's RSTs are expected to be signed.
func PeerSignsResets(c *Conn) bool { return c.resets != nil && c.resets.peerSigns.Load() }
