// Package capture is `innertun capture`: packets of the running daemon's link, as pcapng, with the traffic keys that come
// up meanwhile. The daemon's side is Hub, the command's Save; between them goes one stream of pcapng blocks, in which the
// keys have a block type of their own that never reaches the file.
package capture

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"innertun/cmd/internal/keylog"
	"innertun/stack/link"
	"innertun/tcpinc"
)

// Bounds of a capture, and how many there may be at once.
const (
	maxQueued       = 32 << 20 // octets that wait to be written
	maxQueuedItems  = 16384
	maxSessions     = 4
	flushInterval   = 200 * time.Millisecond
	endTime         = 3 * time.Second // what a capture has left to write when the daemon ends
	snapLen         = 1 << 18         // octets; no packet of a link is longer
	keysBlock       = 0x80004954      // pcapng leaves block types with the highest bit to local use
	blockAlign      = 4
	blockOverhead   = 12 // type, length, length again
	statisticsBlock = 5
	packetBlock     = 6
)

// ErrTooMany is the error for a capture beyond those that may run at once.
var ErrTooMany = fmt.Errorf("%d captures are running already: end one of them first", maxSessions)

// ErrClosed is the error for a capture of a daemon that is ending.
var ErrClosed = errors.New("the daemon is ending")

// Interface is where packets come from.
type Interface struct {
	Name    string
	Version string // of innertun
	SetTap  func(see func(link.Tapped))
}

// Hub hands what passes the interface to all captures. It listens to the interface only while there are any.
type Hub struct {
	ifc      Interface
	closing  chan struct{}
	running  sync.WaitGroup
	wantKeys atomic.Int32

	mu       sync.RWMutex
	sessions map[*session]bool
	closed   bool
}

// NewHub returns a Hub without an interface: captures are errors until SetInterface.
func NewHub() *Hub {
	return &Hub{closing: make(chan struct{}), sessions: make(map[*session]bool)}
}

// SetInterface names the interface. It is called once.
func (h *Hub) SetInterface(i Interface) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ifc = i
}

// Close ends all captures and waits a moment for what they have still to write.
func (h *Hub) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	close(h.closing)
	h.mu.Unlock()
	done := make(chan struct{})
	go func() {
		h.running.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(endTime):
	}
	return nil
}

// session is one capture.
type session struct {
	keys  bool
	queue chan item

	octets  atomic.Int64 // in queue
	seen    atomic.Uint64
	dropped atomic.Uint64
	lost    atomic.Uint64 // lines of keys
}

// item is a packet or a line of keys.
type item struct {
	at       time.Time
	outgoing bool
	segment  int
	partial  bool
	data     []byte
	keys     bool
}

// put queues an item unless there is too much already.
func (s *session) put(i item) bool {
	size := int64(len(i.data))
	if s.octets.Add(size) > maxQueued {
		s.octets.Add(-size)
		return false
	}
	select {
	case s.queue <- i:
		return true
	default:
		s.octets.Add(-size)
		return false
	}
}

func (h *Hub) see(t link.Tapped) {
	data := make([]byte, 0, t.Size())
	for _, p := range t.Parts {
		data = append(data, p...)
	}
	i := item{at: t.At, outgoing: t.Outgoing, segment: t.SegmentSize, partial: t.PartialChecksum, data: data}
	h.mu.RLock()
	defer h.mu.RUnlock()
	for s := range h.sessions {
		s.seen.Add(1)
		if !s.put(i) {
			s.dropped.Add(1)
		}
	}
}

// Log hands the keys of an entry to the captures that want them. The entry stays the caller's, to erase.
func (h *Hub) Log(e tcpinc.KeyLogEntry) {
	if h.wantKeys.Load() == 0 {
		return
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	for s := range h.sessions {
		if !s.keys {
			continue
		}
		// Each has a line of its own, and erases it.
		if line := keylog.AppendLine(nil, e); !s.put(item{data: line, keys: true}) {
			clear(line)
			s.lost.Add(1)
		}
	}
}

func (h *Hub) begin(keys bool) (*session, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed || h.ifc.SetTap == nil:
		return nil, ErrClosed
	case len(h.sessions) >= maxSessions:
		return nil, ErrTooMany
	}
	s := &session{keys: keys, queue: make(chan item, maxQueuedItems)}
	h.sessions[s] = true
	h.running.Add(1)
	if keys {
		h.wantKeys.Add(1)
	}
	if len(h.sessions) == 1 {
		h.ifc.SetTap(h.see)
	}
	return s, nil
}

// leave stops the flow into s; what is queued stays.
func (h *Hub) leave(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.sessions[s] {
		return
	}
	delete(h.sessions, s)
	if s.keys {
		h.wantKeys.Add(-1)
	}
	if len(h.sessions) == 0 {
		h.ifc.SetTap(nil)
	}
}

// Run writes a capture until ctx ends, the daemon does, or writing fails. flush is called when what was written should
// reach the reader. started is called once, before anything is written, when nothing passes unseen any more.
func (h *Hub) Run(ctx context.Context, w io.Writer, keys bool, started func(), flush func() error) error {
	s, err := h.begin(keys)
	if err != nil {
		return err
	}
	defer h.running.Done()
	defer s.erase()
	defer h.leave(s) // first, or keys that come behind it would stay
	started()
	out, err := newWriter(w, h.ifc, flush)
	if err != nil {
		return err
	}
	tick := time.NewTicker(flushInterval)
	defer tick.Stop()
	for {
		select {
		case i := <-s.queue:
			err = out.item(s, i)
		case <-tick.C:
			err = out.flush()
		case <-ctx.Done():
			return h.finish(s, out)
		case <-h.closing:
			return h.finish(s, out)
		}
		if err != nil {
			return err
		}
	}
}

