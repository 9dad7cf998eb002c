package tcpinc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt"
)

// Early data travels in an upgraded SYN that offers to resume a session, so that the reply to it follows the SYN-ACK:
//
//	active opener                                 passive opener
//	SYN-U: session, first data, sealed  ------>   claims the session, opens the data: open at once
//	                                    <------   SYN-ACK-U: session, "accepted"; the reply
//	first unit: "accepted", more data   ------>
//
// What is declined is sent again in the stream, sealed anew. The first unit says what has been understood: nobody can
// have the data delivered twice on one connection by altering the SYN-ACK, where nothing protects the verdict yet.

// ErrEarlyMismatch says that the peer takes early data for declined which was accepted here, or the other way round: the
// SYN-ACK was altered on its way.
var ErrEarlyMismatch = errors.New("tcpinc: the hosts do not agree on what has become of the early data")

// ErrFirstSent says that Dial has failed when some of DialOptions.EarlyData may have been delivered. Whoever then sends it to
// another address has it, perhaps, acted on twice.
var ErrFirstSent = errors.New("tcpinc: the connection has failed when its first data had left")

// firstSent adds that to an error.
func firstSent(err error) error { return fmt.Errorf("%w: %w", ErrFirstSent, err) }

// early is the early data of one Handshake.
type early struct {
	data     []byte // active: what to send first, as much as there is room for
	sealed   int    // active: octets of it that the SYN carries
	payload  int    // octets of the SYN's payload
	offered  bool   // there was some in the SYN
	accepted bool
	opened   []byte // passive: what the peer's SYN carried
}

// sealEarly makes the payload of an upgraded SYN, at most room octets.
func (h *Handshake) sealEarly(room int) []byte {
	y, t := &h.early, h.resume.ticket
	n := min(len(y.data), room-tcpcrypt.EarlyOverhead, tcpcrypt.MaxEarlyData)
	if n <= 0 || t == nil || !h.cfg.separates() {
		return nil
	}
	t.LogEarly = h.cfg.KeyLog != nil
	payload, err := t.SealEarly(nil, y.data[:n], h.resume.nonce)
	if err != nil { // the ticket has expired meanwhile
		return nil
	}
	y.sealed, y.payload, y.offered = n, len(payload), true
	return payload
}

// separates tells whether the nonces of this host are long enough for early data. A clone of the host, its memory and all, has the
// same secrets, and nothing else keeps its keys apart from this host's.
func (cfg Config) separates() bool { return cfg.resumeNonceLen() == tcpcrypt.MaxResumeNonceLen }

// judgeEarly reads what the SYN-ACK-U says.
func (h *Handshake) judgeEarly(s innerspace.SYN) error {
	y := &h.early
	if !y.offered {
		return nil
	}
	for _, list := range [][]byte{s.Prefix, s.Suffix} {
		it := innerspace.NewIterator(list)
		for o, ok := it.Next(); ok; o, ok = it.Next() {
			e, _, err := innerspace.ParseEarlyData(o)
			switch {
			case errors.Is(err, innerspace.ErrNotOption):
			case err != nil:
				return err
			default:
				y.accepted = e.Accepted && int(e.Octets) == y.payload
			}
		}
	}
	if ticket, _ := h.resume.agreed(h.negotiation.Outcome()); ticket == nil {
		y.accepted = false // it cannot have been opened
	}
	return nil
}

// openEarly takes the payload of the peer's upgraded SYN, if that is allowed and it is what the session's keys have sealed,
// and returns the verdict. From then on the connection is open: only the peer can have sent that.
//
// It must come from the address that the session is known to be with. A reply that follows the SYN-ACK at once goes to an
// address of which no answer has come yet: who has a session could have them sent to anybody.
func (h *Handshake) openEarly(payload []byte) innerspace.EarlyData {
	y := &h.early
	y.offered, y.payload = true, len(payload)
	verdict := innerspace.EarlyData{Octets: uint16(len(payload))}
	ticket, _ := h.resume.agreed(h.negotiation.Outcome())
	if ticket == nil || !h.cfg.EarlyData || ticket.Peer().Addr().WithZone("") != h.peer {
		return verdict
	}
	ticket.LogEarly = h.cfg.KeyLog != nil
	data, err := ticket.OpenEarly(payload, h.resume.theirs)
	if err != nil {
		return verdict
	}
	h.negotiation.Receive(NonSYN, eno.AppendNonSYN(nil))
	y.opened, y.accepted = data, true
	verdict.Accepted = true
	return verdict
}

