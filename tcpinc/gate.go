package tcpinc

import "sync"

// gate keeps connections that are being opened from completing: their SYN-ACKs have come, and it is yet to be decided which
// one goes on. The others are reset before their handshakes are complete, so that no application at the peer sees them.
type gate struct {
	answered chan struct{} // closed when the first SYN-ACK has come
	passage  chan struct{} // closed when whoever waits may go on
	first    sync.Once
	pass     sync.Once
}

func newGate() *gate {
	return &gate{answered: make(chan struct{}), passage: make(chan struct{})}
}

func (g *gate) answer() {
	if g != nil {
		g.first.Do(func() { close(g.answered) })
	}
}

func (g *gate) open() { g.pass.Do(func() { close(g.passage) }) }

func (g *gate) isAnswered() bool {
	select {
	case <-g.answered:
		return true
	default:
		return false
	}
}
