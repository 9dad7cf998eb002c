package tcpcrypt

import (
	"io"
	"sync"
	"sync/atomic"
)

// outHalf is the sending direction. mu guards all but the atomics.
type outHalf struct {
	mu  sync.Mutex
	err error // sticky
	dir *direction

	// What a write deadline cut off: sealed, so it must leave before anything else.
	unsent  []byte
	hold    *buffer // where unsent is
	pending atomic.Bool
	moved   atomic.Uint64 // how often a deadline was

	goal      atomic.Uint64 // the generation that the next frame is to begin, unless it is reached
	speak     atomic.Bool   // a frame is to be sent, empty if need be
	told      atomic.Uint32 // the generation that the transport has taken a frame of
	last      bool          // the frame with FINp is sealed
	finished  atomic.Bool   // FINp and FIN are sent
	busy      atomic.Int32  // Writes under way
	answering atomic.Bool   // a goroutine will answer a rekey, or send what is unsent
	counters  counters
}

// Write sends p, in as many frames as it takes, at once.
func (c *Conn) Write(p []byte) (int, error) { return c.WriteBehind(nil, p) }

// WriteBehind is Write for the few octets of head and then those of p, without a copy that joins them. It returns how many octets
// of both were taken.
func (c *Conn) WriteBehind(head, p []byte) (int, error) {
	c.out.busy.Add(1)
	defer c.out.busy.Add(-1)
	c.out.mu.Lock()
	defer c.unlockOut()
	if err := c.writable(); err != nil {
		return 0, err
	}
	if err := c.flush(); err != nil {
		return 0, err
	}
	total := 0
	for len(head)+len(p) > 0 {
		buf := getBuffer(c.wireLen(len(head) + len(p)))
		taken, n, err := c.sealBatch(buf.b, head, p)
		if err != nil {
			buf.release()
			return total, err
		}
		if err = c.transmit(buf, n); err != nil && !passing(err) {
			return total, err
		}
		total += taken
		if err != nil {
			return total, err
		}
		k := min(taken, len(head))
		head, p = head[k:], p[taken-k:]
	}
	return total, nil
}

// wireLen is how many octets n octets of data need in frames.
func (c *Conn) wireLen(n int) int {
	most := c.cfg.MaxFrame - frameOverhead
	frames := (n + most - 1) / most
	if c.maxData() < most {
		frames++ // the first one is shorter
	}
	return n + frames*frameOverhead
}

// maxFirstFrame is how long the first frame of a resumed session may be: one segment on any path that carries IPv6. A host
// B that has fallen back to plain TCP can tell it from plaintext then as soon as it arrives.
const maxFirstFrame = 1200

// maxData is how many octets of data go in the next frame.
func (c *Conn) maxData() int {
	if c.cfg.Ticket != nil && c.out.counters.frames.Load() == 0 {
		return min(c.cfg.MaxFrame, maxFirstFrame) - frameOverhead
	}
	return c.cfg.MaxFrame - frameOverhead
}

// sealBatch seals as much of head and p into b as goes without cutting a frame short.
func (c *Conn) sealBatch(b, head, p []byte) (taken, n int, err error) {
	for len(head)+len(p) > 0 {
		size := min(len(head)+len(p), c.maxData())
		if len(b)-n < size+frameOverhead {
			return taken, n, nil
		}
		at := b[n+dataStart:][:size]
		k := copy(at, head)
		p = p[copy(at[k:], p):]
		head = head[k:]
		k, err := c.seal(b[n:], size, false)
		if err != nil {
			return 0, 0, err
		}
		taken, n = taken+size, n+k
	}
	return taken, n, nil
}

// ReadFrom reads from r, straight into the place where the data is then sealed, and sends one frame a read, until r
// ends. It does not end the stream to the peer. If r has a method WaitRead() error, no buffer is held while waiting.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	wait, _ := r.(waiter)
	var total int64
	idle := 0
	for {
		if wait != nil {
			if err := wait.WaitRead(); err == io.EOF {
				return total, nil
			} else if err != nil {
				return total, err
			}
		}
		buf := getBuffer(c.cfg.MaxFrame)
		n, err := r.Read(buf.b[dataStart : dataStart+c.maxData()])
		if n > 0 {
			idle = 0
			sent, werr := c.sendFrom(buf, n)
			total += int64(sent)
			if werr != nil {
				return total, werr
			}
		} else {
			buf.release()
			idle++
		}
		switch {
		case err == io.EOF:
			return total, nil
		case err != nil:
			return total, err
		case idle == maxIdleReads:
			return total, io.ErrNoProgress
		}
	}
}

// FrameData returns how many octets of data go in one frame, the first one of a resumed session aside. A Write of no more than that leaves whole or not at all, and so
// does each read of ReadFrom, whoever else writes at the same time.
func (c *Conn) FrameData() int { return c.cfg.MaxFrame - frameOverhead }

