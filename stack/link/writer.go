package link

import (
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// writeBatch is how many packets one sendmmsg takes at most.
	writeBatch = 64
	// maxIovecs is UIO_MAXIOV, the most a system call takes for one packet.
	maxIovecs = 1024
	// defaultSendWait is how long a sender waits for room in the send buffer before the packet is dropped. The
	// wait is what holds a sender back to the speed of the interface.
	defaultSendWait = 20 * time.Millisecond
)

// writer is what one call of WritePackets needs besides its packets. It is reused.
type writer struct {
	e     *endpoint
	pkts  []*stack.PacketBuffer
	vnet  [][vnetHeaderLen]byte
	iovs  []unix.Iovec
	ends  []int // end of each packet's iovecs in iovs
	sizes []int // octets of each packet
	msgs  []mmsghdr
	call  func(fd uintptr) // bound once: a new closure would be allocated for each call
	sent  int
	err   tcpip.Error
}

func newWriter(e *endpoint) *writer {
	w := &writer{e: e}
	w.call = w.send
	return w
}

// WritePackets implements stack.LinkEndpoint. Packets that cannot be sent are dropped and counted; the number of
// those that were sent and the last error are returned.
func (e *endpoint) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	w := e.writers.Get().(*writer)
	sent := 0
	var err tcpip.Error
	for rest := pkts.AsSlice(); len(rest) > 0; {
		n := min(len(rest), writeBatch)
		w.prepare(rest[:n])
		if tap := e.tap.Load(); tap != nil {
			e.tapSent(*tap, rest[:n])
		}
		rest = rest[n:]
		if e.raw.Control(w.call) != nil {
			w.err = &tcpip.ErrClosedForSend{}
		}
		sent += w.sent
		if w.err != nil {
			err = w.err
		}
	}
	w.reset()
	e.writers.Put(w)
	return sent, err
}

func (w *writer) reset() {
	clear(w.iovs)
	w.pkts, w.iovs, w.ends, w.sizes = nil, w.iovs[:0], w.ends[:0], w.sizes[:0]
	w.sent, w.err = 0, nil
}

// prepare gathers headers and iovecs of pkts.
func (w *writer) prepare(pkts []*stack.PacketBuffer) {
	w.reset()
	w.pkts = pkts
	for len(w.vnet) < len(pkts) {
		w.vnet = append(w.vnet, [vnetHeaderLen]byte{})
	}
	for i, pkt := range pkts {
		h := w.vnet[i][:]
		appendVnetHeader(h[:0], vnetHeaderFor(pkt, w.e.linkHeaderLen()))
		start := len(w.iovs)
		w.iovs = append(w.iovs, iovec(h))
		views, skip := pkt.AsViewList()
		size := 0
		for v := views.Front(); v != nil; v = v.Next() {
			b := v.AsSlice()
			if skip >= len(b) {
				skip -= len(b)
				continue
			}
			b, skip = b[skip:], 0
			size += len(b)
			w.iovs = append(w.iovs, iovec(b))
		}
		if len(w.iovs)-start > maxIovecs {
			flat := pkt.ToView().ToSlice()
			w.iovs = append(w.iovs[:start+1], iovec(flat))
		}
		w.ends = append(w.ends, len(w.iovs))
		w.sizes = append(w.sizes, size)
	}
}

// vnetHeaderFor tells the kernel what is left to do for pkt: to finish its checksum and to cut it into segments.
func vnetHeaderFor(pkt *stack.PacketBuffer, linkHeaderLen int) vnetHeader {
	gso := &pkt.GSOOptions
	if gso.Type == stack.GSONone {
		return vnetHeader{}
	}
	h := vnetHeader{headerLen: uint16(pkt.HeaderSize())}
	if gso.NeedsCsum {
		h.flags = vnetNeedsChecksum
		h.csumStart = uint16(linkHeaderLen) + gso.L3HdrLen
		h.csumOffset = gso.CsumOffset
	}
	if pkt.Data().Size() > int(gso.MSS) {
		h.gsoSize = gso.MSS
		h.gsoType = vnetGSOTCPv4
		if gso.Type == stack.GSOTCPv6 {
			h.gsoType = vnetGSOTCPv6
		}
	}
	return h
}

// send runs with the file open: Close waits for it.
func (w *writer) send(fd uintptr) {
	if w.e.socket && len(w.pkts) > 1 {
		w.sendMany(fd)
		return
	}
	start := 0
	for i, end := range w.ends {
		iov := w.iovs[start:end]
		start = end
		errno := w.writeOne(fd, iov)
		for errno == unix.EAGAIN && w.waitRoom(fd) {
			errno = w.writeOne(fd, iov)
		}
		w.account(i, errno)
	}
}

func (w *writer) writeOne(fd uintptr, iov []unix.Iovec) unix.Errno {
	w.e.stats.writeCalls.Add(1)
	return writev(fd, iov)
}

func (w *writer) sendMany(fd uintptr) {
	w.msgs = w.msgs[:0]
	start := 0
	for _, end := range w.ends {
		var m mmsghdr
		m.hdr.Iov = &w.iovs[start]
		m.hdr.SetIovlen(end - start)
		w.msgs = append(w.msgs, m)
		start = end
	}
	defer clear(w.msgs)
	for i := 0; i < len(w.msgs); {
		w.e.stats.writeCalls.Add(1)
		n, errno := sendmmsg(fd, w.msgs[i:])
		if errno == 0 {
			for range n {
				w.account(i, 0)
				i++
			}
			continue
		}
		// Nothing was sent: the error is that of the first message.
		if errno == unix.EAGAIN && w.waitRoom(fd) {
			continue
		}
		w.account(i, errno)
		i++
	}
}

// waitRoom waits until the send buffer has room. Once it has waited in vain, it does not wait again until a packet
// has been sent: an interface that stands still costs the netstack one wait, not one for each packet.
func (w *writer) waitRoom(fd uintptr) bool {
	if w.e.stalled.Load() {
		return false
	}
	w.e.stats.sendWaits.Add(1)
	if waitWritable(fd, int(w.e.sendWait.Milliseconds())) {
		return true
	}
	w.e.stalled.Store(true)
	return false
}

// account counts what became of packet i.
func (w *writer) account(i int, errno unix.Errno) {
	s := &w.e.stats
	switch errno {
	case 0:
		s.sent.Add(1)
		s.sentBytes.Add(uint64(w.sizes[i]))
		w.sent++
		if w.e.stalled.Load() {
			w.e.stalled.Store(false)
		}
	case unix.EAGAIN, unix.ENOBUFS:
		s.sendFull.Add(1)
		w.err = &tcpip.ErrNoBufferSpace{}
	default:
		s.sendErrors.Add(1)
		w.err = tcpip.TranslateErrno(errno)
	}
}
