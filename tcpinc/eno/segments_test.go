package eno

import (
	"errors"
	"testing"
)

// Ill-formed, repeated and missing options in the SYN and SYN-ACK. RFC 8547, Sections 4.1, 4.4, 4.6.
func TestBadOptionDisables(t *testing.T) {
	for _, v := range []struct {
		name    string
		options []byte
		reason  Reason
		err     error
	}{
		{"none", []byte{2, 4, 5, 180}, PeerNoENO, nil},
		{"repeated", []byte{69, 4, 0x01, 0x21, 69, 4, 0x01, 0x21}, Malformed, ErrRepeated},
		{"data beyond the end", []byte{69, 5, 0x01, 0x81, 0xa1}, Malformed, ErrDataBeyondEnd},
		{"length byte before a global", []byte{69, 6, 0x01, 0x21, 0x80, 0x01}, Malformed, ErrLengthTarget},
		{"runs out of the header", []byte{69, 5, 0x01, 0x21}, Malformed, ErrOptions},
		{"length 0", []byte{69, 0, 0x01, 0x21}, Malformed, ErrOptions},
		{"ExID 0x454e is not ENO", []byte{253, 5, 0x45, 0x4e, 0x21}, PeerNoENO, nil},
	} {
		for _, passive := range []bool{false, true} {
			n := mustNew(t, Config{Passive: passive, Offers: offers(tepX)})
			if passive {
				n.Receive(SYN, v.options)
			} else {
				send(n, nil, SYN, nil)
				n.Receive(SYNACK, v.options)
			}
			if out := state(t, v.name, n, Disabled, v.reason); !errors.Is(out.Err, v.err) {
				t.Errorf("%s: %v, want %v", v.name, out.Err, v.err)
			}
			for _, k := range []Segment{SYN, SYNACK, NonSYN} {
				onWire(t, v.name+": "+k.String(), send(n, nil, k, nil))
			}
			n.Receive(NonSYN, []byte{69, 2})
			state(t, v.name, n, Disabled, v.reason) // for good
		}
	}
}

// RFC 8547, Section 4.6: the same octets in retransmissions, ENO in every segment until a non-SYN one has come.
func TestRetransmissions(t *testing.T) {
	a := mustNew(t, Config{Offers: offers(tepY, tepX)})
	b := mustNew(t, Config{Passive: true, Offers: offers(tepY)})
	for range 3 {
		onWire(t, "SYN", send(a, b, SYN, nil), 69, 4, 0x21, 0x22)
	}
	for range 3 {
		onWire(t, "SYN-ACK", send(b, nil, SYNACK, nil), 69, 4, 0x01, 0x22)
	}
	send(a, b, SYN, nil) // the SYN-ACKs were lost
	send(b, a, SYNACK, nil)
	for range 3 {
		onWire(t, "ACK and early data", send(a, nil, NonSYN, nil), 69, 2)
	}
	onWire(t, "SYN-ACK", send(b, a, SYNACK, nil), 69, 4, 0x01, 0x22) // the ACKs were lost
	send(a, b, NonSYN, nil)
	state(t, "A", a, Enabled, NoReason)
	state(t, "B", b, Enabled, NoReason)
	if got := a.Outcome().SYNsSent; got != 4 {
		t.Errorf("%d SYNs counted", got)
	}
	b.Receive(NonSYN, nil) // once enabled, a segment without ENO changes nothing
	state(t, "B", b, Enabled, NoReason)
	a.Receive(SYNACK, nil) // nor does a SYN-ACK after the first
	state(t, "A", a, Enabled, NoReason)
}

