package tcpinc

import (
	"errors"
	"syscall"

	"innertun/tcpinc/tcpcrypt"
)

// A box that forgets the data of a SYN when it counts sequence numbers lets both SYNs pass and drops, or resets, all that
// follows. As keys come with the SYNs, Dial has returned by then. So what becomes of such a connection is remembered when
// it ends: data was sent and no frame of the peer's has come, and it was reset, has timed out, or was aborted here. The next
// ones begin with an ordinary SYN.

// watch notes at the end of a connection with an upgraded SYN whether the path has carried it.
func (t *attempt) watch(c *Conn) {
	c.ended = func(aborted bool) {
		s := c.crypt.State()
		switch {
		case s.Received.Frames > 0:
			t.Paths.innerWorked(t.path)
		case s.Sent.Frames > 0 && (aborted || isSevered(s.Err)):
			t.Paths.innerFailed(t.path, PathEatsSYNData, t.cfg.Clock.Now())
		}
	}
}

func isSevered(err error) bool {
	for _, e := range []error{syscall.ECONNRESET, syscall.ETIMEDOUT, syscall.EPIPE, syscall.ECONNABORTED, tcpcrypt.ErrPeerSilent} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
