package seam

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"innertun/integration/lab"
	"innertun/stack"
	"innertun/stack/link"
	"innertun/tcpinc"
)

// world is a client, a path, and servers that share one address: each client port leads to one of them for good, the first
// to the first, the next to the next.
type world struct {
	client   *stack.Stack
	to       netip.AddrPort
	tap      *lab.Tap // at the client
	servers  []*counted
	dialer   *tcpinc.Dialer
	mu       sync.Mutex
	backends map[uint16]int
}

// counted is one server with what its application has been given.
type counted struct {
	stack *stack.Stack
	mu    sync.Mutex
	conns int
	got   bytes.Buffer
}

func (s *counted) count() (conns, octets int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns, s.got.Len()
}

// answer echoes, and keeps what comes.
func (s *counted) answer(accept func() (net.Conn, error)) {
	for {
		c, err := accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns++
		s.mu.Unlock()
		go func() {
			defer c.Close()
			buf := make([]byte, 64<<10)
			for {
				n, err := c.Read(buf)
				s.mu.Lock()
				s.got.Write(buf[:n])
				s.mu.Unlock()
				if n > 0 {
					c.Write(buf[:n])
				}
				if err != nil {
					return
				}
			}
		}()
	}
}

// kind is a sort of server.
type kind int

const (
	upgradedServer kind = iota
	tcpcryptServer      // no Inner Space
	legacyServer        // a netstack that knows nothing
)

func newWorld(t *testing.T, mode tcpinc.InnerSpaceMode, v6 bool, kinds []kind, elements ...lab.Element) *world {
	t.Helper()
	return newWorldFrom(t, nil, mode, v6, kinds, elements...)
}

