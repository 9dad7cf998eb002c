package innerspace

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// inHalf is the receiving direction. mu guards all but the atomics. What is to be delivered next is plain, then what is in
// rest, then what the stream below has.
type inHalf struct {
	mu      sync.Mutex
	decoder Decoder
	err     error // sticky: io.EOF at the end
	plain   []byte
	rest    []byte    // not yet decoded
	hold    *buffer   // where plain and rest are, if it is to be given back
	blocked *Received // nobody has room for it
	head    [256]byte // headers and options of a stream with frames

	options, unknown, units atomic.Uint64
}

// Read returns payload, and passes over what has none.
func (s *Stream) Read(p []byte) (int, error) {
	in := &s.in
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	for idle := 0; ; idle++ {
		if err := s.toPayload(nil); err != nil {
			return 0, err
		}
		if len(in.plain) > 0 {
			n := copy(p, in.plain)
			in.plain = in.plain[n:]
			in.tidy()
			return n, nil
		}
		need, _ := in.decoder.Need()
		n, err := s.lower.Read(p[:min(len(p), need)])
		if n > 0 { // an error, if any, comes again
			in.decoder.Skip(n)
			return n, nil
		}
		if err != nil {
			return 0, s.readFailed(err)
		}
		if idle == maxIdleReads {
			return 0, io.ErrNoProgress
		}
	}
}

// WaitRead blocks until a Read would not, and holds no buffer meanwhile if the stream below can wait without one.
func (s *Stream) WaitRead() error {
	in := &s.in
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := s.toPayload(nil); err == io.EOF {
		return nil
	} else if err != nil {
		return err
	}
	if len(in.plain) > 0 || s.wait == nil {
		return nil
	}
	return s.wait.WaitRead()
}

// ReadOptions takes options, and hands them on, until done, or payload comes next. Nothing is lost. Its errors are those of
// Read, with io.EOF at the end of the stream.
func (s *Stream) ReadOptions(done func() bool) error {
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	return s.toPayload(done)
}

// toPayload goes on until payload comes next, in plain, or from the stream below; or until done, if that is not nil.
func (s *Stream) toPayload(done func() bool) error {
	in := &s.in
	for idle := 0; ; {
		if done != nil && done() {
			return nil
		}
		if in.blocked != nil {
			if err := s.taken.add(*in.blocked); err != nil {
				return err
			}
			in.blocked = nil
		}
		if len(in.plain) > 0 {
			return nil
		}
		if len(in.rest) > 0 {
			if err := s.decode(); err != nil {
				return err
			}
			continue
		}
		in.tidy()
		if in.err != nil {
			return in.err
		}
		if _, payload := in.decoder.Need(); payload {
			return nil
		}
		n, err := s.readHead()
		if n == 0 && err != nil {
			return s.readFailed(err)
		}
		if n > 0 {
			idle = 0
		} else if idle++; idle == maxIdleReads {
			return io.ErrNoProgress
		}
	}
}

// readHead reads what is not payload, from a stream with frames no more than that: it has a buffer already.
func (s *Stream) readHead() (int, error) {
	in := &s.in
	if s.framed != nil {
		need, _ := in.decoder.Need()
		n, err := s.lower.Read(in.head[:min(need, len(in.head))])
		in.rest = in.head[:n]
		return n, err
	}
	if s.wait != nil {
		if err := s.wait.WaitRead(); err != nil {
			return 0, err
		}
	}
	in.hold = getBuffer(smallBuffer)
	n, err := s.lower.Read(in.hold.b)
	in.rest = in.hold.b[:n]
	in.tidy()
	return n, err
}

// decode takes one item from rest.
func (s *Stream) decode() error {
	in := &s.in
	units := in.decoder.units
	n, item, err := in.decoder.Next(in.rest)
	in.units.Add(in.decoder.units - units)
	if err != nil {
		in.rest = nil
		in.err = s.fail(err)
		return in.err
	}
	in.rest, in.plain = in.rest[n:], item.Payload
	if item.Option != nil {
		return s.receive(item)
	}
	return nil
}

// receive passes an option on. An error leaves it blocked.
func (s *Stream) receive(item Item) error {
	in := &s.in
	s.count(item.Option)
	r := Received{Option: item.Option, Position: item.Position}
	taken := s.cfg.Handler != nil && s.cfg.Handler(r)
	if cause := s.cause.Load(); cause != nil { // of what follows nothing is delivered
		in.rest, in.err = nil, *cause
		return in.err
	}
	if taken {
		return nil
	}
	r.Option = bytes.Clone(r.Option)
	err := s.taken.add(r)
	if err != nil {
		in.blocked = &r
	}
	return err
}

// takeSYN takes the options of the SYN.
func (s *Stream) takeSYN() {
	it := NewIterator(s.cfg.SYN)
	for o, ok := it.Next(); ok; o, ok = it.Next() {
		s.count(o)
		s.taken.add(Received{Option: bytes.Clone(o), SYN: true}) // nobody waits yet
	}
	s.cfg.SYN = nil
}

