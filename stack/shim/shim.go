package shim

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/nested"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	tcpipstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Host is the netstack above, as far as the shim asks it. The methods are called without locks of the shim's.
type Host interface {
	// Connected tells whether the netstack has an open connection of this name, TIME-WAIT included.
	Connected(Flow) bool
	// Arrives is told of an incoming SYN before the netstack sees it.
	Arrives(Flow)
	// Renew ends a connection in TIME-WAIT, in silence: its name has a new one.
	Renew(Flow)
	// Abort ends the netstack's connection, open or half-open.
	Abort(Flow)
	// Unreachable is told of an ICMPv6 message about a flow that the netstack does not understand.
	Unreachable(Flow, syscall.Errno)
	// Reset sends a RST to the remote end of a flow. It is called by the shim's own goroutine.
	Reset(f Flow, seq, ack uint32, flags uint8)
	// Timeouts counts how often the retransmission timer of a connection has expired.
	Timeouts(Flow) uint64
	// Narrow makes the packets of a connection no larger than mtu octets. It and Timeouts are called by the shim's own goroutine.
	Narrow(f Flow, mtu int)
}

// Config is what a Shim is made of.
type Config struct {
	Lower    tcpipstack.LinkEndpoint
	Host     Host
	Clock    tcpip.Clock
	MaxFlows int // handshakes in progress
	// MaxUpgraded bounds, of these, the half-open ones whose SYN had payload and which a Handshake can do without; 0: MaxFlows.
	// Who answers such a SYN may have much to compute for it.
	MaxUpgraded int
	Timeouts    *tcpip.StatCounter // the netstack's retransmission timers that have expired
}

// Counters count what the shim did since its start.
type Counters struct {
	Fragments   atomic.Uint64 // incoming fragments dropped
	BadSums     atomic.Uint64 // handshake segments with a bad checksum, dropped
	Unknown     atomic.Uint64 // segments with ENO of no known connection, reset
	Refused     atomic.Uint64 // connections that a Handshake refused
	NoRoom      atomic.Uint64 // SYNs that found the table full, and were answered without a Handshake
	Fleeting    atomic.Uint64 // SYNs that found the table full, and were answered by a Handshake that was not kept
	LostOwn     atomic.Uint64 // own segments not sent because too many were waiting
	HeldRSTs    atomic.Uint64 // RSTs held by a Guard
	DroppedRSTs atomic.Uint64 // RSTs dropped by a Guard
	TakenRSTs   atomic.Uint64 // RSTs that were held and then delivered
}

// Shim is a link endpoint around another.
type Shim struct {
	nested.Endpoint
	lower    tcpipstack.LinkEndpoint
	host     Host
	clock    tcpip.Clock
	table    *table
	worker   worker
	gates    sync.WaitGroup // goroutines that hold a SYN-ACK
	past     past
	holes    holes
	muted    muted
	Counters Counters
}

var (
	_ tcpipstack.LinkEndpoint      = (*Shim)(nil)
	_ tcpipstack.GSOEndpoint       = (*Shim)(nil)
	_ tcpipstack.NetworkDispatcher = (*Shim)(nil)
)

// New puts a shim on a link. Stop ends its goroutine.
func New(cfg Config) *Shim {
	s := &Shim{lower: cfg.Lower, host: cfg.Host, clock: cfg.Clock, table: newTable(cfg.Clock, cfg.MaxFlows, cfg.MaxUpgraded)}
	s.table.unclaimed = s.worker.abort
	s.holes.timeouts = cfg.Timeouts
	s.Init(cfg.Lower, s)
	s.worker.start(s)
	return s
}

// Stop ends what the shim does on its own and forgets all connections.
func (s *Shim) Stop() {
	s.table.close()
	s.gates.Wait()
	s.worker.stop()
}

// Register makes h take part in the connection f that is about to be opened.
func (s *Shim) Register(f Flow, h Handshake) (*Entry, error) {
	e := newEntry(f, h, true, s.clock.NowMonotonic())
	if err := s.table.add(e); err != nil {
		return nil, err
	}
	return e, nil
}

// Listen makes newHandshake answer the SYNs that come to at; the unspecified address stands for all of its family.
func (s *Shim) Listen(at netip.AddrPort, newHandshake func(Flow) Handshake) {
	s.table.listen(at, newHandshake)
}

// Unlisten ends that.
func (s *Shim) Unlisten(at netip.AddrPort) { s.table.listen(at, nil) }

