package tcpcrypt

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// mergeLimit is up to what length, in octets, a frame's data is moved to join that of the frame before it, so that many
// small frames are handed on in one piece. Above it a move costs more than a further Write.
const mergeLimit = 8 << 10

// maxIdleReads bounds reads that return nothing and no error.
const maxIdleReads = 100

// inHalf is the receiving direction. mu guards all but the atomics.
type inHalf struct {
	use sync.Mutex // held by Read and WriteTo; mu comes after it, and is released while a writer has plain
	mu  sync.Mutex
	err error // sticky: io.EOF after FINp
	dir *direction

	buf   *buffer // nil while nothing is buffered
	r, w  int     // buf.b[r:w] is ciphertext not yet opened
	plain []byte  // within buf.b[:r], unless it is apart: opened, not yet delivered
	ahead []byte  // comes after plain: what a probe has read
	apart *buffer // where plain is, if not in buf
	lent  bool    // plain is in a writer's hands
	bulk  bool    // the last read would have filled a small buffer

	finished atomic.Bool   // FINp received
	reads    atomic.Uint64 // goes up when the transport is asked for data, and when it has answered
	counters counters

	asked uint64 // the generation that the peer was asked for
}

// Read returns data of as many frames as are there. See Conn for what its errors mean.
func (c *Conn) Read(p []byte) (int, error) {
	c.in.use.Lock()
	defer c.in.use.Unlock()
	c.in.mu.Lock()
	defer c.unlockIn()
	if len(p) == 0 {
		return 0, nil
	}
	if err := c.fill(); err != nil {
		return 0, err
	}
	n := copy(p, c.in.plain)
	c.in.consume(n)
	return n, nil
}

// WriteTo writes decrypted data to w straight from the buffer it was decrypted in, until the end of the stream.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	c.in.use.Lock()
	defer c.in.use.Unlock()
	c.in.mu.Lock()
	defer c.unlockIn()
	var total int64
	for {
		if err := c.fill(); err == io.EOF {
			return total, nil
		} else if err != nil {
			return total, err
		}
		size := len(c.in.plain)
		n, err := c.in.lend(w)
		if n < 0 || n > size {
			return total, fmt.Errorf("tcpcrypt: writer returned a count of %d for %d octets", n, size)
		}
		c.in.consume(n)
		total += int64(n)
		if err != nil {
			return total, err
		}
		if n < size {
			return total, io.ErrShortWrite
		}
	}
}

// lend writes plain to w. Meanwhile mu is free: a probe can read.
func (in *inHalf) lend(w io.Writer) (int, error) {
	p := in.plain
	in.lent = true
	in.mu.Unlock()
	defer func() {
		in.mu.Lock()
		in.lent = false
	}()
	return w.Write(p)
}

// fill waits until there is data to deliver.
func (c *Conn) fill() error {
	in := &c.in
	if c.closed.Load() {
		return net.ErrClosed
	}
	if !c.ready.Load() { // nothing in the buffer is a frame, and there are no keys
		if e := c.ended.Load(); e != nil {
			return e.err
		}
		return ErrNoSession
	}
	for len(in.plain) == 0 {
		if len(in.ahead) > 0 {
			in.plain, in.ahead = in.ahead, nil
			continue
		}
		if in.err != nil {
			return in.err
		}
		need, err := c.openFrames()
		if err != nil {
			in.err = c.fail(err) // to be told after what earlier frames held
		}
		if len(in.plain) > 0 || in.err != nil {
			continue
		}
		if err := c.readAtLeast(need); err != nil {
			if passing(err) {
				return err
			}
			if err == io.EOF {
				err = ErrTruncated
			}
			in.err = c.fail(err)
		}
	}
	return nil
}

