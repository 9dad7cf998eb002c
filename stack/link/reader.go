package link

import (
	"errors"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// packetGroup marks packets to a group address.
	packetGroup = tcpip.PacketBroadcast
	// readBatch is how many packets one recvmmsg takes at most.
	readBatch = 16
	// readErrorPause is how long the reader rests after an error that may pass, such as an interface that is down.
	readErrorPause = 50 * time.Millisecond
)

// reader is the goroutine that reads packets and delivers them to the netstack, in order. TCP segments are queued
// there and worked on by the netstack's own goroutines.
type reader struct {
	e     *endpoint
	d     stack.NetworkDispatcher
	slots []slot
	msgs  []mmsghdr // for sockets, one for each slot
	fatal error
}

func newReader(e *endpoint, d stack.NetworkDispatcher) *reader {
	r := &reader{e: e, d: d}
	if !e.socket {
		r.slots = make([]slot, 1)
		return r
	}
	r.slots = make([]slot, readBatch)
	r.msgs = make([]mmsghdr, readBatch)
	for i := range r.msgs {
		iov := r.slots[i].iov[:]
		r.msgs[i].hdr.Iov = &iov[0]
		r.msgs[i].hdr.SetIovlen(len(iov))
	}
	return r
}

// run reads until the endpoint stops.
func (r *reader) run() {
	defer func() {
		for i := range r.slots {
			r.slots[i].release()
		}
	}()
	step := r.readOne
	if r.e.socket {
		step = r.readMany
	}
	// The callback stays in this loop for as long as packets come; the runtime's poller waits for more.
	err := r.e.raw.Read(func(fd uintptr) bool {
		for !r.e.stopping.Load() {
			switch errno := step(fd); {
			case errno == 0:
			case errno == unix.EAGAIN:
				return false
			case !r.survive(errno):
				return true
			}
		}
		return true
	})
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, os.ErrClosed) {
		r.fatal = err
	}
	if r.fatal != nil {
		r.e.log.Error("link: reading stopped", "err", r.fatal)
	}
}

// survive says whether to go on reading after errno.
func (r *reader) survive(errno unix.Errno) bool {
	switch errno {
	case unix.ENETDOWN, unix.ENOBUFS, unix.ENOMEM, unix.EIO:
		r.e.log.Debug("link: reading failed, trying again", slog.Any("err", errno))
		time.Sleep(readErrorPause)
		return true
	}
	r.fatal = os.NewSyscallError("read", errno)
	return false
}

func (r *reader) readOne(fd uintptr) unix.Errno {
	s := &r.slots[0]
	s.fill()
	n, errno := readv(fd, s.iov[:])
	if errno != 0 {
		return errno
	}
	r.e.stats.readCalls.Add(1)
	r.e.stats.received.Add(1)
	r.deliver(s, n)
	return 0
}

func (r *reader) readMany(fd uintptr) unix.Errno {
	for i := range r.slots {
		r.slots[i].fill()
	}
	n, errno := recvmmsg(fd, r.msgs)
	if errno != 0 {
		return errno
	}
	r.e.stats.readCalls.Add(1)
	r.e.stats.received.Add(uint64(n))
	for i := range r.msgs[:n] {
		r.deliver(&r.slots[i], int(r.msgs[i].len))
	}
	return 0
}

func (r *reader) deliver(s *slot, n int) {
	pkt := r.e.receive(s, n)
	if pkt == nil {
		return
	}
	r.d.DeliverNetworkPacket(pkt.NetworkProtocolNumber, pkt)
	pkt.DecRef()
}