func TestAlteredSYN(t *testing.T) {
	for name, v := range map[string]struct {
		again  []byte
		reason Reason
	}{
		"without ENO": {nil, PeerNoENO},
		"other TEPs":  {[]byte{69, 3, 0x22}, Malformed},
	} {
		t.Run(name, func(t *testing.T) {
			b := mustNew(t, Config{Passive: true, Offers: offers(tepX, tepY)})
			b.Receive(SYN, []byte{69, 4, 0x22, 0x21})
			send(b, nil, SYNACK, nil)
			b.Receive(SYN, v.again)
			onWire(t, "SYN-ACK", send(b, nil, SYNACK, nil))
			b.Receive(NonSYN, []byte{69, 2})
			if !state(t, "B", b, Disabled, v.reason).ENOSent {
				t.Error("B forgot that it sent ENO")
			}
		})
	}
	t.Run("simultaneous", func(t *testing.T) {
		a := mustNew(t, Config{Offers: offers(tepX)})
		send(a, nil, SYN, nil)
		a.Receive(SYN, []byte{69, 4, 0x01, 0x21})
		send(a, nil, SYNACK, nil)
		a.Receive(SYNACK, []byte{69, 5, 0x01, 0x21, 0x22})
		state(t, "A", a, Disabled, Malformed)
	})
	t.Run("simultaneous, first ACK is a non-SYN one without ENO", func(t *testing.T) {
		a := mustNew(t, Config{Offers: offers(tepX)})
		send(a, nil, SYN, nil)
		a.Receive(SYN, []byte{69, 4, 0x01, 0x21})
		a.Receive(NonSYN, nil)
		state(t, "A", a, Disabled, Stripped)
	})
}

// RFC 8547, Section 4.6, first exception.
func TestGivingUpENO(t *testing.T) {
	a := mustNew(t, Config{Offers: offers(tepX), MaxSYNs: 2})
	for range 2 {
		onWire(t, "SYN", send(a, nil, SYN, nil), 69, 3, 0x21)
	}
	for range 2 {
		onWire(t, "SYN", send(a, nil, SYN, nil))
	}
	a.Receive(SYNACK, []byte{69, 4, 0x01, 0x21}) // the late answer to one with ENO
	onWire(t, "ACK", send(a, nil, NonSYN, nil))
	state(t, "A", a, Disabled, SYNENODropped)

	a = mustNew(t, Config{Offers: offers(tepX), MaxSYNs: 2})
	send(a, nil, SYN, nil)
	send(a, nil, SYN, nil)
	a.Receive(SYNACK, []byte{69, 4, 0x01, 0x21})
	state(t, "A, answered in time", a, Confirmed, NoReason)
}

// A header without room for the option gets none of it, and none from then on.
func TestNoRoom(t *testing.T) {
	a := mustNew(t, Config{Offers: offers(tepX)})
	onWire(t, "SYN", a.AppendOptions(nil, SYN, 2))
	onWire(t, "SYN", a.AppendOptions(nil, SYN, 20))
	state(t, "A", a, Disabled, NoRoom)

	b := mustNew(t, Config{Passive: true, Offers: offers(tepX)})
	b.Receive(SYN, []byte{69, 3, 0x21})
	onWire(t, "SYN-ACK", b.AppendOptions(nil, SYNACK, 3))
	state(t, "B", b, Disabled, NoRoom)

	a = mustNew(t, Config{Offers: offers(tepX)})
	onWire(t, "SYN", a.AppendOptions(nil, SYN, 3), 69, 3, 0x21)
	a.Receive(SYNACK, []byte{69, 4, 0x01, 0x21})
	onWire(t, "ACK", a.AppendOptions(nil, NonSYN, 1))
	state(t, "A", a, Disabled, NoRoom)

	a = mustNew(t, Config{Offers: offers(tepX)})
	send(a, nil, SYN, nil)
	a.Receive(SYNACK, []byte{69, 4, 0x01, 0x21})
	send(a, nil, NonSYN, nil)
	onWire(t, "full segment after the first ACK", a.AppendOptions(nil, NonSYN, 1))
	state(t, "A, already enabled", a, Enabled, NoReason)
}

// Segments that TCP itself would not take for this connection change nothing.
func TestStraySegments(t *testing.T) {
	a := mustNew(t, Config{Offers: offers(tepX)})
	a.Receive(SYNACK, nil)
	state(t, "A", a, Idle, NoReason)
	send(a, nil, SYN, nil)
	a.Receive(NonSYN, nil) // of an earlier incarnation
	state(t, "A", a, SYNSent, NoReason)
	a.Receive(Segment(9), nil)
	onWire(t, "unknown segment", a.AppendOptions(nil, Segment(9), 20))

	b := mustNew(t, Config{Passive: true, Offers: offers(tepX)})
	onWire(t, "SYN of a passive opener", b.AppendOptions(nil, SYN, 20))
	b.Receive(SYNACK, []byte{69, 4, 0x01, 0x21})
	state(t, "B", b, Idle, NoReason)
}
