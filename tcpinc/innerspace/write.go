package innerspace

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

// ErrWriteClosed says that CloseWrite or Close was called before a Write or SendOption.
var ErrWriteClosed = errors.New("innerspace: write after CloseWrite")

// maxUnit is the longest unit sent over a stream without frames: 44 full segments of 1,448 octets.
const maxUnit = 44 * 1448

// maxIdleReads bounds reads that return nothing and no error.
const maxIdleReads = 100

// outHalf is the sending direction. mu guards what is not said otherwise; queueMu is held for moments only.
type outHalf struct {
	mu      sync.Mutex
	err     error // sticky
	closed  atomic.Bool
	maxUnit int // octets, whole
	head    [HeaderLen]byte
	unsent  []byte  // what a write deadline cut off a unit
	hold    *buffer // where unsent is

	queueMu sync.Mutex
	encoder Encoder
	pushing bool // a goroutine will send what waits

	options, units atomic.Uint64
}

func (out *outHalf) waiting() int {
	out.queueMu.Lock()
	defer out.queueMu.Unlock()
	return out.encoder.Waiting()
}

// drop gives up what is unsent.
func (out *outHalf) drop() {
	out.unsent = nil
	if out.hold != nil {
		out.hold.release()
		out.hold = nil
	}
}

// SendOption sends one option, before any data written later. It never blocks: while a write is under way the option leaves
// after it. The option is copied. Errors: ErrQueueFull, ErrEncode, ErrWriteClosed. After a passed write deadline it leaves
// with the next write.
func (s *Stream) SendOption(o Option) error { return s.queue(o, true) }

// AddOption is SendOption for what can wait: the option leaves with what is sent next.
func (s *Stream) AddOption(o Option) error { return s.queue(o, false) }

func (s *Stream) queue(o Option, now bool) error {
	out := &s.out
	if out.closed.Load() {
		return s.because(ErrWriteClosed)
	}
	out.queueMu.Lock()
	defer out.queueMu.Unlock()
	if err := out.encoder.Queue(o); err != nil {
		return err
	}
	out.options.Add(1)
	if now && !out.pushing {
		out.pushing = true
		go s.push()
	}
	return nil
}

// push sends what waits until nothing does.
func (s *Stream) push() {
	out := &s.out
	out.mu.Lock()
	defer out.mu.Unlock()
	for {
		err := s.ready()
		if err == nil {
			err = s.sendOptions()
		}
		out.queueMu.Lock()
		if err != nil || out.encoder.Waiting() == 0 {
			out.pushing = false
			out.queueMu.Unlock()
			return
		}
		out.queueMu.Unlock()
	}
}

// ready says whether more can be sent, and sends what was left over first.
func (s *Stream) ready() error {
	switch {
	case s.out.err != nil:
		return s.out.err
	case s.out.closed.Load():
		return s.because(ErrWriteClosed)
	}
	return s.flush()
}

// Write sends p, in as many units as it takes, with the options that wait before it.
func (s *Stream) Write(p []byte) (int, error) {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	if err := s.ready(); err != nil {
		return 0, s.cutOff(err)
	}
	total := 0
	for len(p) > 0 {
		n, err := s.writeUnit(p)
		total += n
		if err != nil {
			return total, s.cutOff(err)
		}
		p = p[n:]
	}
	return total, nil
}

// cutOff is the error of a write: one that Leave has cut off, by a deadline, ran into none of its caller's.
func (s *Stream) cutOff(err error) error {
	if passing(err) && s.out.closed.Load() {
		return s.because(ErrWriteClosed)
	}
	return err
}

// writeUnit sends a unit with the options that wait and as much of p as goes.
func (s *Stream) writeUnit(p []byte) (int, error) {
	out := &s.out
	out.queueMu.Lock()
	room := out.encoder.Room()
	out.queueMu.Unlock()
	if room > out.maxUnit/2 { // far more than an option or two
		if err := s.sendOptions(); err != nil {
			return 0, err
		}
		room = HeaderLen
	}
	n := min(len(p), out.maxUnit-room)
	if s.framed != nil && room == HeaderLen {
		return s.writeBare(p[:n])
	}
	buf := getBuffer(room + n)
	copy(buf.b[room:], p[:n])
	return s.sendUnit(buf, room, n)
}

// writeBare sends a unit without options. The frames below take it whole or not at all, and keep what a deadline cuts off.
func (s *Stream) writeBare(p []byte) (int, error) {
	out := &s.out
	binary.BigEndian.PutUint32(out.head[:], Header{Payload: len(p)}.bits())
	n, err := s.framed.WriteBehind(out.head[:], p)
	switch {
	case err != nil && !passing(err):
		out.err = s.because(err)
		return 0, out.err
	case n == 0:
		return 0, err
	}
	out.units.Add(1)
	return len(p), err
}

// sendOptions sends the options that wait, in units of their own.
func (s *Stream) sendOptions() error {
	out := &s.out
	for {
		out.queueMu.Lock()
		room := min(out.encoder.Room(), out.maxUnit)
		out.queueMu.Unlock()
		if room == HeaderLen {
			return nil
		}
		if _, err := s.sendUnit(getBuffer(room), room, 0); err != nil {
			return err
		}
	}
}

