package tcpinc

import (
	"fmt"

	"innertun/tcpinc/innerspace"
)

// SendOuterOption sends an option of the TCP header inside the stream, whole: any kind but EOL and NOP, which say nothing
// there, and up to 249 octets of data, where a header has room for 38. It comes in its place among the data, is not seen on
// the way and does not change what TCP does: Options shows it to the peer, whose Received.Outer unpacks it. Errors:
// innerspace.ErrEncode; those of SendOption.
func (c *Conn) SendOuterOption(kind byte, data []byte) error {
	if kind == innerspace.KindEnd || kind == innerspace.KindNop {
		return fmt.Errorf("%w: option kind %d says nothing inside", innerspace.ErrEncode, kind)
	}
	if len(data) > innerspace.MaxBody-2 {
		return fmt.Errorf("%w: option of %d octets, at most %d", innerspace.ErrEncode, len(data), innerspace.MaxBody-2)
	}
	o, err := innerspace.AppendOuter(nil, append([]byte{kind, byte(2 + len(data))}, data...))
	if err != nil {
		return err
	}
	return c.SendOption(o)
}
