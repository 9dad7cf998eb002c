package probe

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"innertun/cmd/internal/probe/packet"
)

var (
	errReset  = errors.New("reset by the other end")
	errSilent = errors.New("no answer")
)

// conn is a small TCP for one short connection: little data goes out, a segment at a time, and what comes is taken in order.
// It is a Transport of tcpcrypt. All but Abort is for one goroutine.
//
//	open: SYN ... SYN-ACK -> ACK     Write, Read     CloseWrite: FIN     finish: FIN or RST answered, else RST
type conn struct {
	*port
	ctx     context.Context
	timeout time.Duration
	option  []byte // goes on every segment but the SYN until the peer has sent one without SYN

	synack       packet.Segment
	rtt          time.Duration
	sent, acked  uint32 // next sequence number, and what the peer has of it
	received     uint32
	unacked      []byte // data behind acked
	in           []byte
	finSent, fin bool // fin: the peer's
	heard        bool // a segment without SYN
	reset        bool
	optionOff    bool // leave the option out, to see whether it is what is in the way
	aborted      atomic.Bool
}

const (
	connTries = 5       // transmissions of each segment
	maxInput  = 1 << 16 // octets; a server that says more is not listened to any longer
)

// open opens a connection; a SYN that goes unanswered is repeated. The third segment carries option.
func (p *Prober) open(ctx context.Context, to netip.AddrPort, s syn, option func(synack packet.Segment) []byte) (*conn, error) {
	if err := p.turn(ctx); err != nil {
		return nil, err
	}
	at, err := p.listen(to)
	if err != nil {
		return nil, err
	}
	isn := p.random()
	out := packet.Segment{Flags: packet.SYN, Seq: isn, Window: synWindow, Options: s.fullOptions(to.Addr(), isn)}
	c := &conn{port: at, ctx: ctx, timeout: p.cfg.Timeout, sent: isn + 1, acked: isn + 1}
	for range p.cfg.Tries {
		start := p.cfg.Clock.Now()
		at.send(out)
		for until := start.Add(p.cfg.Timeout); ; {
			e, ok := at.wait(ctx, until)
			if !ok {
				break
			}
			switch a, _ := judgeReply(out, e); a.reply {
			case SYNACK:
				c.synack, c.received, c.rtt = a.segment, a.segment.Seq+1, e.at.Sub(start)
				c.option = option(a.segment)
				c.emit(packet.ACK, nil)
				return c, nil
			case Reset:
				at.close()
				return nil, errReset
			}
		}
		if ctx.Err() != nil {
			break
		}
	}
	at.forget(isn, 0)
	at.close()
	return nil, errors.Join(errSilent, ctx.Err())
}

// emit sends a segment at the place of what is unacknowledged.
func (c *conn) emit(flags uint8, data []byte) []byte {
	s := packet.Segment{Flags: flags | packet.ACK, Seq: c.acked, Ack: c.received, Window: synWindow, Payload: data}
	if !c.heard && !c.optionOff {
		s.Options = c.option
	}
	return c.port.send(s)
}

// outstanding sends what the peer has not acknowledged.
func (c *conn) outstanding() {
	flags := uint8(packet.PSH)
	if c.finSent {
		flags |= packet.FIN
	}
	c.emit(flags, c.unacked)
}

// settle sends what is outstanding, repeats it, and takes what comes, until done says so; false: it did not come about.
func (c *conn) settle(done func() bool) bool {
	for range connTries {
		if c.acked != c.sent {
			c.outstanding()
		}
		for until := c.p.cfg.Clock.Now().Add(c.timeout); !c.reset && !c.aborted.Load() && !done(); {
			e, ok := c.wait(c.ctx, until)
			if !ok {
				break
			}
			if e.notice == nil {
				c.take(e.segment)
			}
		}
		if done() || c.reset || c.aborted.Load() || c.ctx.Err() != nil {
			break
		}
	}
	return done()
}

// take is what the peer's segment changes.
func (c *conn) take(s packet.Segment) {
	switch {
	case s.Has(packet.RST):
		// In the window will do: who wants to spoil a probe can.
		c.reset = c.reset || s.Seq-c.received < synWindow
		return
	case s.Has(packet.SYN):
		c.emit(0, nil) // our ACK was lost
		return
	}
	c.heard = true
	if n := s.Ack - c.acked; s.Has(packet.ACK) && n <= c.sent-c.acked {
		c.acked = s.Ack
		c.unacked = c.unacked[min(int(n), len(c.unacked)):]
	}
	if s.Len() == 0 {
		return
	}
	if skip := c.received - s.Seq; !c.fin && skip <= uint32(len(s.Payload)) {
		data := s.Payload[skip:]
		c.received += uint32(len(data))
		c.in = append(c.in, data[:min(len(data), maxInput-len(c.in))]...)
		if s.Has(packet.FIN) {
			c.fin = true
			c.received++
		}
	}
	c.emit(0, nil)
}

// finish ends the connection: in order if the peer has ended it too, else by RST.
func (c *conn) finish() {
	defer c.close()
	if c.reset {
		return
	}
	if c.ctx.Err() == nil && !c.aborted.Load() {
		_ = c.CloseWrite()
		if c.settle(func() bool { return c.acked == c.sent && c.fin }) {
			return
		}
	}
	if !c.reset {
		for _, at := range []uint32{c.acked, c.sent} {
			c.port.send(packet.Segment{Flags: packet.RST | packet.ACK, Seq: at, Ack: c.received})
			if c.acked == c.sent {
				break
			}
		}
	}
}

// Write implements net.Conn. The data goes out when something is waited for.
func (c *conn) Write(b []byte) (int, error) {
	if err := c.broken(); err != nil {
		return 0, err
	}
	c.unacked = append(c.unacked, b...)
	c.sent += uint32(len(b))
	return len(b), nil
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	c.settle(func() bool { return len(c.in) > 0 || c.fin })
	if len(c.in) > 0 {
		n := copy(b, c.in)
		c.in = c.in[n:]
		return n, nil
	}
	if err := c.broken(); err != nil {
		return 0, err
	}
	if c.fin {
		return 0, io.EOF
	}
	return 0, errSilent
}

func (c *conn) broken() error {
	switch {
	case c.reset:
		return errReset
	case c.aborted.Load():
		return net.ErrClosed
	}
	return c.ctx.Err()
}

// CloseWrite implements tcpcrypt.Transport.
func (c *conn) CloseWrite() error {
	if !c.finSent {
		c.finSent = true
		c.sent++
	}
	return nil
}

// Abort implements tcpcrypt.Transport. finish sends the RST.
func (c *conn) Abort() error {
	c.aborted.Store(true)
	return nil
}

// Close implements net.Conn. It is finish that ends the connection.
func (*conn) Close() error { return nil }

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local) }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// SetDeadline implements net.Conn. Every wait is bounded as it is.
func (*conn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (*conn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn.
func (*conn) SetWriteDeadline(time.Time) error { return nil }
