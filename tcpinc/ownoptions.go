package tcpinc

// OwnOptions are lists of whole options that an upgraded SYN or SYN-ACK carries besides what is needed, as
// innerspace.AppendOption makes them. The peer counts and shows them (Conn.Options), unless it keeps the
// connection in an echo cookie. They must not be ENO, nor be in the
// registry of package innerspace. docs/inner-space.md.
type OwnOptions struct {
	Prefix []byte // to be read before those of the TCP header
	Suffix []byte // after them
}
