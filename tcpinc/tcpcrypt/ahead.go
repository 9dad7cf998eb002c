package tcpcrypt

// readAhead reads while a probe is under way and nobody else does, as when a relay waits for its other side: the peer's
// answer cannot be noticed otherwise. It needs a transport that can wait without a buffer. It never waits with in.mu held, as
// there may be data for whoever comes to read.
func (c *Conn) readAhead() {
	if c.wait == nil || !c.probe.reading.CompareAndSwap(false, true) {
		return
	}
	defer c.probe.reading.Store(false)
	for {
		reads, more := c.openAhead()
		if !more || c.wait.WaitRead() != nil { // an error comes again, for whoever reads
			return
		}
		if !c.in.mu.TryLock() {
			return // whoever holds it reads
		}
		var err error
		if c.in.reads.Load() == reads { // nobody has taken what is there: this will not wait
			err = c.readAtLeast(frameHeaderLen + MaxFrameLen)
		}
		c.unlockIn()
		if err != nil {
			return
		}
	}
}

// openAhead opens the whole frames in the buffer and keeps their data. more says that more should be read; reads is the
// count of reads before.
func (c *Conn) openAhead() (reads uint64, more bool) {
	in := &c.in
	if !in.mu.TryLock() {
		return 0, false
	}
	defer c.unlockIn()
	if !c.probe.on.Load() || in.err != nil || c.ended.Load() != nil {
		return 0, false
	}
	in.setApart()
	for in.err == nil && in.w-in.r >= frameHeaderLen {
		header, err := parseFrameHeader(in.buf.b[in.r:])
		size := frameHeaderLen + header.clen
		if err == nil && in.w-in.r < size {
			break
		}
		var data []byte
		if err == nil {
			data, err = c.openFrame(header, in.buf.b[in.r:in.r+size])
			in.ahead = append(in.ahead, data...)
		}
		if err != nil {
			in.err = c.fail(err) // to be told after what earlier frames held
		}
	}
	return in.reads.Load(), in.err == nil && c.probe.on.Load() && len(in.ahead) < maxAhead
}

// setApart leaves the buffer to what is yet to be opened, if plain is in it.
func (in *inHalf) setApart() {
	if len(in.plain) == 0 || in.apart != nil || in.buf == nil {
		return
	}
	in.apart, in.buf = in.buf, getBuffer(bulkBuffer)
	in.w = copy(in.buf.b, in.apart.b[in.r:in.w])
	in.r = 0
}
