package stack

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"innertun/stack/shim"
)

// Conn is one TCP connection. It is a net.Conn; besides it can be half-closed, aborted, and waited for without a buffer.
// All methods may be called from any goroutine. io.EOF is a FIN of the peer and nothing else.
type Conn struct {
	st    *Stack
	ep    tcpip.Endpoint
	wq    *waiter.Queue
	flow  Flow
	entry atomic.Pointer[shim.Entry] // nil: no handshake took part

	readable, writable    chan struct{}
	readEntry, writeEntry waiter.Entry
	readLimit, writeLimit deadline
	readMu, writeMu       sync.Mutex
	src                   bytes.Reader // what Write hands to the endpoint; held under writeMu
	closeOnce             sync.Once
	closed                chan struct{}
	failMu                sync.Mutex
	failure               error // the first error of the connection, for both directions
}

func newConn(st *Stack, ep tcpip.Endpoint, wq *waiter.Queue, f Flow, e *shim.Entry) *Conn {
	c := &Conn{st: st, ep: ep, wq: wq, flow: f, closed: make(chan struct{})}
	c.entry.Store(e)
	c.readEntry, c.readable = waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventRdHUp | waiter.EventHUp | waiter.EventErr)
	c.writeEntry, c.writable = waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	wq.EventRegister(&c.readEntry)
	wq.EventRegister(&c.writeEntry)
	return c
}

// A silent connection is asked after five minutes, and given up after ten.
const (
	keepaliveIdle     = 5 * time.Minute
	keepaliveInterval = time.Minute
	keepaliveCount    = 5
)

// tuneEndpoint sets what an accepted endpoint does not inherit.
func tuneEndpoint(ep tcpip.Endpoint) {
	cc := tcpip.CongestionControlOption(congestionControl)
	_ = ep.SetSockOpt(&cc) // known to exist: New has set it for the whole stack
	ep.SocketOptions().SetDelayOption(false)
	// The application's own keepalive ends at the access stack: a dead peer must be found out here.
	idle, interval := tcpip.KeepaliveIdleOption(keepaliveIdle), tcpip.KeepaliveIntervalOption(keepaliveInterval)
	_ = ep.SetSockOpt(&idle)
	_ = ep.SetSockOpt(&interval)
	_ = ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepaliveCount)
	ep.SocketOptions().SetKeepAlive(true)
}

// SetKeepAlive switches TCP's keep-alive, which is on at first: a protocol above may have a better way.
func (c *Conn) SetKeepAlive(on bool) error {
	c.ep.SocketOptions().SetKeepAlive(on)
	return nil
}

// Handshake returns what took part in the opening of the connection; nil when nothing did.
func (c *Conn) Handshake() Handshake {
	e := c.entry.Load()
	if e == nil {
		return nil
	}
	return e.Handshake()
}

// Flow returns the two ends of the connection.
func (c *Conn) Flow() Flow { return c.flow }

// LocalAddr returns a *net.TCPAddr.
func (c *Conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.flow.Local) }

// RemoteAddr returns a *net.TCPAddr.
func (c *Conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.flow.Remote) }

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	c.readMu.Lock()
	defer c.readMu.Unlock()
	n, err := c.read(b)
	if err != nil && err != io.EOF {
		err = opError("read", c.flow, err)
	}
	return n, err
}

func (c *Conn) read(b []byte) (int, error) {
	w := tcpip.SliceWriter(b)
	for {
		if err := c.usable(&c.readLimit); err != nil {
			return 0, err
		}
		res, err := c.ep.Read(&w, tcpip.ReadOptions{})
		switch err.(type) {
		case nil:
			c.ep.ModerateRecvBuf(res.Count)
			return res.Count, nil
		case *tcpip.ErrWouldBlock:
			if err := c.wait(c.readable, &c.readLimit); err != nil {
				return 0, err
			}
		case *tcpip.ErrClosedForReceive:
			return 0, c.endOfStream()
		default:
			return 0, c.fail(errnoOf(err))
		}
	}
}

// Write implements net.Conn. It returns when all of b is in the send buffer; large slices cost least.
func (c *Conn) Write(b []byte) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	n, err := c.write(b)
	if err != nil {
		err = opError("write", c.flow, err)
	}
	return n, err
}

func (c *Conn) write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		if err := c.usable(&c.writeLimit); err != nil {
			return done, err
		}
		c.src.Reset(b[done:])
		n, err := c.ep.Write(&c.src, tcpip.WriteOptions{})
		done += int(n)
		switch err.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			if err := c.wait(c.writable, &c.writeLimit); err != nil {
				return done, err
			}
		case *tcpip.ErrClosedForSend:
			return done, c.sendClosed()
		default:
			return done, c.fail(errnoOf(err))
		}
	}
	return done, nil
}

// WaitRead blocks until a Read would return at once: with data, io.EOF or an error. It holds no buffer meanwhile.
// The read deadline applies.
func (c *Conn) WaitRead() error {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	for {
		if err := c.usable(&c.readLimit); err != nil {
			return opError("read", c.flow, err)
		}
		if c.ep.Readiness(waiter.ReadableEvents) != 0 {
			return nil
		}
		if err := c.wait(c.readable, &c.readLimit); err != nil {
			return opError("read", c.flow, err)
		}
	}
}