// EarlyOpen reports whether a passive opener's connection is open before the third segment has come.
func (h *Handshake) EarlyOpen() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.passive && h.early.accepted
}

// SetPeer tells a passive opener's Handshake where the SYN has come from. Without it no early data is accepted.
func (h *Handshake) SetPeer(a netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.peer = a.Unmap().WithZone("")
}

// judgeVerdict compares what the peer has understood with what was done here, and reports whether that is due.
func (y *early) judgeVerdict(c *Conn, o innerspace.Option) bool {
	if y.sealed > 0 || !y.offered {
		return false
	}
	e, _, err := innerspace.ParseEarlyData(o)
	if err != nil {
		c.inner.Fail(err)
	} else if e.Accepted != y.accepted || int(e.Octets) != y.payload {
		c.inner.Fail(ErrEarlyMismatch)
	}
	return true
}

// earlyData returns what has become of early data, and leaves no octet of it behind.
func (h *Handshake) earlyData() early {
	if h == nil {
		return early{}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	y := h.early
	h.early.data, h.early.opened = nil, nil
	return y
}

// earlyAccepted reports whether the SYN-ACK says that early data was accepted.
func (h *Handshake) earlyAccepted() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.early.accepted
}

// sendFirst sends what the SYN has not carried of the early data, or not so that it was accepted.
func (c *Conn) sendFirst(ctx context.Context, data []byte) error {
	if c.early.accepted {
		data = data[c.early.sealed:]
	}
	if len(data) == 0 {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { c.Abort() })
	_, err := c.Write(data)
	switch {
	case !stop():
		return firstSent(context.Cause(ctx))
	case err != nil:
		c.Abort()
		return firstSent(err)
	}
	return nil
}

// CarriesEarlyData reports whether early data to a destination would leave in the SYN now.
func (d *Dialer) CarriesEarlyData(remote netip.AddrPort, o DialOptions) bool {
	cfg := o.apply(d.Config).filled()
	cfg.remote = remote
	if cfg.InnerSpace == InnerSpaceOff || o.Policy == Off && o.Auth == nil || !cfg.resumes() || !cfg.separates() || cfg.B || cfg.Vacuous || o.LocalPort != 0 ||
		d.Paths.innerSpace(d.Paths.path(remote), cfg.Clock.Now()) != PathUpgraded {
		return false
	}
	var note any // of the session that would be taken
	return cfg.Sessions.Has(remote, func(s tcpcrypt.Session) bool {
		note = s.Note
		return cfg.wants(s)
	}) && cfg.trusts(note)
}

// verdict is what the first unit of an active opener says.
func (y *early) verdict() innerspace.Option {
	return innerspace.AppendEarlyData(nil, innerspace.EarlyData{Accepted: y.accepted, Octets: uint16(y.payload)})
}

// first delivers octets before those of the stream.
type first struct {
	Transport
	mu     sync.Mutex
	octets []byte // nil: all are delivered
}

func (f *first) Read(p []byte) (int, error) {
	f.mu.Lock()
	n := copy(p, f.octets)
	f.octets = f.octets[n:]
	f.mu.Unlock()
	if n > 0 || len(p) == 0 {
		return n, nil
	}
	return f.Transport.Read(p)
}

func (f *first) WaitRead() error {
	f.mu.Lock()
	ready := len(f.octets) > 0
	f.mu.Unlock()
	if ready {
		return nil
	}
	return waitRead(f.Transport)
}

func (f *first) WriteTo(w io.Writer) (int64, error) {
	f.mu.Lock()
	octets := f.octets
	n := 0
	var err error
	if len(octets) > 0 {
		n, err = w.Write(octets)
		f.octets = f.octets[n:]
	}
	f.mu.Unlock()
	if err != nil {
		return int64(n), err
	}
	rest, err := writeTo(f.Transport, w)
	return int64(n) + rest, err
}

func (f *first) ReadFrom(r io.Reader) (int64, error) { return readFrom(f.Transport, r) }
