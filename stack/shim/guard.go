package shim

import (
	"math"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	tcpipstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Guard makes h, a Guard, judge the RSTs of a connection that was accepted without a Handshake, before anything is sent on it.
// irs is the sequence number of the peer's SYN. h is asked for the payload that its SYN-ACK had.
func (s *Shim) Guard(f Flow, h Handshake, irs uint32) *Entry {
	e := newEntry(f, h, false, s.clock.NowMonotonic())
	e.restored = true
	e.received = [NonSYN + 1]bool{SYN: true, NonSYN: true}
	e.irs = seqnum.Value(irs)
	e.sent = len(h.AppendPayload(nil, SYNACK, math.MaxUint16))
	s.table.restore(e)
	return e
}

// locate learns from the first segment that leaves where the own sequence numbers begin.
func (e *Entry) locate(t header.TCP) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.issKnown {
		e.setISS(seqnum.Value(t.SequenceNumber() - 1))
	}
}

// restore puts in an entry for an open connection. There are as many as there are connections: no bound applies.
func (t *table) restore(e *Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.entries[e.flow]; old != nil {
		t.removeLocked(old)
	}
	t.insertLocked(e)
	if !t.closed {
		t.guardLocked(e)
	}
}

// holdLocked keeps the last segment a Guard wants held. The caller holds e.mu.
func (e *Entry) holdLocked(r received) {
	if e.held != nil {
		e.held.DecRef()
	}
	e.held = r.pkt.Clone()
	e.held.NetworkProtocolNumber = r.proto
}

// offset is the place of seq in the peer's sequence space, its SYN at 0; 0 while that is not known.
func (e *Entry) offset(seq uint32) uint32 {
	if !e.received[SYN] && !e.received[SYNACK] {
		return 0
	}
	return seq - uint32(e.irs)
}

// ownOffset is the place of seq in the own sequence space, its SYN at 0; 0 while that is not known.
func (e *Entry) ownOffset(seq uint32) uint32 {
	if !e.issKnown {
		return 0
	}
	if e.declined {
		return seq - uint32(e.iss)
	}
	return seq - uint32(e.iss) + uint32(e.sent)
}

// sign puts the Signer's options into an outgoing RST.
func (e *Entry) sign(pkt *tcpipstack.PacketBuffer, f Flow) (*tcpipstack.PacketBuffer, outcome) {
	t := header.TCP(pkt.TransportHeader().Slice())
	seg := Header{
		Flow: f, Seq: t.SequenceNumber(), Ack: t.AckNumber(), Flags: uint8(t.Flags()), Window: t.WindowSize(),
		Options: t[header.TCPMinimumSize:], PayloadLen: pkt.Data().Size(),
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	seg.Offset = e.ownOffset(seg.Seq)
	var room [header.TCPHeaderMaximumSize]byte
	h := append(room[:0], t...)
	h = e.signer.AppendResetOptions(h, seg, header.TCPHeaderMaximumSize-len(h))
	if len(h) == len(t) {
		return nil, pass
	}
	return rebuild(pkt, padOptions(h), nil), replace
}

func (e *Entry) takeHeld() *tcpipstack.PacketBuffer {
	e.mu.Lock()
	defer e.mu.Unlock()
	pkt := e.held
	e.held = nil
	return pkt
}

func (e *Entry) dropHeld() {
	if pkt := e.takeHeld(); pkt != nil {
		pkt.DecRef()
	}
}

// Deliver passes on the segment that the Guard of e had held, if there is one.
func (s *Shim) Deliver(e *Entry) bool {
	pkt := e.takeHeld()
	if pkt == nil {
		return false
	}
	s.Counters.TakenRSTs.Add(1)
	s.Endpoint.DeliverNetworkPacket(pkt.NetworkProtocolNumber, pkt)
	pkt.DecRef()
	return true
}

// muted names flows whose RSTs do not leave: those of connections that end in silence.
type muted struct {
	n     atomic.Int32
	flows sync.Map
}

func (m *muted) any() bool { return m.n.Load() != 0 }

func (m *muted) has(f Flow) bool {
	_, ok := m.flows.Load(f)
	return ok
}

// Mute keeps RSTs of a flow from leaving while do runs.
func (s *Shim) Mute(f Flow, do func()) {
	s.muted.flows.Store(f, nil)
	s.muted.n.Add(1)
	do()
	s.muted.n.Add(-1)
	s.muted.flows.Delete(f)
}
