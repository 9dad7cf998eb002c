package shim

import (
	"sync"
	"sync/atomic"

	tcpipstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// holdLocked keeps the last segment a Guard wants held. The caller holds e.mu.
func (e *Entry) holdLocked(r received) {
	if e.held != nil {
		e.held.DecRef()
	}
	e.held = r.pkt.Clone()
	e.held.NetworkProtocolNumber = r.proto
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