// finish writes what is queued, and how much was lost.
func (h *Hub) finish(s *session, out *writer) error {
	h.leave(s)
	for {
		select {
		case i := <-s.queue:
			if err := out.item(s, i); err != nil {
				return err
			}
			continue
		default:
		}
		break
	}
	return out.end(s.seen.Load(), s.dropped.Load(), s.lost.Load())
}

// erase drops what was not written.
func (s *session) erase() {
	for {
		select {
		case i := <-s.queue:
			if i.keys {
				clear(i.data)
			}
		default:
			return
		}
	}
}

// writer writes one capture.
type writer struct {
	w       io.Writer
	ng      *pcapgo.NgWriter
	started time.Time
	push    func() error
	dirty   bool
}

func newWriter(w io.Writer, ifc Interface, flush func() error) (*writer, error) {
	out := &writer{w: w, started: time.Now(), push: flush, dirty: true}
	var err error
	out.ng, err = pcapgo.NewNgWriterInterface(w, pcapgo.NgInterface{
		Name:        ifc.Name,
		Description: "packets of innertun on " + ifc.Name,
		Comment: "As handed to the kernel or by it: a TCP super-packet stands for several segments on the wire, and a checksum " +
			"that is left to the interface covers the pseudo-header only. Such packets have a comment.",
		LinkType: layers.LinkTypeEthernet, SnapLength: snapLen,
	}, pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{OS: "Linux", Application: "innertun " + ifc.Version}})
	if err != nil {
		return nil, err
	}
	return out, out.flush()
}

func (o *writer) flush() error {
	if !o.dirty {
		return nil
	}
	o.dirty = false
	if err := o.ng.Flush(); err != nil {
		return err
	}
	return o.push()
}

func (o *writer) item(s *session, i item) error {
	defer s.octets.Add(-int64(len(i.data)))
	o.dirty = true
	if i.keys {
		defer clear(i.data)
		if err := o.ng.Flush(); err != nil {
			return err
		}
		block := appendKeysBlock(nil, i.data)
		defer clear(block)
		_, err := o.w.Write(block)
		return err
	}
	flags := &pcapgo.NgEpbFlags{Direction: pcapgo.NgEpbFlagDirectionInbound}
	if i.outgoing {
		flags.Direction = pcapgo.NgEpbFlagDirectionOutbound
	}
	return o.ng.WritePacketWithOptions(
		gopacket.CaptureInfo{Timestamp: i.at, CaptureLength: len(i.data), Length: len(i.data)}, i.data,
		pcapgo.NgPacketOptions{Flags: flags, Comments: i.comments()})
}

func (i item) comments() []string {
	switch {
	case i.segment > 0 && i.partial:
		return []string{fmt.Sprintf("TCP super-packet, segments of %d octets; checksum left to the interface", i.segment)}
	case i.segment > 0:
		return []string{fmt.Sprintf("TCP super-packet, segments of %d octets", i.segment)}
	case i.partial:
		return []string{"checksum left to the interface"}
	}
	return nil
}

func (o *writer) end(seen, dropped, lost uint64) error {
	now := time.Now()
	err := o.ng.WriteInterfaceStats(0, pcapgo.NgInterfaceStatistics{
		LastUpdate: now, StartTime: o.started, EndTime: now, PacketsReceived: seen, PacketsDropped: dropped,
	})
	if err != nil {
		return err
	}
	if err := o.ng.Flush(); err != nil {
		return err
	}
	if lost > 0 { // an empty line of keys says that there were more
		line := fmt.Appendf(nil, "# %d lines of keys were lost: the capture could not be written fast enough\n", lost)
		if _, err := o.w.Write(appendKeysBlock(nil, line)); err != nil {
			return err
		}
	}
	return o.push()
}

// appendKeysBlock appends a block with lines of keys: their length in octets (4), and they themselves.
func appendKeysBlock(dst, lines []byte) []byte {
	padded := (len(lines) + blockAlign - 1) / blockAlign * blockAlign
	size := uint32(blockOverhead + 4 + padded)
	dst = binary.LittleEndian.AppendUint32(dst, keysBlock)
	dst = binary.LittleEndian.AppendUint32(dst, size)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(lines)))
	dst = append(dst, lines...)
	dst = append(dst, make([]byte, padded-len(lines))...)
	return binary.LittleEndian.AppendUint32(dst, size)
}

// parseKeysBlock is the reverse, for the body of a block, without its type and lengths.
func parseKeysBlock(body []byte) ([]byte, error) {
	if len(body) < 4 || uint64(binary.LittleEndian.Uint32(body)) > uint64(len(body)-4) {
		return nil, errors.New("a block of keys is shorter than it says")
	}
	lines := body[4:][:binary.LittleEndian.Uint32(body)]
	if !bytes.HasSuffix(lines, []byte("\n")) {
		return nil, errors.New("a block of keys does not end with a line end")
	}
	return lines, nil
}
