package lab

import (
	"slices"
	"sync"
	"time"
)

// Captured is one packet that passed a tap.
type Captured struct {
	At   time.Time
	To   End
	Data []byte
}

// Tap keeps a copy of every packet that passes it. The zero value keeps all; it may be asked from any goroutine.
type Tap struct {
	mu      sync.Mutex
	stopped bool
	packets []Captured
}

// Packet implements Element.
func (t *Tap) Packet(p Packet, at Place) {
	t.mu.Lock()
	if !t.stopped {
		t.packets = append(t.packets, Captured{At: at.Now(), To: p.To, Data: slices.Clone(p.Data)})
	}
	t.mu.Unlock()
	at.Send(p)
}

// Packets returns what has passed so far, in the order of passing. The packets are not to be changed.
func (t *Tap) Packets() []Captured {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.packets)
}

// Stop ends the capture and forgets it; packets go on passing.
func (t *Tap) Stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped, t.packets = true, nil
}
