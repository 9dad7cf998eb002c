package shim

import (
	"bytes"
	"container/list"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	tcpipstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// maxWindow is the largest window there is, RFC 7323, Section 2.3, in octets.
const maxWindow = 1 << 30

// synPause is the least time between two SYNs once the peer has declined the data of the first.
const synPause = 500 * time.Millisecond

// synBurst is how long a doubled SYN may come after the first before that is answered.
const synBurst = 200 * time.Millisecond

// Entry is one connection in its opening, from before its SYN until both ends have what a handshake has to carry.
//
// Data in a SYN needs no translation of later sequence numbers. When the netstack's initial sequence number is X and n
// octets go in the SYN, the SYN leaves with X-n: X+1 comes next on both sides.
type Entry struct {
	flow   Flow
	hs     Handshake
	guard  Guard  // nil: hs is none
	signer Signer // likewise
	active bool
	brief  bool // goes with its SYN-ACK
	// restored: known only since its connection is open, and until its first segment leaves; the Guard stays.
	restored bool

	// Under the table's lock.
	filtered   bool          // counted in the filter: segments without SYN concern it
	element    *list.Element // in the table's list of half-open ones
	ofUpgraded *list.Element // in that of half-open ones whose SYN had payload
	since      tcpip.MonotonicTime
	expires    tcpip.MonotonicTime // zero: never

	mu       sync.Mutex
	received [NonSYN + 1]bool // what the Handshake has been shown
	iss      seqnum.Value     // X, from the last SYN or SYN-ACK sent
	earlier  seqnum.Value     // the X before that: a SYN cookie can differ from the next answer
	issKnown bool
	irs      seqnum.Value // the peer's, on the wire
	taken    int          // octets of the peer's SYN payload that the Handshake took
	sent     int          // octets of payload that left in the own SYN or SYN-ACK
	declined bool         // the peer took none of them
	lastSYN  tcpip.MonotonicTime
	pathMTU  int    // told by ICMP, in octets; 0: nothing told
	acked    bool   // a segment without SYN has left with the Handshake's options, or could have
	shown    []byte // the options of the peer's SYN that the Handshake has seen, without timestamps
	ts       uint32 // the timestamp of the peer's SYN, if hasTS
	hasTS    bool
	shift    uint8  // the peer's window scale, as in its SYN; for a simultaneous open
	synAck   []byte // the SYN-ACK as it left but for the Handshake's options: TCP header, packed
	ownData  []byte // the payload that left in the own SYN or SYN-ACK
	held     *tcpipstack.PacketBuffer
	early    early
	err      error
	failed   chan struct{} // closed when err is set
	gone     chan struct{} // closed when the table has no part of the entry any more
}

func newEntry(f Flow, h Handshake, active bool, now tcpip.MonotonicTime) *Entry {
	e := &Entry{flow: f, hs: h, active: active, since: now, failed: make(chan struct{}), gone: make(chan struct{})}
	if e.guard, _ = h.(Guard); e.guard != nil {
		e.signer, _ = h.(Signer)
	}
	return e
}

func (e *Entry) isGone() bool {
	select {
	case <-e.gone:
		return true
	default:
		return false
	}
}

// Handshake returns what takes part in the connection.
func (e *Entry) Handshake() Handshake { return e.hs }

// Failed is closed when the Handshake has refused something it received; Err tells why.
func (e *Entry) Failed() <-chan struct{} { return e.failed }

// Err is the error of the Handshake, nil if there was none.
func (e *Entry) Err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

// Opened tells whether the Handshake has seen the opening through, and agreed to it.
func (e *Entry) Opened() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err == nil && (e.received[NonSYN] || e.early.opened)
}

// show hands a segment to the Handshake, each kind once. The result of taking counts for repetitions.
func (e *Entry) show(k Segment, options, payload []byte) error {
	if e.received[k] {
		return nil
	}
	e.received[k] = true
	taken, err := e.hs.Receive(k, options, payload)
	if err != nil {
		e.fail(err)
		return err
	}
	if taken && k != NonSYN {
		e.taken = len(payload)
	}
	return nil
}