// Claim returns the entry of a connection that is being accepted, nil if it is a plain one.
func (s *Shim) Claim(f Flow) *Entry { return s.table.claim(f) }

// Forget removes an entry: its connection did not come about.
func (s *Shim) Forget(e *Entry) { s.table.remove(e) }

// Release is for the end of a connection.
func (s *Shim) Release(e *Entry) {
	if !e.active {
		e.mu.Lock()
		syn, ok := pastSYN{seq: e.irs, ts: e.ts}, e.hasTS
		e.mu.Unlock()
		if now := s.clock.NowMonotonic(); ok {
			syn.expires = now.Add(pastTime)
			s.past.add(e.flow, syn, now)
		}
	}
	s.table.release(e)
}

// Flows returns the number of handshakes in progress, and of those that other hosts began and have not completed.
func (s *Shim) Flows() (all, halfOpen int) { return s.table.count() }

// WritePackets implements stack.LinkEndpoint.
func (s *Shim) WritePackets(pkts tcpipstack.PacketBufferList) (int, tcpip.Error) {
	if s.holes.stirring() {
		s.look(pkts)
	}
	if s.table.size.Load() == 0 && s.table.signers.Load() == 0 && !s.muted.any() {
		return s.lower.WritePackets(pkts)
	}
	list := pkts.AsSlice()
	for i, pkt := range list {
		if s.concernsOut(pkt) {
			return s.writeSlowly(list, i)
		}
	}
	return s.lower.WritePackets(pkts)
}

// concernsOut tells whether a packet may have to be changed.
func (s *Shim) concernsOut(pkt *tcpipstack.PacketBuffer) bool {
	if pkt.TransportProtocolNumber != header.TCPProtocolNumber {
		return false
	}
	t := header.TCP(pkt.TransportHeader().Slice())
	if len(t) < header.TCPMinimumSize {
		return false
	}
	return s.table.mayHave(t.SourcePort(), t.DestinationPort()) ||
		t.Flags()&header.TCPFlagSyn != 0 ||
		t.Flags()&header.TCPFlagRst != 0 && (s.muted.any() || s.table.signers.Load() != 0)
}

// writeSlowly writes packets of which those from first on may have to be changed. To the netstack, all are written.
func (s *Shim) writeSlowly(list []*tcpipstack.PacketBuffer, first int) (int, tcpip.Error) {
	var out tcpipstack.PacketBufferList
	var own []*tcpipstack.PacketBuffer
	var open []*Entry
	for i, pkt := range list {
		if i < first || !s.concernsOut(pkt) {
			out.PushBack(pkt)
			continue
		}
		changed, o, early := s.outgoing(pkt)
		if early != nil {
			open = append(open, early)
		}
		switch o {
		case swallow:
		case replace:
			own = append(own, changed)
			out.PushBack(changed)
		default:
			out.PushBack(pkt)
		}
	}
	var err tcpip.Error
	if out.Len() > 0 {
		_, err = s.lower.WritePackets(out)
	}
	for _, pkt := range own {
		pkt.DecRef()
	}
	if err != nil {
		return 0, err
	}
	for _, e := range open {
		s.worker.open(e)
	}
	return len(list), nil
}

// outgoing returns what becomes of a packet, and the entry whose connection is open once it has left, if that is so.
func (s *Shim) outgoing(pkt *tcpipstack.PacketBuffer) (*tcpipstack.PacketBuffer, outcome, *Entry) {
	t := header.TCP(pkt.TransportHeader().Slice())
	src, dst := addresses(pkt.NetworkProtocolNumber, pkt.NetworkHeader().Slice())
	f := Flow{Local: netip.AddrPortFrom(src, t.SourcePort()), Remote: netip.AddrPortFrom(dst, t.DestinationPort())}
	flags := t.Flags()
	if flags.Contains(header.TCPFlagRst) && s.muted.has(f) {
		return nil, swallow, nil
	}
	if flags.Contains(header.TCPFlagRst) && s.table.signers.Load() != 0 {
		if e := s.table.getGuarded(f); e != nil && e.signer != nil {
			out, o := e.sign(pkt, f)
			return out, o, nil
		}
	}
	e := s.table.get(f)
	if e == nil {
		return nil, pass, nil
	}
	if e.restored {
		e.locate(t)
		s.table.retire(e)
		return nil, pass, nil
	}
	e.mu.Lock()
	var out *tcpipstack.PacketBuffer
	var o outcome
	switch {
	case flags.Contains(header.TCPFlagSyn | header.TCPFlagAck):
		out, o = e.sendSYN(pkt, SYNACK, int(s.lower.MTU()), s.clock.NowMonotonic())
	case flags.Contains(header.TCPFlagSyn):
		out, o = e.sendSYN(pkt, SYN, int(s.lower.MTU()), s.clock.NowMonotonic())
	default:
		out, o = e.sendOther(pkt)
	}
	over := e.active && e.finished()
	over = over || e.brief && flags.Contains(header.TCPFlagSyn|header.TCPFlagAck)
	early := (*Entry)(nil)
	if flags.Contains(header.TCPFlagSyn|header.TCPFlagAck) && o != swallow && e.opensEarly() {
		early = e
	}
	e.mu.Unlock()
	switch {
	case e.brief && over:
		s.table.remove(e)
	case over:
		s.table.retire(e)
	}
	return out, o, early
}