// sendUnit sends a unit of the n octets at buf.b[room:] and gives buf up. It returns how many octets of payload count as written.
func (s *Stream) sendUnit(buf *buffer, room, n int) (int, error) {
	out := &s.out
	out.queueMu.Lock()
	before := out.encoder.Waiting()
	unit, err := out.encoder.Unit(buf.b, room, n)
	options := out.encoder.Waiting() < before
	out.queueMu.Unlock()
	if err != nil {
		buf.release()
		return 0, err
	}
	out.units.Add(1)
	out.unsent, out.hold = unit, buf
	err = s.flush()
	if err != nil && !options && len(out.unsent) == len(unit) { // nothing of it has left
		out.drop()
		return 0, err
	}
	if err != nil && !passing(err) {
		return 0, err
	}
	return n, err
}

// flush sends what is left of a unit. After a passing error the rest is kept.
func (s *Stream) flush() error {
	out := &s.out
	if len(out.unsent) == 0 {
		return nil
	}
	n, err := s.lower.Write(out.unsent)
	if err == nil && n < len(out.unsent) {
		err = io.ErrShortWrite
	}
	if err == nil || n >= len(out.unsent) {
		out.drop()
	} else {
		out.unsent = out.unsent[max(n, 0):]
	}
	if err != nil && !passing(err) {
		out.err = s.because(err)
		out.drop()
		return out.err
	}
	return err
}

// tally is what was handed to the frames below, of which the last unit may not have been accepted.
type tally struct {
	octets, payload         int64
	lastOctets, lastPayload int64
	units                   uint64
}

// header puts a unit's header before n octets at b[HeaderLen:].
func (t *tally) header(b []byte, n int) int {
	binary.BigEndian.PutUint32(b, Header{Payload: n}.bits())
	t.lastOctets, t.lastPayload = int64(HeaderLen+n), int64(n)
	t.octets += t.lastOctets
	t.payload += t.lastPayload
	t.units++
	return HeaderLen + n
}

// accepted turns what the ReadFrom below returned into octets of payload.
func (s *Stream) accepted(t *tally, n int64, err error) (int, error) {
	if err = s.cutOff(err); err != nil && !passing(err) {
		err = s.because(err)
	}
	switch n {
	case t.octets:
		s.out.units.Add(t.units)
		return int(t.payload), err
	case t.octets - t.lastOctets:
		s.out.units.Add(t.units - 1)
		return int(t.payload - t.lastPayload), err
	}
	if err == nil {
		err = io.ErrShortWrite
	}
	return 0, err
}

// ReadFrom reads from r, straight into the place behind a unit's header, and sends one unit a read, until r ends. It does not
// end the stream to the peer. If r has a method WaitRead() error, no buffer is held while waiting.
func (s *Stream) ReadFrom(r io.Reader) (int64, error) {
	s.out.mu.Lock()
	err := s.ready()
	s.out.mu.Unlock()
	if err != nil {
		return 0, s.cutOff(err)
	}
	wait, _ := r.(waiter)
	if s.framed != nil {
		u := &unitsFrom{s: s, r: r, wait: wait}
		n, err := s.framed.ReadFrom(u)
		sent, err := s.accepted(&u.tally, n, err)
		return int64(sent), err
	}
	var total int64
	for idle := 0; ; {
		if wait != nil {
			if err := wait.WaitRead(); err == io.EOF {
				return total, nil
			} else if err != nil {
				return total, err
			}
		}
		buf := getBuffer(unitBuffer)
		n, err := r.Read(buf.b[HeaderLen:s.out.maxUnit])
		if n > 0 {
			idle = 0
			sent, werr := s.sendFrom(buf, n)
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

// sendFrom sends a unit of the n octets that are in buf already, behind the options that wait.
func (s *Stream) sendFrom(buf *buffer, n int) (int, error) {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	err := s.ready()
	if err == nil {
		err = s.sendOptions()
	}
	if err != nil {
		buf.release()
		return 0, s.cutOff(err)
	}
	n, err = s.sendUnit(buf, HeaderLen, n)
	return n, s.cutOff(err)
}

// unitsFrom is a reader as units, each made where the frame below wants it.
type unitsFrom struct {
	tally
	s    *Stream
	r    io.Reader
	wait waiter
}

func (u *unitsFrom) WaitRead() error {
	if u.wait == nil {
		return nil
	}
	return u.wait.WaitRead()
}

func (u *unitsFrom) Read(b []byte) (int, error) {
	if len(b) <= HeaderLen {
		return 0, io.ErrShortBuffer
	}
	n, err := u.r.Read(b[HeaderLen:min(len(b), HeaderLen+MaxPayload)])
	if n <= 0 {
		return 0, err
	}
	if u.s.out.waiting() > 0 {
		u.s.push() // they come first; the frame for these octets is not begun
	}
	return u.header(b, n), err
}

// CloseWrite sends what waits and ends the stream to the peer; the other direction goes on.
func (s *Stream) CloseWrite() error {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	if s.out.closed.Load() {
		return nil
	}
	if err := s.ready(); err != nil {
		return err
	}
	if err := s.sendOptions(); err != nil {
		return err
	}
	if err := s.lower.CloseWrite(); err != nil {
		return s.because(err)
	}
	s.out.closed.Store(true)
	return nil
}
