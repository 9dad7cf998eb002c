package stack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// WaitGone waits until the connection has died, by a RST of the peer for instance, or was closed or aborted here, and reports
// whether it has within limit. It takes no data and no error from those who read and write.
func (c *Conn) WaitGone(limit time.Duration) bool {
	entry, hup := waiter.NewChannelEntry(waiter.EventHUp | waiter.EventErr)
	c.wq.EventRegister(&entry)
	defer c.wq.EventUnregister(&entry)
	late := make(chan struct{})
	timer := c.st.clock.AfterFunc(limit, func() { close(late) })
	defer timer.Stop()
	for {
		switch tcp.EndpointState(c.ep.State()) {
		case tcp.StateError, tcp.StateClose:
			return true
		}
		select {
		case <-hup:
		case <-c.closed:
			return true
		case <-late:
			return false
		}
	}
}
