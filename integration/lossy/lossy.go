// Package lossy carries Ethernet frames from one interface to another and loses, reorders and repeats some of them.
// It stands in for netem. Its decisions come from a seed: the same frames in the same order meet the same fate.
//
//	left  ---> decide(frame 1, 2, 3 ...) ---> right
//	left  <--- decide(frame 1, 2, 3 ...) <--- right
//
// The interfaces must hand over whole packets with whole checksums: offloads must be off on both ends of the links.
package lossy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Config says what happens to frames. Only IP packets are lost, held or repeated; ARP always passes.
type Config struct {
	Seed      uint64
	Loss      float64       // probability that a packet is dropped
	Reorder   float64       // probability that a packet is held back
	Duplicate float64       // probability that a packet is sent twice
	HoldFor   int           // a held packet leaves after this many later ones; 0: 3
	HoldTime  time.Duration // or after this time, whichever comes first; 0: 3 ms
	// OpeningLosses is how many of a TCP connection's first packets are lost at most, of both ways together; 0: any number.
	// Where chance takes more of them, whoever waits for an answer rightly takes it for a path that does not work.
	OpeningLosses int
}

// Stats counts the packets of both directions.
type Stats struct{ Passed, Lost, Reordered, Duplicated, Oversized int }

// Bridge is a running path. Its methods are safe for concurrent use.
type Bridge struct {
	cfg        Config
	mu         sync.Mutex
	stats      Stats
	stop       chan struct{}
	wg         sync.WaitGroup
	fds        [2]int
	firstError error
}

// Open starts a bridge between two interfaces of the calling thread's network namespace.
func Open(left, right string, cfg Config) (*Bridge, error) {
	if cfg.HoldFor == 0 {
		cfg.HoldFor = 3
	}
	if cfg.HoldTime == 0 {
		cfg.HoldTime = 3 * time.Millisecond
	}
	b := &Bridge{cfg: cfg, stop: make(chan struct{})}
	l, err := openPacket(left)
	if err != nil {
		return nil, err
	}
	r, err := openPacket(right)
	if err != nil {
		unix.Close(l)
		return nil, err
	}
	b.fds = [2]int{l, r}
	there, back := newFate(cfg, 1), newFate(cfg, 2)
	back.openings = there.openings
	b.wg.Go(func() { b.carry(l, r, there) })
	b.wg.Go(func() { b.carry(r, l, back) })
	return b, nil
}

// Stats returns the counts so far.
func (b *Bridge) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stats
}

// Close ends the bridge and returns the first error it met.
func (b *Bridge) Close() error {
	close(b.stop)
	b.wg.Wait()
	for _, fd := range b.fds {
		unix.Close(fd)
	}
	return b.firstError
}

func openPacket(name string) (int, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return -1, fmt.Errorf("lossy: interface %s: %w", name, err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("lossy: socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 32<<20),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian16(unix.ETH_P_ALL), Ifindex: i.Index}),
	)
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("lossy: %s: %w", name, err)
	}
	return fd, nil
}

func bigEndian16(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

func (b *Bridge) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.firstError == nil {
		b.firstError = err
	}
}

func (b *Bridge) carry(from, to int, f *fate) {
	buf := make([]byte, 65600)
	for {
		select {
		case <-b.stop:
			return
		default:
		}
		// Wait no longer than a held packet may.
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(from), Events: unix.POLLIN}}, f.patience())
		if err != nil && !errors.Is(err, unix.EINTR) {
			b.fail(fmt.Errorf("lossy: poll: %w", err))
			return
		}
		for {
			n, _, err := unix.Recvfrom(from, buf, unix.MSG_DONTWAIT)
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
				break
			}
			if err != nil {
				b.fail(fmt.Errorf("lossy: receive: %w", err))
				return
			}
			b.send(to, f.judge(buf[:n], time.Now()))
		}
		b.send(to, f.due(time.Now()))
		b.mu.Lock()
		b.stats = b.stats.add(f.takeStats())
		b.mu.Unlock()
	}
}

func (b *Bridge) send(to int, frames [][]byte) {
	for _, frame := range frames {
		_, err := unix.Write(to, frame)
		switch {
		case errors.Is(err, unix.EMSGSIZE): // an offload was left on
			b.mu.Lock()
			b.stats.Oversized++
			b.mu.Unlock()
		case errors.Is(err, unix.ENOBUFS): // a full queue is one more loss
		case err != nil:
			b.fail(fmt.Errorf("lossy: send: %w", err))
		}
	}
}

func (s Stats) add(o Stats) Stats {
	return Stats{s.Passed + o.Passed, s.Lost + o.Lost, s.Reordered + o.Reordered, s.Duplicated + o.Duplicated,
		s.Oversized + o.Oversized}
}

// fate decides what happens to the frames of one direction. It is pure but for the clock it is given.
type fate struct {
	cfg      Config
	rand     *rand.Rand
	openings *openings // of both directions
	held     []heldFrame
	stats    Stats
}

type heldFrame struct {
	frame []byte
	after int // frames that must still pass
	until time.Time
}

func newFate(cfg Config, stream uint64) *fate {
	return &fate{cfg: cfg, rand: rand.New(rand.NewPCG(cfg.Seed, stream)), openings: newOpenings(cfg.OpeningLosses)}
}

// judge returns the frames to send now that this one has come. They may alias frame.
func (f *fate) judge(frame []byte, now time.Time) (out [][]byte) {
	if len(frame) < 14 || !isIP(binary.BigEndian.Uint16(frame[12:])) {
		return [][]byte{frame}
	}
	// Three draws for each packet, so that one decision does not shift the others.
	lose, hold, repeat := f.rand.Float64(), f.rand.Float64(), f.rand.Float64()
	spared := f.openings.spare(frame, lose < f.cfg.Loss)
	switch {
	case lose < f.cfg.Loss && !spared:
		f.stats.Lost++
	case hold < f.cfg.Reorder:
		f.stats.Reordered++
		f.held = append(f.held, heldFrame{append([]byte(nil), frame...), f.cfg.HoldFor, now.Add(f.cfg.HoldTime)})
		return nil
	default:
		f.stats.Passed++
		out = append(out, frame)
		if repeat < f.cfg.Duplicate {
			f.stats.Duplicated++
			out = append(out, frame)
		}
	}
	for i := range f.held {
		f.held[i].after--
	}
	return append(out, f.due(now)...)
}

// due returns the held frames whose time has come.
func (f *fate) due(now time.Time) (out [][]byte) {
	rest := f.held[:0]
	for _, h := range f.held {
		if h.after <= 0 || !now.Before(h.until) {
			out = append(out, h.frame)
			f.stats.Passed++
		} else {
			rest = append(rest, h)
		}
	}
	f.held = rest
	return out
}

// patience is how long to wait for the next frame, in milliseconds.
func (f *fate) patience() int {
	if len(f.held) > 0 {
		return 1
	}
	return 50
}

func (f *fate) takeStats() Stats {
	s := f.stats
	f.stats = Stats{}
	return s
}

func isIP(etherType uint16) bool { return etherType == 0x0800 || etherType == 0x86dd }
