package tcpinc

import (
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"innertun/tcpinc/tcpcrypt"
)

// ResetMode says what a RST means to an encrypted connection. To a plain one, to one whose keys are not ready, and to one of
// which either stream has ended, it means what it means to TCP.
type ResetMode uint8

const (
	// VerifyResets holds a RST, and asks the peer by a rekey whether it is there. If it answers, the RST came from
	// somebody else.
	VerifyResets ResetMode = iota
	// AcceptResets leaves RSTs to TCP.
	AcceptResets
	// AuthenticateResets is VerifyResets, and has the RSTs of both ends signed if both are for it: such a one needs no
	// asking.
	AuthenticateResets
)

var resetModeNames = [...]string{"verify", "accept", "authenticate"}

func (m ResetMode) String() string {
	if int(m) < len(resetModeNames) {
		return resetModeNames[m]
	}
	return fmt.Sprintf("reset mode %d", uint8(m))
}

// ParseResetMode returns the mode that String would write as name.
func ParseResetMode(name string) (ResetMode, error) {
	for m, n := range resetModeNames {
		if n == name {
			return ResetMode(m), nil
		}
	}
	return 0, fmt.Errorf("unknown reset mode %q (known: accept, verify, authenticate)", name)
}

// Header is what a stack tells of a segment that could kill a connection.
type Header struct {
	Seq     uint32
	Offset  uint32 // Seq less the initial sequence number of its sender; 0: that is not known
	Flags   uint8  // RFC 9293, Section 3.1
	Options []byte
}

// Verdict is what a stack is to do with such a segment.
type Verdict uint8

const (
	Deliver Verdict = iota // take it as TCP does
	Hold                   // keep it, in place of one held before, for the transport's method DeliverHeld
	Drop                   // forget it
)

// holder is the optional part of a Transport that delivers a RST which was held. Without it the connection is aborted.
type holder interface{ DeliverHeld() bool }

// timer is the optional part of a Transport that tells TCP's retransmission timeout. RFC 6298.
type timer interface{ RTO() time.Duration }

const (
	minResetWait = time.Second // for the peer's answer, unless it is more: 4 RTO
	resetRTOs    = 4

	// After a RST was refused the next one is not looked into before a pause, which doubles each time up to a limit; after a
	// while without RSTs all begins anew.
	firstResetPause = time.Second
	maxResetPause   = 30 * time.Second
	resetPeace      = 2 * time.Minute

	// maxAhead is more than any window (RFC 7323, Section 2.3): a RST further ahead is none of TCP's.
	maxAhead = 1 << 30
)

// resetGuard judges the RSTs of one encrypted connection. One question is under way at a time:
//
//	        RST                   pause over                      no answer: held RST delivered
//	quiet -------> waiting ---------------------> asking ------------------------------------> quiet
//	                                                \------- answer, or data: RST refused ---> quiet
type resetGuard struct {
	crypt  *tcpcrypt.Conn
	lower  Transport
	mode   ResetMode
	clock  Clock
	log    *slog.Logger
	remote net.Addr

	peerSigns atomic.Bool
	signed    atomic.Bool // a RST with the right MAC has come, or a farewell: the peer is gone, and TCP may do what it does
	refused   atomic.Uint64

	mu     sync.Mutex
	state  resetState
	held   uint64 // RSTs since the state was quiet
	beyond uint64 // the place in the peer's stream that the last of them names
	ended  time.Time
	pause  time.Duration
	told   [2]bool // what was logged: taken, refused
}

type resetState uint8

const (
	resetQuiet resetState = iota
	resetWaiting
	resetAsking
)

// guardResets makes h judge the RSTs of an encrypted connection. nil: TCP does.
func (cfg Config) guardResets(h *Handshake, t Transport, crypt *tcpcrypt.Conn) *resetGuard {
	if h == nil || cfg.RST == AcceptResets {
		return nil
	}
	g := &resetGuard{crypt: crypt, lower: t, mode: cfg.RST, clock: cfg.Clock, log: cfg.Logger, remote: t.RemoteAddr()}
	h.resets.Store(g)
	return g
}

// Incoming judges a RST.
func (h *Handshake) Incoming(seg Header) Verdict {
	if g := h.resets.Load(); g != nil {
		return g.incoming(seg)
	}
	return Deliver
}

// standDown leaves further RSTs to TCP: the connection is at its end, as both hosts know. A nil guard does so anyway.
func (g *resetGuard) standDown() {
	if g != nil {
		g.signed.Store(true)
	}
}

// SetPeerAuthenticates says whether the peer has announced that it signs its RSTs and verifies this host's.
func (g *resetGuard) SetPeerAuthenticates(on bool) { g.peerSigns.Store(on) }

func (g *resetGuard) incoming(seg Header) Verdict {
	switch {
	case !g.crypt.Open(), g.signed.Load():
		return Deliver
	case g.authentic(seg):
		g.signed.Store(true)
		return Deliver
	}
	beyond := g.crypt.ReceivedOctets()
	if seg.Offset != 0 {
		ahead := seg.Offset - 1 - uint32(beyond)
		if ahead > maxAhead {
			return Deliver // of the past, or of no window: nothing to TCP
		}
		beyond += uint64(ahead)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held++
	if g.state == resetAsking {
		return Hold
	}
	g.beyond = beyond
	if g.state == resetQuiet {
		g.state = resetWaiting
		g.clock.AfterFunc(g.pauseLeft(), g.ask)
	}
	return Hold
}

// pauseLeft is how long the next question has to wait.
func (g *resetGuard) pauseLeft() time.Duration {
	since := g.clock.Now().Sub(g.ended)
	if since >= resetPeace {
		g.pause = 0
	}
	return max(g.pause-since, 0)
}

// ask begins to find out whether the peer is there.
func (g *resetGuard) ask() {
	wait := time.Duration(0)
	if t, ok := g.lower.(timer); ok {
		wait = resetRTOs * t.RTO()
	}
	wait = min(max(wait, minResetWait), tcpcrypt.MaxProbe)
	g.mu.Lock()
	g.state = resetAsking
	beyond := g.beyond
	g.mu.Unlock()
	if g.crypt.ReceivedOctets() > beyond {
		g.answered(true)
		return
	}
	if err := g.crypt.Probe(tcpcrypt.Probe{Beyond: beyond, Limit: wait, Done: g.answered}); err != nil {
		// A stream has ended meanwhile, and the peer cannot be asked. What is under way may still refute the RST.
		g.clock.AfterFunc(wait, func() { g.answered(g.crypt.ReceivedOctets() > beyond) })
	}
}

// answered ends a question.
func (g *resetGuard) answered(alive bool) {
	g.mu.Lock()
	n := g.held
	g.state, g.held, g.ended = resetQuiet, 0, g.clock.Now()
	if alive {
		g.refused.Add(n)
		g.pause = min(max(2*g.pause, firstResetPause), maxResetPause)
	}
	kind := 0
	if alive {
		kind = 1
	}
	first := !g.told[kind]
	g.told[kind] = true
	g.mu.Unlock()
	if alive {
		if first {
			g.log.Warn("reset refused: it did not come from the peer, which is alive", slog.Any("remote", g.remote), slog.Uint64("resets", n))
		}
		return
	}
	if first && g.crypt.Open() {
		g.log.Info("reset taken: the peer does not answer", slog.Any("remote", g.remote))
	}
	if d, ok := g.lower.(holder); ok {
		d.DeliverHeld()
	} else {
		g.lower.Abort()
	}
}