func (s *Stream) count(o Option) {
	s.in.options.Add(1)
	if !o.Known() {
		s.in.unknown.Add(1)
	}
}

// tidy gives the buffer back when nothing is left in it.
func (in *inHalf) tidy() {
	if len(in.plain) > 0 || len(in.rest) > 0 {
		return
	}
	in.plain, in.rest = nil, nil
	if in.hold != nil {
		in.hold.release()
		in.hold = nil
	}
}

// readFailed says what an error of the stream below means here.
func (s *Stream) readFailed(err error) error {
	in := &s.in
	switch {
	case passing(err):
		return err
	case err == io.EOF:
		if cut := in.decoder.Finish(); cut != nil {
			in.err = s.fail(cut)
			return in.err
		}
		in.err = io.EOF
	default:
		in.err = s.because(err)
	}
	s.taken.end(in.err)
	return in.err
}

// mergeLimit is up to what length, in octets, payload is moved to join that of other units, so that many small units are handed
// on in one piece. Above it a move costs more than a further Write.
const mergeLimit = smallBuffer / 2

// WriteTo writes payload to w straight from where it was received, until the end of the stream.
func (s *Stream) WriteTo(w io.Writer) (int64, error) {
	in := &s.in
	in.mu.Lock()
	defer in.mu.Unlock()
	to := &sink{s: s, w: w}
	for len(in.plain) > 0 || len(in.rest) > 0 || in.blocked != nil {
		if len(in.plain) > 0 {
			n, err := to.deliver(in.plain)
			in.plain = in.plain[n:]
			if err != nil {
				return to.total, err
			}
		}
		if len(in.rest) == 0 && in.blocked == nil {
			break
		}
		if in.blocked == nil {
			if err := s.decode(); err != nil {
				return to.total, err
			}
		} else if err := s.taken.add(*in.blocked); err != nil {
			return to.total, err
		} else {
			in.blocked = nil
		}
	}
	in.tidy()
	if in.err != nil {
		return to.total, eofIsEnd(in.err)
	}
	if s.framed != nil {
		_, err := s.framed.WriteTo(to)
		if to.err != nil {
			return to.total, to.err
		}
		if err == nil {
			err = io.EOF
		}
		return to.total, eofIsEnd(s.readFailed(err))
	}
	for idle := 0; ; {
		if s.wait != nil {
			if err := s.wait.WaitRead(); err != nil && err != io.EOF {
				return to.total, s.readFailed(err)
			}
		}
		buf := getBuffer(unitBuffer)
		n, err := s.lower.Read(buf.b)
		if n > 0 {
			idle = 0
			to.Write(buf.b[:n])
		} else {
			idle++
		}
		buf.release()
		switch {
		case to.err != nil:
			return to.total, to.err
		case n > 0: // an error, if any, comes again
		case err != nil:
			return to.total, eofIsEnd(s.readFailed(err))
		case idle == maxIdleReads:
			return to.total, io.ErrNoProgress
		}
	}
}

func eofIsEnd(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// sink takes the stream below apart and hands the payload on. It always takes all: what cannot be handed on is kept for later.
type sink struct {
	s     *Stream
	w     io.Writer
	merge *buffer
	n     int // octets in merge
	total int64
	err   error
}

func (k *sink) Write(b []byte) (int, error) {
	in := &k.s.in
	in.rest = b
	for len(in.rest) > 0 && k.err == nil {
		if k.err = k.s.decode(); k.err != nil {
			break
		}
		p := in.plain
		in.plain = nil
		if len(p) == 0 {
			continue
		}
		if len(p) > mergeLimit || k.n == 0 && len(in.rest) == 0 {
			k.flush()
			k.hand(p)
			continue
		}
		if k.merge == nil {
			k.merge = getBuffer(smallBuffer)
		} else if k.n+len(p) > len(k.merge.b) {
			k.flush()
		}
		if k.err != nil {
			k.keep(p)
			continue
		}
		k.n += copy(k.merge.b[k.n:], p)
	}
	k.flush()
	if k.merge != nil {
		k.merge.release()
		k.merge = nil
	}
	in.rest = bytes.Clone(in.rest) // not ours to keep
	return len(b), k.err
}

// flush hands the merged octets on, also those that came before an error.
func (k *sink) flush() {
	if k.n == 0 {
		return
	}
	p, first := k.merge.b[:k.n], k.err
	k.n, k.err = 0, nil
	k.hand(p)
	if k.err == nil {
		k.err = first
	}
}

// hand hands p on, or keeps what is left of it.
func (k *sink) hand(p []byte) {
	if k.err != nil {
		k.keep(p)
		return
	}
	n, err := k.deliver(p)
	if err != nil {
		k.err = err
		k.keep(p[n:])
	}
}

func (k *sink) keep(p []byte) { k.s.in.plain = append(k.s.in.plain, p...) }

// deliver writes p to w.
func (k *sink) deliver(p []byte) (int, error) {
	n, err := k.w.Write(p)
	if n < 0 || n > len(p) {
		return 0, fmt.Errorf("innerspace: writer returned a count of %d for %d octets", n, len(p))
	}
	k.total += int64(n)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return n, err
}