// usable tells why nothing can be read or written at all.
func (c *Conn) usable(d *deadline) error {
	select {
	case <-c.closed:
		return net.ErrClosed
	default:
	}
	if d.passed() {
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (c *Conn) wait(ready <-chan struct{}, d *deadline) error {
	select {
	case <-ready:
		return nil
	case <-d.done():
		return os.ErrDeadlineExceeded
	case <-c.closed:
		return net.ErrClosed
	}
}

// fail remembers the first error. The netstack tells each error once, to whichever direction asks first, and calls the
// connection merely closed from then on.
func (c *Conn) fail(errno syscall.Errno) error {
	c.failMu.Lock()
	defer c.failMu.Unlock()
	if c.failure == nil {
		c.failure = errno
		if e := c.entry.Load(); e != nil && e.Err() != nil {
			c.failure = e.Err()
		}
	}
	return c.failure
}

func (c *Conn) failed() bool {
	c.failMu.Lock()
	known := c.failure != nil
	c.failMu.Unlock()
	return known || tcp.EndpointState(c.ep.State()) == tcp.StateError
}

// endOfStream tells a FIN from a connection that died.
func (c *Conn) endOfStream() error {
	if c.failed() {
		return c.fail(syscall.ECONNRESET)
	}
	return io.EOF
}

func (c *Conn) sendClosed() error {
	if c.failed() {
		return c.fail(syscall.ECONNRESET)
	}
	return syscall.EPIPE
}

// CloseWrite sends a FIN after what was written. Reading goes on.
func (c *Conn) CloseWrite() error { return c.shutdown(tcpip.ShutdownWrite) }

// CloseRead gives up reading: Read returns io.EOF. Writing goes on.
func (c *Conn) CloseRead() error { return c.shutdown(tcpip.ShutdownRead) }

func (c *Conn) shutdown(how tcpip.ShutdownFlags) error {
	select {
	case <-c.closed:
		return opError("close", c.flow, net.ErrClosed)
	default:
	}
	if err := c.ep.Shutdown(how); err != nil {
		if c.failed() {
			return opError("close", c.flow, c.fail(syscall.ECONNRESET))
		}
		return opError("close", c.flow, errnoOf(err))
	}
	return nil
}

// Close ends both directions: what was written is still delivered, unless data was left unread, which makes it a RST.
func (c *Conn) Close() error {
	c.end(c.closeEndpoint)
	return nil
}

// Abort ends the connection with a RST. What was written and not yet acknowledged may be lost.
func (c *Conn) Abort() error {
	c.end(func() {
		c.ep.Abort()
		c.ep.Close()
	})
	return nil
}

func (c *Conn) end(how func()) {
	c.closeOnce.Do(func() {
		close(c.closed)
		c.readLimit.stop()
		c.writeLimit.stop()
		how()
		if e := c.entry.Load(); e != nil {
			c.st.shim.Release(e)
		}
		c.wq.EventUnregister(&c.readEntry)
		c.wq.EventUnregister(&c.writeEntry)
	})
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(&c.readLimit, t) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.writeLimit, t) }

func (c *Conn) setDeadline(d *deadline, t time.Time) error {
	select {
	case <-c.closed:
		return opError("set", c.flow, net.ErrClosed)
	default:
	}
	d.set(c.st.clock, t)
	return nil
}

// ConnInfo is a look into a connection.
type ConnInfo struct {
	State         string // as in RFC 9293, Section 3.3.2: "ESTABLISHED", "FIN-WAIT1" ...
	RTT           time.Duration
	RTTVar        time.Duration
	SegmentsSent  uint64 // retransmissions included
	Retransmitted uint64
}

// DeliverHeld passes on the segment that the Guard had held back; false: there is none.
func (c *Conn) DeliverHeld() bool {
	e := c.entry.Load()
	return e != nil && c.st.shim.Deliver(e)
}

// Guard gives a connection that has no Handshake one that implements Guard, from now on. irs is the sequence number of the peer's
// SYN. To be called before anything is written; h is asked for the payload of the SYN-ACK, which was sent before.
func (c *Conn) Guard(h Handshake, irs uint32) {
	e := c.st.shim.Guard(c.flow, h, irs)
	c.entry.Store(e)
	select {
	case <-c.closed:
		c.st.shim.Release(e)
	default:
	}
}

// MTU is the largest IP packet, in octets, that the link takes; 0: not known.
func (c *Conn) MTU() int { return int(c.st.shim.MTU()) }

// Progress is a number that grows as segments leave for the first time. The netstack does not count what it sends again
// after a timeout as retransmitted, but it counts the timeouts.
func (c *Conn) Progress() uint64 {
	st, ok := c.ep.Stats().(*tcp.Stats)
	if !ok {
		return 0
	}
	again := st.SendErrors.Retransmits.Value() + st.SendErrors.Timeouts.Value()
	sent := st.SegmentsSent.Value()
	return sent - min(sent, again)
}

// RTO is the retransmission timeout as it stands, grown by timeouts if there were any; 0: not known. RFC 6298.
func (c *Conn) RTO() time.Duration {
	var o tcpip.TCPInfoOption
	if err := c.ep.GetSockOpt(&o); err != nil {
		return 0
	}
	return o.RTO
}

// Info looks into the connection.
func (c *Conn) Info() ConnInfo {
	info := ConnInfo{State: tcp.EndpointState(c.ep.State()).String()}
	var o tcpip.TCPInfoOption
	if err := c.ep.GetSockOpt(&o); err == nil {
		info.RTT, info.RTTVar = o.RTT, o.RTTVar
	}
	if st, ok := c.ep.Stats().(*tcp.Stats); ok {
		info.SegmentsSent = st.SegmentsSent.Value()
		info.Retransmitted = st.SendErrors.Retransmits.Value()
	}
	return info
}
