package innerspace

import "time"

// Leave sends one last option, behind all others that wait, and lets nothing be sent after it. A Write under way gives up.
// It reports whether the option is in the hands of the stream below, which has limit for that. An abort is to follow.
func (s *Stream) Leave(o Option, limit time.Duration) bool {
	out := &s.out
	if out.closed.Swap(true) {
		return false
	}
	s.lower.SetWriteDeadline(s.cfg.Now()) // what is cut off waits, and leaves first
	out.mu.Lock()
	defer out.mu.Unlock()
	if out.err != nil {
		return false
	}
	out.queueMu.Lock()
	err := out.encoder.Queue(o)
	out.queueMu.Unlock()
	if err != nil {
		return false
	}
	out.options.Add(1)
	s.lower.SetWriteDeadline(s.cfg.Now().Add(limit))
	if err := s.flush(); err != nil {
		return false
	}
	return s.sendOptions() == nil
}

// Await ends the stream to the peer and takes options until done, payload comes next, or limit is over; not if someone reads or
// writes meanwhile. A Close is to follow.
func (s *Stream) Await(done func() bool, limit time.Duration) {
	if !s.in.mu.TryLock() {
		return
	}
	defer s.in.mu.Unlock()
	if !s.lockForClose() {
		return
	}
	err := s.out.err
	if err == nil && !s.out.closed.Load() {
		s.lower.SetWriteDeadline(s.cfg.Now().Add(limit))
		if err = s.finish(); err == nil {
			err = s.lower.CloseWrite()
		}
		s.out.closed.Store(true)
	}
	s.out.mu.Unlock()
	if err == nil && s.lower.SetReadDeadline(s.cfg.Now().Add(limit)) == nil {
		s.toPayload(done)
	}
}
