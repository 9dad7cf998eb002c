package eno

import (
	"bytes"
	"slices"
	"testing"
)

// resuming is an offer with suboption data, as RFC 8548 has it for resumption: valid in return is data that ends in the
// word that the other side's begins with.
type resuming struct {
	retracted bool
	offer     Offer
}

func newResuming(tep TEP, data string) *resuming {
	r := new(resuming)
	r.offer = Offer{
		TEP:     tep,
		Data:    []byte(data),
		Valid:   func(peer Suboption) bool { return !peer.V || !r.retracted && string(peer.Data) == data },
		Retract: func() { r.retracted = true },
	}
	return r
}

// answering agrees to data of more than two octets, and answers with the same.
func answering(tep TEP) *resuming {
	r := new(resuming)
	r.offer = Offer{
		TEP:     tep,
		Answer:  func(peer Suboption) Suboption { return Suboption{TEP: tep, V: len(peer.Data) > 2, Data: peer.Data} },
		Resumes: func(peer Suboption) bool { return len(peer.Data) > 2 },
		Retract: func() { r.retracted = true },
	}
	return r
}

const longData = "half of it nonce." // 17 octets

func TestResumedExchange(t *testing.T) {
	for name, v := range map[string]struct {
		roomA, roomB  int
		v             bool
		retractA      bool
		retractB      bool
		first, second int // octets of the two options
	}{
		"room for all":              {roomA: 21, roomB: 21, v: true, first: 21, second: 21},
		"20 octets in the SYN-ACK":  {roomA: 21, roomB: 20, retractB: true, first: 21, second: 4},
		"20 octets in the SYN":      {roomA: 20, roomB: 21, retractA: true, first: 4, second: 4},
		"room for TEPs only, twice": {roomA: 4, roomB: 4, retractA: true, first: 4, second: 4},
	} {
		t.Run(name, func(t *testing.T) {
			atA, atB := newResuming(tepY, longData), answering(tepY)
			a := mustNew(t, Config{Offers: []Offer{atA.offer, {TEP: tepX}}})
			b := mustNew(t, Config{Passive: true, Offers: []Offer{{TEP: tepX}, atB.offer}}) // resumption beats preference
			if atA.retracted || atB.retracted {
				t.Fatal("retracted before anything was sent")
			}
			syn := a.AppendOptions(nil, SYN, v.roomA)
			b.Receive(SYN, syn)
			if again := a.AppendOptions(nil, SYN, 40); !bytes.Equal(syn, again) {
				t.Errorf("repeated SYN %x, then %x", syn, again)
			}
			b.Receive(SYN, syn)
			answer := b.AppendOptions(nil, SYNACK, v.roomB)
			if again := b.AppendOptions(nil, SYNACK, 40); !bytes.Equal(answer, again) {
				t.Errorf("repeated SYN-ACK %x, then %x", answer, again)
			}
			a.Receive(SYNACK, answer)
			b.Receive(NonSYN, a.AppendOptions(nil, NonSYN, 20))
			if len(syn) != v.first || len(answer) != v.second || atA.retracted != v.retractA || atB.retracted != v.retractB {
				t.Errorf("SYN %x, SYN-ACK %x, retracted %v and %v", syn, answer, atA.retracted, atB.retracted)
			}
			oa, ob := state(t, "A", a, Enabled, NoReason), state(t, "B", b, Enabled, NoReason)
			want := tepY
			if v.retractA { // then B's preference counts
				want = tepX
			}
			for _, o := range []Outcome{oa, ob} {
				if o.TEP != want || o.TEPByte != (Suboption{TEP: want, V: v.v}).Byte() || !bytes.Equal(o.Transcript, slices.Concat(syn, answer)) {
					t.Errorf("outcome %+v", o)
				}
			}
			if oa.Peer.V != v.v || ob.Own.V != v.v || oa.Own.V != ob.Peer.V {
				t.Errorf("A %+v and %+v, B %+v and %+v", oa.Own, oa.Peer, ob.Own, ob.Peer)
			}
		})
	}
}

// Once an option has left with its data, less room disables ENO: it must not change.
func TestNoRoomForRepeatedResumption(t *testing.T) {
	atA, atB := newResuming(tepY, longData), answering(tepY)
	a := mustNew(t, Config{Offers: []Offer{atA.offer}})
	b := mustNew(t, Config{Passive: true, Offers: []Offer{atB.offer}})
	b.Receive(SYN, a.AppendOptions(nil, SYN, 21))
	b.AppendOptions(nil, SYNACK, 21)
	onWire(t, "SYN", a.AppendOptions(nil, SYN, 10))
	onWire(t, "SYN-ACK", b.AppendOptions(nil, SYNACK, 10))
	state(t, "A", a, Disabled, NoRoom)
	state(t, "B", b, Disabled, NoRoom)
	if atA.retracted || atB.retracted {
		t.Error("retracted after it was sent")
	}
}

// Room for nothing at all still disables ENO.
func TestNoRoomForAnything(t *testing.T) {
	a := mustNew(t, Config{Offers: []Offer{newResuming(tepY, longData).offer}})
	onWire(t, "SYN", a.AppendOptions(nil, SYN, 2))
	state(t, "A", a, Disabled, NoRoom)
	b := mustNew(t, Config{Passive: true, Offers: []Offer{answering(tepY).offer}})
	b.Receive(SYN, append([]byte{Kind, 20, 0x80 | byte(tepY)}, longData...))
	onWire(t, "SYN-ACK", b.AppendOptions(nil, SYNACK, 3))
	state(t, "B", b, Disabled, NoRoom)
}