// openFrames opens the whole frames in the buffer that are to be delivered together. It returns how many octets the
// first frame that is not whole needs in all, as far as that is known.
func (c *Conn) openFrames() (need int, err error) {
	in := &c.in
	for in.err == nil {
		if in.w-in.r < frameHeaderLen {
			return frameHeaderLen, nil
		}
		header, err := parseFrameHeader(in.buf.b[in.r:])
		if err != nil {
			return 0, err
		}
		size := frameHeaderLen + header.clen
		if in.w-in.r < size {
			return size, nil
		}
		if len(in.plain) > 0 && size > mergeLimit {
			return size, nil
		}
		data, err := c.openFrame(header, in.buf.b[in.r:in.r+size])
		// Urgent data is delivered in line, as RFC 6093 wants it: the urgent field is not needed.
		in.deliver(data)
		if err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// openFrame opens the next frame and returns its data, which lies in the buffer, before an error too.
func (c *Conn) openFrame(header frameHeader, frame []byte) ([]byte, error) {
	in := &c.in
	if header.rekey {
		if err := c.rekeyIn(); err != nil {
			return nil, err
		}
	}
	p, err := in.dir.open(frame)
	if err != nil {
		return nil, err
	}
	in.r += len(frame)
	in.counters.add(len(frame), len(p.data))
	if c.cfg.Ticket != nil && in.counters.frames.Load() == 1 {
		c.confirmSession()
	}
	if header.rekey {
		c.answerRekey()
	} else if after := c.out.counters.generation.Load(); c.overdue() {
		c.wantRekey(after)
	}
	if p.fin {
		if in.r < in.w {
			return p.data, fmt.Errorf("%w: %d octets", ErrDataAfterFIN, in.w-in.r)
		}
		in.finished.Store(true)
		in.err = io.EOF
		in.dir.erase()
	}
	if c.probe.on.Load() {
		c.heard()
	}
	return p.data, nil
}

// deliver adds data, which lies in buf.b behind plain, to plain.
func (in *inHalf) deliver(data []byte) {
	if len(data) == 0 {
		return
	}
	if len(in.plain) == 0 {
		in.plain = data
		return
	}
	n := len(in.plain)
	in.plain = in.plain[:n+copy(in.plain[n:n+len(data)], data)]
}

// consume takes n octets as delivered and gives up the buffer when nothing is left in it.
func (in *inHalf) consume(n int) {
	in.plain = in.plain[n:]
	if len(in.plain) > 0 {
		return
	}
	in.plain = nil
	if in.apart != nil {
		in.apart.release()
		in.apart = nil
	}
	if in.r == in.w {
		in.release()
	}
}

// release gives up the buffer. Nothing in it is needed.
func (in *inHalf) release() {
	if in.buf != nil {
		in.buf.release()
		in.buf, in.r, in.w = nil, 0, 0
	}
}

// readAtLeast reads from the transport once, with room for need octets from r on.
func (c *Conn) readAtLeast(need int) error {
	in := &c.in
	in.reads.Add(1)
	defer in.reads.Add(1)
	if in.r == in.w {
		in.release()
		if c.wait != nil {
			if err := c.wait.WaitRead(); err != nil {
				return c.cause(err)
			}
		}
		size := smallBuffer // it may have to be held for long, by whoever takes the data too
		if in.bulk {
			size = bulkBuffer
		}
		in.buf = getBuffer(size)
	} else if len(in.buf.b) < need || in.bulk && len(in.buf.b) < bulkBuffer {
		in.move(getBuffer(bulkBuffer))
	} else if in.r > 0 && len(in.buf.b)-in.w < len(in.buf.b)/2 {
		in.move(in.buf)
	}
	return c.readLower()
}

// move puts the ciphertext in the buffer at the beginning of to, which may be the same buffer.
func (in *inHalf) move(to *buffer) {
	in.w = copy(to.b, in.buf.b[in.r:in.w])
	in.r = 0
	if to != in.buf {
		in.buf.release()
		in.buf = to
	}
}

// readLower reads what is there into the free part of the buffer.
func (c *Conn) readLower() error {
	in := &c.in
	for range maxIdleReads {
		free := in.buf.b[in.w:]
		n, err := c.lower.Read(free)
		in.w += n
		if n > 0 { // an error, if any, comes again
			in.bulk = n >= smallBuffer || n == len(free)
			return nil
		}
		if err != nil {
			return c.cause(err)
		}
	}
	return io.ErrNoProgress
}

// cause returns what ended the connection rather than what the transport says of it.
func (c *Conn) cause(err error) error {
	if e := c.ended.Load(); e != nil {
		return e.err
	}
	return err
}

func (n *counters) add(wire, data int) {
	n.octets.Add(uint64(wire))
	n.frames.Add(1)
	n.octetsOfData.Add(uint64(data))
}

func (c *Conn) unlockIn() {
	c.in.mu.Unlock()
	if c.ended.Load() != nil {
		c.eraseIn()
	}
}

// eraseIn forgets the receiving keys, unless a call holds them: then unlockIn does it.
func (c *Conn) eraseIn() {
	in := &c.in
	if !in.mu.TryLock() {
		return
	}
	defer in.mu.Unlock()
	e := c.ended.Load()
	if in.err == nil {
		in.err = e.err
	}
	if in.dir != nil {
		in.dir.erase()
	}
	if in.lent {
		return // whoever writes does the rest
	}
	if e.local {
		in.ahead = nil
		in.consume(len(in.plain))
	}
	if len(in.plain) == 0 {
		in.release()
	}
}

var _ net.Conn = (*Conn)(nil)