func (e *Entry) fail(err error) {
	if e.err == nil {
		e.err = err
		close(e.failed)
	}
}

// finished tells whether no later segment concerns the Handshake.
func (e *Entry) finished() bool { return e.received[NonSYN] && (e.acked || !e.active) }

// outcome of looking at a segment.
type outcome int

const (
	pass    outcome = iota // as it is
	replace                // by what came with the outcome
	swallow                // it goes no further
	refuse                 // neither, and the peer gets a RST
	kill                   // likewise, and the netstack's connection ends
)

// sendSYN puts options and payload into an outgoing SYN or SYN-ACK.
func (e *Entry) sendSYN(pkt *tcpipstack.PacketBuffer, k Segment, mtu int, now tcpip.MonotonicTime) (*tcpipstack.PacketBuffer, outcome) {
	t := header.TCP(pkt.TransportHeader().Slice())
	e.setISS(seqnum.Value(t.SequenceNumber()))
	if e.declined && k == SYN {
		// The netstack repeats a SYN at once, and then ever less often, when its first was answered wrongly.
		if e.lastSYN != (tcpip.MonotonicTime{}) && now.Sub(e.lastSYN) < synPause {
			return nil, swallow
		}
		e.lastSYN = now
	}
	var room [header.TCPHeaderMaximumSize]byte
	h := append(room[:0], t[:header.TCPMinimumSize]...)
	h = packOptions(h, t[header.TCPMinimumSize:])
	own := len(h)
	h = e.hs.AppendOptions(h, k, header.TCPMinimumSize+maxOptions-len(h))
	added := len(h) > own
	h = padOptions(h)
	var data []byte
	switch {
	case e.declined:
	case k == SYNACK && e.active: // a simultaneous open: the SYN again, with an ACK
		data = e.ownData
	default:
		data = e.hs.AppendPayload(nil, k, mtu-len(pkt.NetworkHeader().Slice())-len(h))
	}
	e.sent, e.ownData = max(e.sent, len(data)), data
	if k == SYNACK {
		e.synAck = append(e.synAck[:0], h[:own]...)
	}
	if !added && len(data) == 0 {
		return nil, pass
	}
	header.TCP(h).SetSequenceNumber(t.SequenceNumber() - uint32(len(data)))
	return rebuild(pkt, h, noNil(data)), replace
}

// repeatSYNACK puts the SYN-ACK in the place of a segment. The Handshake is asked again: it may have given up.
func (e *Entry) repeatSYNACK(pkt *tcpipstack.PacketBuffer) (*tcpipstack.PacketBuffer, outcome) {
	var room [header.TCPHeaderMaximumSize]byte
	h := append(room[:0], e.synAck...)
	h = padOptions(e.hs.AppendOptions(h, SYNACK, header.TCPHeaderMaximumSize-len(h)))
	header.TCP(h).SetSequenceNumber(header.TCP(h).SequenceNumber() - uint32(len(e.ownData)))
	return rebuild(pkt, h, noNil(e.ownData)), replace
}

func (e *Entry) setISS(x seqnum.Value) {
	if !e.issKnown {
		e.earlier = x
	} else if x != e.iss {
		e.earlier = e.iss
	}
	e.iss, e.issKnown = x, true
}

