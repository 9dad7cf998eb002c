package demo

import (
	"encoding/hex"
	"net"
	"net/netip"

	"innertun/tcpinc"
)

// connState is what one end knows of a connection, in words.
type connState struct {
	encrypted, resumed     bool
	innerSpace, earlyData  bool
	tep, cipher, sessionID string
	reason                 string // why it is plain
}

// how tells where the keys come from.
func (s connState) how() string {
	if s.resumed {
		return "resumed"
	}
	return "fresh keys"
}

// stateOf asks a connection; one that knows nothing of encryption has none.
func stateOf(c net.Conn) connState {
	conn, ok := c.(*tcpinc.Conn)
	if !ok {
		return connState{reason: "ordinary TCP"}
	}
	s := conn.ConnectionState()
	if !s.Encrypted {
		return connState{reason: s.FallbackReason.String()}
	}
	return connState{
		encrypted: true,
		resumed:   s.Resumed,

		innerSpace: s.InnerSpace,
		earlyData:  s.EarlyData,

		tep:       tcpinc.TEPName(s.TEP),
		cipher:    s.Cipher.String(),
		sessionID: hex.EncodeToString(s.SessionID),
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