// DeliverNetworkPacket implements stack.NetworkDispatcher.
func (s *Shim) DeliverNetworkPacket(proto tcpip.NetworkProtocolNumber, pkt *tcpipstack.PacketBuffer) {
	r, c := look(proto, pkt)
	switch c {
	case fragment:
		s.Counters.Fragments.Add(1)
		return
	case segment:
		if out, o := s.incoming(r); o == replace {
			s.Endpoint.DeliverNetworkPacket(proto, out)
			out.DecRef()
			return
		} else if o != pass {
			return
		}
	default:
		if out := s.incomingICMP(proto, pkt); out != nil {
			s.Endpoint.DeliverNetworkPacket(proto, out)
			out.DecRef()
			return
		}
	}
	s.Endpoint.DeliverNetworkPacket(proto, pkt)
}

func (s *Shim) incoming(r received) (*tcpipstack.PacketBuffer, outcome) {
	flags := r.tcp.Flags()
	known := s.table.mayHave(r.tcp.DestinationPort(), r.tcp.SourcePort())
	switch {
	case flags&(header.TCPFlagSyn|header.TCPFlagAck|header.TCPFlagRst) == header.TCPFlagSyn:
		return s.incomingSYN(r)
	case flags.Contains(header.TCPFlagRst):
		if known || s.table.guards.Load() != 0 {
			return s.incomingRST(r)
		}
		return nil, pass
	case known:
		f := r.flow()
		if e := s.table.get(f); e != nil {
			return s.incomingKnown(e, r)
		}
	}
	if !plainOptions(r.options()) && !flags.Contains(header.TCPFlagSyn) && hasOption(r.options(), kindENO) {
		return s.incomingENO(r)
	}
	return nil, pass
}

// ownMSS is the MSS that the own MTU allows, for the address family of r.
func (s *Shim) ownMSS(r received) int { return int(s.lower.MTU()) - len(r.ip) - header.TCPMinimumSize }

// offloaded tells whether the link vouches for the checksums.
func (s *Shim) offloaded() bool {
	return s.lower.Capabilities()&tcpipstack.CapabilityRXChecksumOffload != 0
}

func (s *Shim) intact(r received) bool {
	if r.intact(s.offloaded()) {
		return true
	}
	s.Counters.BadSums.Add(1)
	return false
}

func (s *Shim) incomingSYN(r received) (*tcpipstack.PacketBuffer, outcome) {
	f := r.flow()
	s.host.Arrives(f)
	e := s.table.get(f)
	if e != nil && s.table.closedEarly(e) && !s.host.Connected(f) {
		s.table.remove(e) // the connection that it was of is no more: this SYN is of a new one
		e = nil
	}
	if e == nil {
		h := s.table.listener(f.Local)
		if h == nil {
			return nil, pass
		}
		if !s.intact(r) {
			return nil, swallow
		}
		if s.past.renews(f, seqnum.Value(r.tcp.SequenceNumber()), r.options(), s.clock.NowMonotonic()) {
			s.host.Renew(f)
		}
		if e = s.newPassive(f, h, r.tcp.SequenceNumber(), r.payloadLen() > 0); e == nil {
			return nil, pass
		}
	} else if !s.intact(r) {
		return nil, swallow
	}
	e.mu.Lock()
	out, o := e.receiveSYN(r, s.ownMSS(r), s.clock.NowMonotonic())
	e.mu.Unlock()
	if o == refuse {
		s.Counters.Refused.Add(1)
		s.table.remove(e)
		length := uint32(r.payloadLen()) + 1
		s.worker.reset(f, 0, r.tcp.SequenceNumber()+length, uint8(header.TCPFlagRst|header.TCPFlagAck))
	}
	return out, o
}