// noNil makes the absence of data explicit: a SYN has no payload of the netstack's that could stay.
func noNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// sendOther puts options into an outgoing segment without SYN.
func (e *Entry) sendOther(pkt *tcpipstack.PacketBuffer) (*tcpipstack.PacketBuffer, outcome) {
	t := header.TCP(pkt.TransportHeader().Slice())
	if t.Flags().Contains(header.TCPFlagRst) {
		return nil, pass
	}
	if !e.active {
		if e.received[NonSYN] || e.synAck == nil || pkt.Data().Size() > 0 || t.Flags().Contains(header.TCPFlagFin) {
			return nil, pass
		}
		// In SYN-RCVD the netstack answers a repeated SYN with a bare ACK. The peer has not got the SYN-ACK, or it
		// would not ask: without the options of that it would do without them.
		return e.repeatSYNACK(pkt)
	}
	if e.half() && e.synAck != nil {
		return e.repeatSYNACK(pkt) // for the same reason
	}
	if e.finished() {
		return nil, pass
	}
	var room [header.TCPHeaderMaximumSize]byte
	h := append(room[:0], t...)
	h = e.hs.AppendOptions(h, NonSYN, min(reserve, header.TCPHeaderMaximumSize-len(h)))
	e.acked = true
	if len(h) == len(t) {
		return nil, pass
	}
	return e.fit(pkt, padOptions(h)), replace
}

// fit rebuilds a segment so that it fits the path. The netstack leaves room for the options, but it makes no packets
// smaller than the least MTU of IPv6: there, the end of the payload stays behind. It is sent again when the first part is
// acknowledged, and that ends the options.
func (e *Entry) fit(pkt *tcpipstack.PacketBuffer, h []byte) *tcpipstack.PacketBuffer {
	room := e.pathMTU - len(pkt.NetworkHeader().Slice()) - len(h)
	if e.pathMTU == 0 || room <= 0 || pkt.Data().Size() <= room {
		return rebuild(pkt, h, nil)
	}
	if pkt.GSOOptions.Type != tcpipstack.GSONone && pkt.Data().Size() > int(pkt.GSOOptions.MSS) {
		out := rebuild(pkt, h, nil)
		out.GSOOptions.MSS = min(out.GSOOptions.MSS, uint16(room))
		return out
	}
	b, ok := pkt.Data().PullUp(room)
	if !ok {
		return rebuild(pkt, h, nil)
	}
	header.TCP(h).SetFlags(uint8(header.TCP(h).Flags() &^ (header.TCPFlagFin | header.TCPFlagPsh)))
	return rebuild(pkt, h, b)
}

// told remembers the MTU of the path, in octets.
func (e *Entry) told(mtu int) {
	e.mu.Lock()
	e.pathMTU = mtu
	e.mu.Unlock()
}

// receiveSYN shows the Handshake a SYN of the peer's, and again if it comes with other options.
func (e *Entry) receiveSYN(r received, own int, now tcpip.MonotonicTime) (*tcpipstack.PacketBuffer, outcome) {
	if e.active {
		return e.receiveCrossing(r, own)
	}
	seq := seqnum.Value(r.tcp.SequenceNumber())
	if e.received[SYN] && seq != e.irs {
		return nil, pass // of another connection: the netstack knows what to say to it
	}
	if e.received[SYN] && !e.issKnown && now.Sub(e.since) < synBurst {
		return nil, swallow // the netstack is at it, and would take this for a connection of its own that fails
	}
	e.irs = seq
	if _, ok := e.hs.(Opener); ok {
		e.early.remember(r)
	}
	if err := e.showSYN(r); err != nil {
		return nil, refuse
	}
	return e.withoutPayload(r)
}

// showSYN shows the Handshake a SYN, and a repetition whose options differ: one without ENO ends it (RFC 8547,
// Section 4.6, rule 1). What was taken of the first one's payload stays taken.
func (e *Entry) showSYN(r received) error {
	now := withoutTimestamps(r.options())
	if !e.received[SYN] {
		e.shown = now
		e.ts, e.hasTS = timestamp(r.options())
		return e.show(SYN, r.options(), r.payload())
	}
	if e.received[NonSYN] || bytes.Equal(now, e.shown) {
		return nil
	}
	e.shown = now
	if _, err := e.hs.Receive(SYN, r.options(), nil); err != nil {
		e.fail(err)
		return err
	}
	return nil
}

