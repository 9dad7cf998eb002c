package stack

import (
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// finWait is how long a closed connection waits for the peer's FIN before the endpoint is left to itself: a lost FIN has
// been sent again by then.
const finWait = 15 * time.Second

// closeEndpoint sends a FIN after what was written, and gives the endpoint up once the peer's FIN has come as well.
//
// Giving it up at once would not do. gVisor resets a connection closed for reading when a segment lies beyond what it
// has received, and takes a bare ACK behind a lost FIN for one; what was written is then lost. RFC 9293, Section 3.10.7.4,
// knows no such rule for segments without data.
func (c *Conn) closeEndpoint() {
	if !c.awaitsFIN() {
		c.ep.Close()
		return
	}
	l := &linger{ep: c.ep, wq: c.wq}
	l.entry.Init(l, waiter.ReadableEvents|waiter.EventRdHUp|waiter.EventHUp|waiter.EventErr)
	l.mu.Lock()
	l.timer = c.st.clock.AfterFunc(finWait, l.end)
	l.mu.Unlock()
	c.wq.EventRegister(&l.entry)
	if err := c.ep.Shutdown(tcpip.ShutdownWrite); err != nil || !c.awaitsFIN() {
		l.end()
	}
}

// awaitsFIN tells whether the connection is well, nothing is left unread, and the peer has not ended its stream.
func (c *Conn) awaitsFIN() bool {
	switch tcp.EndpointState(c.ep.State()) {
	case tcp.StateEstablished, tcp.StateFinWait1, tcp.StateFinWait2:
	default:
		return false
	}
	unread, err := c.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
	return err == nil && unread == 0
}

// linger is a closed connection that awaits the peer's FIN.
type linger struct {
	ep    tcpip.Endpoint
	wq    *waiter.Queue
	entry waiter.Entry
	once  sync.Once

	mu    sync.Mutex
	timer tcpip.Timer
}

// NotifyEvent implements waiter.EventListener: the FIN, data that nobody will read, or an error. It can be called under
// the endpoint's lock.
func (l *linger) NotifyEvent(waiter.EventMask) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Reset(0)
	}
}

func (l *linger) end() {
	l.once.Do(func() {
		l.wq.EventUnregister(&l.entry)
		l.mu.Lock()
		l.timer.Stop()
		l.timer = nil
		l.mu.Unlock()
		l.ep.Close()
	})
}