// newPassive makes an entry for a SYN of another host's. nil: the connection opens without a Handshake.
func (s *Shim) newPassive(f Flow, newHandshake func(Flow) Handshake, seq uint32, payload bool) *Entry {
	full := s.table.full()
	if full && !payload {
		s.Counters.NoRoom.Add(1)
		return nil
	}
	h := newHandshake(f)
	if h == nil {
		return nil
	}
	e := newEntry(f, h, false, s.clock.NowMonotonic())
	if payload && (full || s.table.crowded()) {
		if x, ok := h.(Fleeting); ok && x.Fleeting(seq) {
			s.Counters.Fleeting.Add(1)
			e.brief = true
			return s.table.addBrief(e)
		}
	}
	e = s.table.addPassive(e, payload)
	if e == nil {
		s.Counters.NoRoom.Add(1)
	}
	return e
}

// incomingKnown looks at a segment of a handshake in progress, neither SYN nor RST.
func (s *Shim) incomingKnown(e *Entry, r received) (*tcpipstack.PacketBuffer, outcome) {
	if e.restored {
		return nil, pass
	}
	if !s.intact(r) {
		return nil, swallow
	}
	e.mu.Lock()
	var out *tcpipstack.PacketBuffer
	var o outcome
	if r.tcp.Flags().Contains(header.TCPFlagSyn) {
		out, o = e.receiveSYNACK(r, s.ownMSS(r))
	} else if o = e.receiveOther(r); o == pass && e.early.waiting {
		e.holdBehind(r)
		o = swallow
	}
	third := !e.active && e.received[NonSYN]
	over := e.active && e.finished()
	var gate <-chan struct{}
	if o == replace {
		gate = e.gate()
	}
	e.mu.Unlock()
	if gate != nil {
		out.NetworkProtocolNumber = r.proto
		s.hold(e, gate, out, r.tcp.AckNumber())
		return nil, swallow
	}
	switch {
	case o == refuse || o == kill:
		s.Counters.Refused.Add(1)
		s.table.remove(e)
		s.worker.reset(e.flow, r.tcp.AckNumber(), 0, uint8(header.TCPFlagRst))
		if o == kill {
			s.worker.abort(e.flow)
		}
	case third:
		s.table.open(e)
	case over:
		s.table.retire(e)
	}
	return out, o
}

func (s *Shim) incomingRST(r received) (*tcpipstack.PacketBuffer, outcome) {
	f := r.flow()
	e := s.table.getGuarded(f)
	if e != nil {
		if !s.intact(r) {
			return nil, swallow
		}
		e.mu.Lock()
		h := r.header(f)
		h.Offset = e.offset(h.Seq)
		verdict := e.guard.Incoming(h)
		if verdict == Hold {
			e.holdLocked(r)
		}
		e.mu.Unlock()
		switch verdict {
		case Hold:
			s.Counters.HeldRSTs.Add(1)
			return nil, swallow
		case Drop:
			s.Counters.DroppedRSTs.Add(1)
			return nil, swallow
		}
	}
	if e = s.table.get(f); e == nil {
		return nil, pass
	}
	e.mu.Lock()
	out, o := e.receiveRST(r)
	exact := r.tcp.SequenceNumber() == uint32(e.irs)+1+uint32(e.taken)
	ends := !e.active && e.issKnown && exact && s.intact(r)
	// The netstack would take any in the window for a half-open connection. Whoever has only guessed that much is not heard;
	// a peer that is gone answers the next SYN-ACK with the right one. RFC 9293, Section 3.10.7.4.
	guessed := !e.active && e.issKnown && e.received[SYN] && !e.received[NonSYN] && !exact
	e.mu.Unlock()
	if guessed {
		s.Counters.DroppedRSTs.Add(1)
		return nil, swallow
	}
	if ends {
		s.table.remove(e) // and the netstack ends its half-open connection likewise
	}
	return out, o
}

// incomingENO looks at a segment with ENO that belongs to no handshake in progress. The peer took part in one and will
// send what is not plain; whoever does not know of it must not take that for the application's data.
func (s *Shim) incomingENO(r received) (*tcpipstack.PacketBuffer, outcome) {
	f := r.flow()
	if s.table.listener(f.Local) == nil || s.table.get(f) != nil || s.host.Connected(f) {
		return nil, pass
	}
	if !s.intact(r) {
		return nil, swallow
	}
	s.Counters.Unknown.Add(1)
	s.worker.reset(f, r.tcp.AckNumber(), 0, uint8(header.TCPFlagRst))
	return nil, swallow
}
