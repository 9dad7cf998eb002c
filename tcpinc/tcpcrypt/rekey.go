package tcpcrypt

import "fmt"

// MaxUnanswered is how many generations the peer may be ahead of what has been sent here. Each asks for a frame in
// answer, so a peer that goes on without reading the answers is not served for ever. RFC 8548 sets no limit.
const MaxUnanswered = 256

// Rekey moves the sending direction on to the next key generation and tells the peer at once, in an empty frame; the
// peer's answer shows that it is alive. Error: ErrRekeyPending while an earlier one is not answered; answers are
// noticed by reading. RFC 8548, Sections 3.8 and 3.9.
func (c *Conn) Rekey() error {
	c.out.mu.Lock()
	defer c.unlockOut()
	if err := c.writable(); err != nil {
		return err
	}
	if err := c.flush(); err != nil {
		return err
	}
	if c.unanswered() > 0 {
		return ErrRekeyPending
	}
	c.out.aim(c.out.dir.generation)
	return c.sendEmpty()
}

// sendEmpty sends a frame without data.
func (c *Conn) sendEmpty() error {
	buf := getBuffer(MinFrameLen)
	n, err := c.seal(buf.b, 0, false)
	if err != nil {
		buf.release()
		return err
	}
	return c.transmit(buf, n)
}

// aim asks for the generation that follows after. Once there is one, that is no news: whoever asks names the generation
// that he has decided by, as the keys may be replaced meanwhile.
func (out *outHalf) aim(after uint32) {
	for goal := uint64(after) + 1; ; {
		have := out.goal.Load()
		if have >= goal || out.goal.CompareAndSwap(have, goal) {
			return
		}
	}
}

// aims reports whether a new generation was asked for here and is not reached.
func (c *Conn) aims() bool { return c.out.goal.Load() > uint64(c.out.counters.generation.Load()) }

// behind reports whether the next frame is to begin a new generation: the peer has, or it was asked for here.
func (out *outHalf) behind(c *Conn) bool {
	return out.goal.Load() > uint64(out.dir.generation) || out.dir.generation < c.in.counters.generation.Load()
}

// rekeyOut installs the next sending key.
func (c *Conn) rekeyOut() error {
	if err := c.out.dir.advance(); err != nil {
		return err
	}
	c.out.counters.generation.Store(c.out.dir.generation)
	c.born.at.Store(c.cfg.Clock.Now().UnixNano())
	c.born.data.Store(c.dataSoFar())
	c.logKeys(c.out.dir)
	return nil
}

// rekeyIn installs the next receiving key, for a frame that says rekey = 1. Nobody has vouched for that bit yet, so the
// generation counts only once the frame is open.
func (c *Conn) rekeyIn() error {
	ahead := int64(c.in.dir.generation) + 1 - int64(c.out.counters.generation.Load())
	if ahead > MaxUnanswered && !c.out.finished.Load() {
		return fmt.Errorf("%w: peer is %d generations ahead", ErrRekeyOverflow, ahead)
	}
	if err := c.in.dir.advance(); err != nil {
		return err
	}
	c.logKeys(c.in.dir)
	return nil
}

// answerRekey records the peer's generation and sees to the answer. RFC 8548, Section 3.8.
func (c *Conn) answerRekey() {
	c.in.counters.generation.Store(c.in.dir.generation)
	if c.out.counters.generation.Load() < c.in.dir.generation && !c.out.finished.Load() {
		c.sendLater()
	}
}

// flushLater sends what an earlier deadline cut off, if there is any. The deadline has been moved.
func (c *Conn) flushLater() {
	c.out.moved.Add(1)
	if c.out.pending.Load() {
		c.sendLater()
	}
}

// due reports whether an empty frame is to begin a new generation. Two rekeys at once need data. RFC 8548, Section 3.8.
func (c *Conn) due() bool {
	ahead := c.unanswered()
	return ahead < 0 || ahead == 0 && c.aims()
}

// sendLater sends what is unsent, answers the peer's rekeys and does what the watch has asked for, from a goroutine of its own: a reader must not wait for
// room to write, or two hosts could wait for each other. A Write under way may be faster, and answer with its data.
func (c *Conn) sendLater() {
	if !c.out.answering.CompareAndSwap(false, true) {
		return
	}
	go func() {
		c.out.mu.Lock()
		defer c.unlockOut()
		c.out.answering.Store(false) // from here on there may be more to answer than is seen below
		if c.alive() != nil {
			return
		}
		// A passing error leaves the rest for later; another stays with the direction.
		err := c.flush()
		if err == nil && c.out.last && !c.out.finished.Load() {
			c.sendFIN()
		}
		for err == nil && !c.out.last && (c.due() || c.out.speak.Load()) {
			err = c.sendEmpty()
		}
	}()
}

// logKeys hands the keys of d's generation to the key log, once for both directions.
func (c *Conn) logKeys(d *direction) {
	if c.cfg.KeyLog == nil {
		return
	}
	c.keyLog.Lock()
	defer c.keyLog.Unlock()
	if uint64(d.generation) < c.keyLog.next {
		return
	}
	c.keyLog.next = uint64(d.generation) + 1
	c.cfg.KeyLog(KeyLogEntry{
		SessionID:  append([]byte(nil), c.sessionID[:]...),
		Generation: d.generation,
		KAB:        d.master.traffic(d.cipher, wayAB),
		KBA:        d.master.traffic(d.cipher, wayBA),
		Cipher:     d.cipher,
	})
}