// withoutPayload takes the data out of a SYN: the Handshake has it, and the netstack must acknowledge it; or it has
// not, and nobody may (RFC 8547, Section 4.7).
func (e *Entry) withoutPayload(r received) (*tcpipstack.PacketBuffer, outcome) {
	if r.payloadLen() == 0 {
		return nil, pass
	}
	taken := e.taken
	if taken != r.payloadLen() {
		taken = 0
	}
	return r.edit(true, func(t header.TCP) { t.SetSequenceNumber(t.SequenceNumber() + uint32(taken)) }), replace
}

// receiveSYNACK shows the Handshake the answer to the own SYN. own is the MSS that the own MTU allows.
func (e *Entry) receiveSYNACK(r received, own int) (*tcpipstack.PacketBuffer, outcome) {
	ack := seqnum.Value(r.tcp.AckNumber())
	if !e.issKnown {
		return nil, pass
	}
	if e.declines(ack) {
		if e.received[SYN] {
			return nil, refuse // a SYN that has been answered cannot be taken back
		}
		// The netstack meets an answer to a SYN it did not send: it resets that, and sends its SYN again, which
		// this time leaves as it is.
		e.declined = true
		if d, ok := e.hs.(Decliner); ok {
			if err := d.Declined(); err != nil {
				e.fail(err)
				return nil, refuse
			}
		}
		return nil, pass
	}
	if e.received[SYN] {
		return e.receiveCrossed(r)
	}
	if ack != e.iss+1 || e.received[SYNACK] && seqnum.Value(r.tcp.SequenceNumber()) != e.irs {
		return nil, pass
	}
	e.irs = seqnum.Value(r.tcp.SequenceNumber())
	if err := e.show(SYNACK, r.options(), r.payload()); err != nil {
		return nil, refuse
	}
	taken := e.taken
	if taken != r.payloadLen() {
		taken = 0
	}
	return r.edit(true, func(t header.TCP) {
		t.SetSequenceNumber(t.SequenceNumber() + uint32(taken))
		lowerMSS(t[header.TCPMinimumSize:], own)
	}), replace
}

// declines tells whether ack acknowledges the SYN or SYN-ACK but not its payload.
func (e *Entry) declines(ack seqnum.Value) bool {
	return e.issKnown && e.sent > 0 && ack.InRange(e.iss-seqnum.Value(e.sent)+1, e.iss+1)
}

// receiveOther shows the Handshake the first segment without SYN.
func (e *Entry) receiveOther(r received) outcome {
	if e.received[NonSYN] || !r.tcp.Flags().Contains(header.TCPFlagAck) || !e.issKnown {
		return pass
	}
	seq, ack := seqnum.Value(r.tcp.SequenceNumber()), seqnum.Value(r.tcp.AckNumber())
	if !e.active && e.declines(ack) {
		return kill
	}
	if e.half() {
		return e.receiveHalf(r)
	}
	if e.active && !e.received[SYNACK] {
		return pass
	}
	next := e.irs + 1 + seqnum.Value(e.taken)
	acceptable := seq.InWindow(next, maxWindow) && ack.InWindow(e.iss+1, maxWindow)
	if !e.active {
		acceptable = seq.InWindow(next, maxWindow) && (ack == e.iss+1 || ack == e.earlier+1 ||
			e.early.opened && ack.InWindow(e.iss+1, maxWindow))
	}
	if !acceptable {
		return pass
	}
	if err := e.show(NonSYN, r.options(), nil); err != nil {
		return kill
	}
	return pass
}

// receiveRST makes a RST that answers a SYN with data one that answers the SYN the netstack sent.
func (e *Entry) receiveRST(r received) (*tcpipstack.PacketBuffer, outcome) {
	if e.active && r.tcp.Flags().Contains(header.TCPFlagAck) && e.declines(seqnum.Value(r.tcp.AckNumber())) {
		return r.edit(true, func(t header.TCP) { t.SetAckNumber(uint32(e.iss + 1)) }), replace
	}
	return nil, pass
}