// sendFrom sends one frame with the n octets that are in buf already, and gives buf up.
func (c *Conn) sendFrom(buf *buffer, n int) (int, error) {
	c.out.busy.Add(1)
	defer c.out.busy.Add(-1)
	c.out.mu.Lock()
	defer c.unlockOut()
	err := c.writable()
	if err == nil {
		err = c.flush()
	}
	size := 0
	if err == nil {
		size, err = c.seal(buf.b, n, false)
	}
	if err != nil {
		buf.release()
		return 0, err
	}
	if err = c.transmit(buf, size); err != nil && !passing(err) {
		return 0, err
	}
	return n, err
}

// CloseWrite ends the stream to the peer: a frame with FINp, then FIN. The other direction goes on.
// RFC 8548, Section 3.7.
//
// It waits for a Write under way. After a passed write deadline the end of the stream leaves as unsent data does.
func (c *Conn) CloseWrite() error {
	c.out.mu.Lock()
	defer c.unlockOut()
	out := &c.out
	if err := c.alive(); err != nil {
		return err
	}
	if out.finished.Load() {
		return nil
	}
	if err := c.flush(); err != nil {
		return err
	}
	if !out.last {
		buf := getBuffer(MinFrameLen)
		n, err := c.seal(buf.b, 0, true)
		if err != nil {
			buf.release()
			return err
		}
		out.last = true
		if err := c.transmit(buf, n); err != nil {
			return err
		}
	}
	return c.sendFIN()
}

// sendFIN ends the transport's stream, once the last frame is sent.
func (c *Conn) sendFIN() error {
	out := &c.out
	if err := c.lower.CloseWrite(); err != nil {
		out.err = c.cause(err)
		return out.err
	}
	out.finished.Store(true)
	out.dir.erase()
	return nil
}

// alive says whether the direction can still send what it has.
func (c *Conn) alive() error {
	if e := c.ended.Load(); e != nil {
		return e.err
	}
	if !c.ready.Load() {
		return ErrNoSession
	}
	return c.out.err
}

// writable says whether more data can be sent.
func (c *Conn) writable() error {
	if err := c.alive(); err != nil {
		return err
	}
	if c.out.last {
		return ErrWriteClosed
	}
	return nil
}

// seal makes a frame of the n octets at b[dataStart:]. An error ends the direction.
func (c *Conn) seal(b []byte, n int, fin bool) (int, error) {
	rekey := c.out.behind(c) || c.worn(n+frameOverhead)
	if rekey {
		if err := c.rekeyOut(); err != nil {
			c.out.err = c.fail(err)
			return 0, c.out.err
		}
	}
	size, err := c.out.dir.seal(b, n, rekey, fin)
	if err != nil {
		c.out.err = c.fail(err)
		return 0, c.out.err
	}
	c.out.counters.add(size, n)
	if c.out.speak.Load() {
		c.out.speak.Store(false)
	}
	return size, nil
}

// transmit sends the first n octets of buf and gives buf up. After a passing error the rest is kept.
func (c *Conn) transmit(buf *buffer, n int) error {
	c.out.unsent, c.out.hold = buf.b[:n], buf
	return c.flush()
}

// flush sends what is sealed and not yet sent.
func (c *Conn) flush() error {
	out := &c.out
	if len(out.unsent) == 0 {
		return nil
	}
	moved := out.moved.Load()
	n, err := c.lower.Write(out.unsent)
	for err != nil && passing(err) {
		out.unsent = out.unsent[n:]
		out.pending.Store(true)
		now := out.moved.Load()
		if now == moved {
			return err
		}
		moved = now // the deadline that has passed is no more, and whoever moved it may not have seen that this is pending
		n, err = c.lower.Write(out.unsent)
	}
	if err == nil && n < len(out.unsent) {
		err = io.ErrShortWrite
	}
	out.drop()
	if err != nil {
		out.err = c.cause(err)
		return out.err
	}
	if out.told.Load() != out.dir.generation {
		out.told.Store(out.dir.generation)
	}
	return nil
}

// drop gives up what is unsent.
func (out *outHalf) drop() {
	out.unsent = nil
	out.pending.Store(false)
	if out.hold != nil {
		out.hold.release()
		out.hold = nil
	}
}

func (c *Conn) unlockOut() {
	c.out.mu.Unlock()
	if c.ended.Load() != nil {
		c.eraseOut()
	}
}

// eraseOut forgets the sending keys, unless a call holds them: then unlockOut does it.
func (c *Conn) eraseOut() {
	out := &c.out
	if !out.mu.TryLock() {
		return
	}
	defer out.mu.Unlock()
	if out.err == nil {
		out.err = c.ended.Load().err
	}
	if out.dir != nil {
		out.dir.erase()
	}
	out.drop()
}

var (
	_ io.ReaderFrom = (*Conn)(nil)
	_ io.WriterTo   = (*Conn)(nil)
)