// newWorldFrom is newWorld with a client that dials from these ports, nil: any.
func newWorldFrom(t *testing.T, ports []uint16, mode tcpinc.InnerSpaceMode, v6 bool, kinds []kind, elements ...lab.Element) *world {
	t.Helper()
	w := &world{tap: new(lab.Tap), backends: make(map[uint16]int), to: service}
	from := clientAddr
	if v6 {
		from, w.to = netip.MustParseAddr("fd00::1"), netip.AddrPortFrom(netip.MustParseAddr("fd00::2"), 80)
	}
	path := lab.NewPath(pathTime(clock), append([]lab.Element{w.tap}, elements...)...)
	t.Cleanup(path.Close)
	host := func(l *link.Wire, addr netip.Addr) *stack.Stack {
		s, err := stack.New(stack.Config{
			Clock: clock.Clock,
			Link:  l, Addresses: []netip.Prefix{netip.PrefixFrom(addr, addr.BitLen())},
			Routes: []stack.Route{{Prefix: netip.MustParsePrefix("0.0.0.0/0")}, {Prefix: netip.MustParsePrefix("::/0")}},
			Ports:  ports,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	near := link.NewWire(1500, path.From(lab.A))
	var far []func([]byte)
	for _, k := range kinds {
		wire := link.NewWire(1500, path.From(lab.B))
		s := &counted{stack: host(wire, w.to.Addr())}
		far, w.servers = append(far, wire.Inject), append(w.servers, s)
		s.listen(t, w.to, k)
	}
	path.Connect(near.Inject, func(pkt []byte) {
		s, ok := lab.ParseSegment(pkt)
		if !ok {
			return
		}
		port := clientPort(lab.Packet{To: lab.B}, s)
		w.mu.Lock()
		i, known := w.backends[port]
		if !known {
			i = len(w.backends) % len(far)
			w.backends[port] = i
		}
		w.mu.Unlock()
		far[i](pkt)
	})
	w.client = host(near, from)
	w.dialer = &tcpinc.Dialer{Connect: Connect(w.client), Paths: new(tcpinc.PathMemory), Config: tcpinc.Config{Clock: clock, InnerSpace: mode}}
	return w
}

// clientPort is the client's port of a segment.
func clientPort(p lab.Packet, s lab.Segment) uint16 {
	if p.To == lab.A {
		return binary.BigEndian.Uint16(s.TCP[2:])
	}
	return binary.BigEndian.Uint16(s.TCP)
}

func (s *counted) listen(t *testing.T, at netip.AddrPort, k kind) {
	t.Helper()
	var accept func() (net.Conn, error)
	var l net.Listener
	var err error
	switch k {
	case legacyServer:
		l, err = s.stack.Listen(at, nil)
	case tcpcryptServer:
		l, err = listener(s.stack, at, tcpinc.ListenConfig{})
	default:
		l, err = listener(s.stack, at, innerServer)
	}
	if err != nil {
		t.Fatal(err)
	}
	accept = l.Accept
	go s.answer(accept)
	t.Cleanup(func() { l.Close() })
}

var errOctets = errors.New("other octets came back")

// talk sends octets there and back on one connection.
func (w *world) talk(t *testing.T, policy tcpinc.Policy) (s tcpinc.ConnectionState, took time.Duration, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	defer cancel()
	start := clock.Now()
	c, err := w.dialer.Dial(ctx, netip.Addr{}, w.to, tcpinc.DialOptions{Policy: policy})
	took = since(start)
	if err != nil {
		return s, took, err
	}
	defer c.Close()
	sent := bytes.Repeat([]byte("what the application says "), 1000)
	go func() {
		c.Write(sent)
		c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err == nil && !bytes.Equal(got, sent) {
		err = fmt.Errorf("%w: %d of %d", errOctets, len(got), len(sent))
	}
	return c.ConnectionState(), took, err
}

// attempt is what the client's side of the path has seen of one source port.
type attempt struct {
	syn, synU, synAck, synAckU int
	eno                        bool // in the header of the SYN
	goesOn                     int  // segments of the client's with ACK and without RST: the handshake is complete
	resets                     int  // of the client's
	octets                     int  // of the client's, without those of SYNs
	resetFirst                 bool // the client reset it and had not gone on
}

func (a attempt) String() string { return fmt.Sprintf("%+v", struct{ attempt }{a}) }

// attempts looks at all that has passed since the last call, by source port in the order of their SYNs.
func (w *world) attempts(t *testing.T) []attempt {
	t.Helper()
	index := make(map[uint16]int)
	var all []attempt
	for _, p := range w.tap.Packets() {
		s, ok := lab.ParseSegment(p.Data)
		if !ok {
			continue
		}
		port := clientPort(lab.Packet{To: p.To}, s)
		i, known := index[port]
		if !known {
			i = len(all)
			index[port], all = i, append(all, attempt{})
		}
		a := &all[i]
		u := upgradedData(s.Payload())
		switch f := s.Flags(); {
		case f&(lab.SYN|lab.ACK) == lab.SYN && u:
			a.synU++
			a.eno = a.eno || s.HasOption(69)
		case f&(lab.SYN|lab.ACK) == lab.SYN:
			a.syn++
			a.eno = a.eno || s.HasOption(69)
		case f&lab.SYN != 0 && u:
			a.synAckU++
		case f&lab.SYN != 0:
			a.synAck++
		case p.To == lab.A:
		case f&lab.RST != 0:
			a.resets++
			a.resetFirst = a.resetFirst || a.goesOn == 0
		default:
			a.goesOn++
			a.octets += len(s.Payload())
		}
	}
	return all
}

// checkAttempts holds an attempt at two connections against what must hold of all: one goes on at most, the other has completed
// nothing and carries nothing, and no SYN-U has ENO in its header.
func checkAttempts(t *testing.T, all []attempt) {
	t.Helper()
	on := 0
	for _, a := range all {
		if a.goesOn > 0 {
			on++
		}
		if a.synU > 0 && (a.eno || a.syn > 0) {
			t.Errorf("SYN-U and ENO in the header, or an ordinary SYN, from one port: %v", a)
		}
		if a.goesOn == 0 && (a.octets > 0 || (a.synAck+a.synAckU > 0 && !a.resetFirst)) {
			t.Errorf("a connection that was not kept: %v", a)
		}
		if a.synU > 0 && a.synAckU == 0 && a.goesOn > 0 {
			t.Errorf("an upgraded connection goes on that was answered as an ordinary one: %v", a)
		}
	}
	if on > 1 {
		t.Errorf("%d connections are complete: %v", on, all)
	}
}

// upgradedData tells the data of a SYN-U or SYN-ACK-U by what docs/inner-space.md has, without the codec.
func upgradedData(b []byte) bool {
	if len(b) < 12 {
		return false
	}
	payload, options := int(b[4])<<8|int(b[5]), (int(b[6])<<8|int(b[7]))&^3
	return string(b[:4]) == "\x1e\x5a\x9c\x71" && string(b[8:10]) == "\xc3\xa7" && b[7]&3 == 2 && len(b) == 12+options+payload
}

// newest leaves out what was there before.
func newest(all []attempt, before int) []attempt { return slices.Clone(all[min(before, len(all)):]) }
