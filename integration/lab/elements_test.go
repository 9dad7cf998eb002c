package lab

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	mss    = []byte{2, 4, 5, 180}                        // 1460
	unk    = []byte{253, 4, 0x12, 0x34}                  // ExID 0x1234
	sack1  = []byte{1, 1, 5, 10, 0, 0, 3, 0, 0, 0, 4, 0} // 768 to 1024
	random = "\x9c\x35\xd1\x6a\xe2\x0f\x73\xb8\x4d\xc6\x1b\xa9\x58\xf4\x27\x83\x9e\x36\xd2\x6b\xe1\x0d\x70\xba\x4f\xc5\x19\xaa\x5b\xf7\x24\x81"
)

// A whole opening with a request and a reply.
func opening(v6 bool, synOptions []byte) []seg {
	return as6(v6,
		seg{seq: 100, flags: SYN, options: synOptions},
		seg{fromB: true, seq: 700, ack: 101, flags: SYN | ACK, options: mss},
		seg{seq: 101, ack: 701, flags: ACK},
		seg{seq: 101, ack: 701, flags: ACK | PSH, payload: "GET / HTTP/1.1"},
		seg{fromB: true, seq: 701, ack: 115, flags: ACK | PSH, payload: "200 OK"},
	)
}

func TestStripByRemoving(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		e := NewStripOptions(UnknownKinds(), SYNs, true)
		_, b := through(t, e, as6(v6, seg{seq: 1, flags: SYN, options: slices.Concat(unk, mss), payload: "odd"},
			seg{seq: 2, flags: ACK, options: unk})...)
		compare(t, "B", b, as6(v6, seg{seq: 1, flags: SYN, options: mss, payload: "odd"}, seg{seq: 2, flags: ACK, options: unk}))
		if e.Stripped() != 1 || e.Acted() != 1 {
			t.Errorf("stripped %d, acted %d", e.Stripped(), e.Acted())
		}
	})
}

func TestKinds(t *testing.T) {
	u := UnknownKinds()
	for kind := range 256 {
		known := kind <= 5 || kind == 8
		if u.Has(uint8(kind)) == known {
			t.Errorf("%d: unknown is %v", kind, !known)
		}
	}
}

func TestEchoOptions(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		e := NewEchoOptions(UnknownKinds())
		in := opening(v6, slices.Concat(mss, unk))
		a, b := through(t, e, in...)
		in[1].options = slices.Concat(mss, unk)
		compare(t, "A", a, []seg{in[1], in[4]})
		compare(t, "B", b, []seg{in[0], in[2], in[3]})
		full := as6(v6, seg{seq: 1, flags: SYN, options: bytes.Repeat(unk, 10)}, seg{fromB: true, ack: 2, flags: SYN | ACK, options: mss})
		if a, _ := through(t, e, full...); !bytes.Equal(a[0].options, mss) {
			t.Errorf("without room: % x", a[0].options)
		}
		if a, _ := through(t, NewEchoOptions(UnknownKinds()), in[1]); !bytes.Equal(a[0].options, in[1].options) {
			t.Errorf("a SYN-ACK without a SYN: % x", a[0].options)
		}
	})
}

func TestCorruptOption(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		e := NewCorruptOption(KindsOf(253), SYNs, 7)
		_, b := through(t, e, as6(v6, seg{seq: 1, flags: SYN, options: slices.Concat(mss, unk)}, seg{seq: 2, flags: ACK, options: unk})...)
		if got := b[0].options; !bytes.Equal(got[:6], slices.Concat(mss, unk)[:6]) || onesIn([]byte{got[6] ^ 0x12, got[7] ^ 0x34}) != 1 {
			t.Errorf("% x", got)
		}
		if !bytes.Equal(b[1].options, unk) || e.Acted() != 1 {
			t.Errorf("% x, %d", b[1].options, e.Acted())
		}
	})
}

func TestAddOption(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		e := NewAddOption(253, []byte{0x12, 0x34}, All)
		full := bytes.Repeat(unk, 9)
		_, b := through(t, e, as6(v6, seg{seq: 1, flags: SYN, options: mss, payload: "odd"}, seg{seq: 2, flags: ACK, options: full},
			seg{seq: 3, flags: ACK, options: append(slices.Clone(full), unk...)})...)
		compare(t, "B", b, as6(v6, seg{seq: 1, flags: SYN, options: slices.Concat(mss, unk), payload: "odd"},
			seg{seq: 2, flags: ACK, options: append(slices.Clone(full), unk...)}, seg{seq: 3, flags: ACK, options: append(slices.Clone(full), unk...)}))
		if e.Acted() != 2 {
			t.Errorf("acted %d", e.Acted())
		}
	})
}

func TestClampMSS(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		e := NewClampMSS(1220)
		_, b := through(t, e, as6(v6, seg{flags: SYN, options: mss}, seg{flags: SYN, options: []byte{2, 4, 2, 0}}, seg{flags: ACK, options: mss})...)
		compare(t, "B", b, as6(v6, seg{flags: SYN, options: []byte{2, 4, 4, 196}}, seg{flags: SYN, options: []byte{2, 4, 2, 0}}, seg{flags: ACK, options: mss}))
		if e.Acted() != 1 {
			t.Errorf("acted %d", e.Acted())
		}
	})
}

func TestSYNData(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		in := as6(v6, seg{seq: 10, flags: SYN, options: mss, payload: "data"}, seg{seq: 20, flags: SYN}, seg{seq: 21, flags: ACK, payload: "later"})
		_, b := through(t, new(StripSYNData), in...)
		compare(t, "strip", b, as6(v6, seg{seq: 10, flags: SYN, options: mss}, in[1], in[2]))
		for _, c := range []struct {
			answer Answer
			a, b   []seg
		}{
			{Drop, nil, nil},
			{Reset, as6(v6, seg{fromB: true, ack: 15, flags: RST | ACK}), nil},
			{ResetBoth, as6(v6, seg{fromB: true, ack: 15, flags: RST | ACK}), as6(v6, seg{seq: 10, flags: RST})},
			{Prohibited, as6(v6, seg{seq: map[bool]uint32{false: 3<<8 | 13, true: 1<<8 | 1}[v6]}), nil},
		} {
			a, b := through(t, NewBlockSYNData(c.answer), in...)
			compare(t, "A", a, c.a)
			compare(t, "B", b, append(slices.Clone(c.b), in[1:]...))
		}
		e := NewBlockOption(KindsOf(2), Reset)
		a, b := through(t, e, in...)
		compare(t, "A", a, as6(v6, seg{fromB: true, ack: 15, flags: RST | ACK}))
		compare(t, "B", b, in[1:])
	})
}

func TestSYNTiming(t *testing.T) {
	in := opening(false, nil)
	_, b := through(t, NewDelaySYN(time.Second), in...)
	compare(t, "delayed", b, []seg{in[2], in[3], in[0]})
	a, b := through(t, NewDuplicateSYN(time.Second), in...)
	compare(t, "A", a, []seg{in[1], in[4], in[1]})
	compare(t, "B", b, []seg{in[0], in[2], in[3], in[0]})
}

func TestSplit(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		e := NewSplit(3)
		_, b := through(t, e, as6(v6, seg{seq: 0xfffffffe, ack: 5, flags: ACK | PSH | FIN, options: sack1, payload: "abcdefgh"},
			seg{seq: 9, flags: SYN, payload: "left alone"}, seg{seq: 9, flags: ACK, payload: "abc"})...)
		compare(t, "B", b, as6(v6,
			seg{seq: 0xfffffffe, ack: 5, flags: ACK, options: sack1, payload: "abc"},
			seg{seq: 1, ack: 5, flags: ACK, options: sack1, payload: "def"},
			seg{seq: 4, ack: 5, flags: ACK | PSH | FIN, options: sack1, payload: "gh"},
			seg{seq: 9, flags: SYN, payload: "left alone"}, seg{seq: 9, flags: ACK, payload: "abc"}))
		if e.Acted() != 1 {
			t.Errorf("acted %d", e.Acted())
		}
	})
}

func TestCoalesce(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		e := NewCoalesce(6, 10*time.Millisecond)
		_, b := through(t, e, as6(v6,
			seg{seq: 1, ack: 5, flags: ACK, options: sack1, payload: "ab"}, seg{seq: 3, ack: 6, flags: ACK | PSH, payload: "cd"},
			seg{seq: 5, ack: 7, flags: ACK, payload: "ef"},                                                 // full
			seg{seq: 7, ack: 7, flags: ACK, payload: "gh"}, seg{seq: 7, ack: 7, flags: ACK, payload: "gh"}, // no continuation
			seg{seq: 9, ack: 8, flags: ACK},                                                     // no data: what waits goes first
			seg{seq: 9, flags: ACK, payload: "i"}, seg{seq: 10, flags: ACK | FIN, payload: "j"}, // the end
			seg{seq: 12, flags: ACK, payload: "longer than that"},
			seg{seq: 50, flags: ACK, payload: "z"}, // nobody comes: a timer
		)...)
		compare(t, "B", b, as6(v6,
			seg{seq: 1, ack: 7, flags: ACK | PSH, options: sack1, payload: "abcdef"},
			seg{seq: 7, ack: 7, flags: ACK, payload: "gh"}, seg{seq: 7, ack: 7, flags: ACK, payload: "gh"},
			seg{seq: 9, ack: 8, flags: ACK},
			seg{seq: 9, flags: ACK | FIN, payload: "ij"},
			seg{seq: 12, flags: ACK, payload: "longer than that"},
			seg{seq: 50, flags: ACK, payload: "z"}))
		if e.Acted() != 3 {
			t.Errorf("acted %d", e.Acted())
		}
	})
}

// What was broken before must not be joined to what is whole.
func TestCoalesceLeavesBrokenAlone(t *testing.T) {
	w := newWorld(NewCoalesce(100, time.Millisecond))
	good, bad := seg{seq: 1, flags: ACK, payload: "ab"}.raw(), seg{seq: 3, flags: ACK, payload: "cd"}.raw()
	bad[len(bad)-1] ^= 1
	w.path.From(A)(good)
	w.path.From(A)(slices.Clone(bad))
	w.clock.Advance(time.Second)
	if len(w.got[B]) != 2 || w.got[B][1].data != string(bad) {
		t.Errorf("%v", w.got[B])
	}
}

func TestRewriteSequence(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		for _, fix := range []bool{true, false} {
			e := NewRewriteSequence(fix, 3)
			in := append(opening(v6, mss), as6(v6, seg{seq: 100, flags: SYN, options: mss},
				seg{seq: 115, ack: 707, flags: ACK, options: sack1})...)
			a, b := through(t, e, in...)
			up, down := b[0].seq-100, a[0].seq-700
			if up == 0 || down == 0 || up == down {
				t.Fatalf("shifts %d and %d", up, down)
			}
			want := slices.Clone(sack1)
			if fix {
				binary.BigEndian.PutUint32(want[4:], 0x300-down)
				binary.BigEndian.PutUint32(want[8:], 0x400-down)
			}
			// The ends were not told of the shifts here, so what they acknowledge is off by as much.
			compare(t, "B", b, as6(v6, seg{seq: 100 + up, flags: SYN, options: mss}, seg{seq: 101 + up, ack: 701 - down, flags: ACK},
				seg{seq: 101 + up, ack: 701 - down, flags: ACK | PSH, payload: "GET / HTTP/1.1"}, seg{seq: 100 + up, flags: SYN, options: mss},
				seg{seq: 115 + up, ack: 707 - down, flags: ACK, options: want}))
			compare(t, "A", a, as6(v6, seg{fromB: true, seq: 700 + down, ack: 101 - up, flags: SYN | ACK, options: mss},
				seg{fromB: true, seq: 701 + down, ack: 115 - up, flags: ACK | PSH, payload: "200 OK"}))
			if _, b := through(t, e, as6(v6, seg{seq: 900, flags: SYN})...); b[0].seq-900 == up {
				t.Error("a new connection with the old shift")
			}
		}
	})
}

func TestBlackHole(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		long := as6(v6, seg{seq: 1, flags: ACK, payload: strings.Repeat("x", 1400)})
		short := as6(v6, seg{seq: 2, flags: ACK, payload: "y"})
		a, b := through(t, NewBlackHole(1300, false), long[0], short[0])
		compare(t, "silent A", a, nil)
		compare(t, "silent B", b, short)
		a, b = through(t, NewBlackHole(1300, true), long[0], short[0])
		compare(t, "A", a, as6(v6, seg{seq: map[bool]uint32{false: 3<<8 | 4, true: 2 << 8}[v6]}))
		compare(t, "B", b, short)
	})
}

// The quote and the MTU of an ICMP message, octet for octet.
func TestICMPContent(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		about := seg{v6: v6, seq: 1, flags: ACK, payload: strings.Repeat("x", 1400)}.raw()
		reply, ok := icmpError(Packet{Data: about, To: B}, TooBig, 1300)
		if !ok || reply.To != A {
			t.Fatalf("%v %v", reply, ok)
		}
		body, most := reply.Data[20:], 576
		at := 6
		if v6 {
			body, most, at = reply.Data[40:], 1280, 6
		}
		if int(binary.BigEndian.Uint16(body[at:])) != 1300 || !bytes.HasPrefix(about, body[8:]) || len(reply.Data) > most || len(body) < 8+48 {
			t.Errorf("%d octets: %x", len(reply.Data), body[:8])
		}
		if _, ok := icmpError(reply, TooBig, 1300); ok {
			t.Error("ICMP about ICMP")
		}
	})
	if _, ok := icmpError(Packet{Data: []byte{1, 2}}, TooBig, 1300); ok {
		t.Error("ICMP about nothing")
	}
}

func TestInjectICMP(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		code := map[bool]uint32{false: 3<<8 | 1, true: 1<<8 | 3}[v6]
		in := opening(v6, mss)
		a, b := through(t, NewInjectICMP(InjectICMPConfig{Message: HostUnreachable, To: B, After: 1, Count: 1}), in...)
		compare(t, "A", a, []seg{in[1], {v6: v6, seq: code}, in[4]})
		compare(t, "B", b, []seg{in[0], in[2], in[3]})
		_, b = through(t, NewInjectICMP(InjectICMPConfig{To: B, Drop: true}), in...)
		compare(t, "all dropped", b, nil)
	})
}

func TestBurstLoss(t *testing.T) {
	const packets = 20000
	l := NewBurstLoss(BurstConfig{Worsen: 0.01, Recover: 0.25, LossBad: 1, Seed: 1})
	w := newWorld(l)
	for i := range packets {
		w.path.From(A)([]byte{byte(i >> 8), byte(i)})
	}
	w.clock.Advance(time.Second)
	bursts, last := 0, -1
	for _, x := range w.got[B] {
		i := int(x.data[0])<<8 | int(x.data[1])
		if i != last+1 {
			bursts++
		}
		last = i
	}
	share, length := float64(l.Acted())/packets, float64(l.Acted())/float64(bursts)
	if share < 0.02 || share > 0.06 || length < 3 || length > 5 || int(l.Acted())+len(w.got[B]) != packets {
		t.Errorf("%.3f lost in bursts of %.2f", share, length)
	}
}

func TestBitErrors(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		sent := seg{v6: v6, seq: 1, flags: ACK, payload: "some data"}
		for _, valid := range []bool{false, true} {
			for seed := range uint64(50) {
				w := newWorld(NewBitErrors(1, valid, seed))
				w.path.From(A)(sent.raw())
				w.clock.Advance(time.Second)
				got, was := []byte(w.got[B][0].data), sent.raw()
				tcp := len(was) - len(sent.payload) - 20
				diff := 0
				for i := range was {
					if valid && (i == tcp+16 || i == tcp+17) {
						continue
					}
					diff += onesIn([]byte{got[i] ^ was[i]})
				}
				if diff != 1 || (checksum(got) == 0xffff) != valid || valid && string(got[:tcp]) != string(was[:tcp]) {
					t.Fatalf("seed %d, valid %v: %d bits", seed, valid, diff)
				}
			}
		}
	})
}

func TestJitter(t *testing.T) {
	for _, overtake := range []bool{false, true} {
		w := newWorld(NewJitter(10*time.Millisecond, 20*time.Millisecond, overtake, 4))
		for i := range 100 {
			w.path.From(A)([]byte{byte(i)})
			w.clock.Advance(time.Millisecond)
		}
		w.clock.Advance(time.Second)
		sorted := slices.IsSortedFunc(w.got[B], func(a, b arrival) int { return strings.Compare(a.data, b.data) })
		if sorted == overtake || len(w.got[B]) != 100 {
			t.Errorf("overtake %v: in order %v", overtake, sorted)
		}
		for _, x := range w.got[B] {
			if held := x.at - time.Duration(x.data[0])*time.Millisecond; held < 10*time.Millisecond || held >= 30*time.Millisecond {
				t.Errorf("held %v", held)
			}
		}
	}
}

func TestDead(t *testing.T) {
	in := opening(false, nil)
	d := NewDead(DeadConfig{AfterPackets: 2})
	a, b := through(t, d, in...)
	compare(t, "A", a, in[1:2])
	compare(t, "B", b, in[:1])
	if d.Acted() != 3 {
		t.Errorf("acted %d", d.Acted())
	}
	_, b = through(t, NewDead(DeadConfig{AfterTime: time.Millisecond, Back: 2 * time.Millisecond}), in...)
	compare(t, "back", b, []seg{in[0], in[3]})
}

// A partial checksum stays one through every kind of change, and is right once filled in.
func TestPartialChecksums(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		for name, e := range map[string]Element{
			"strip": NewStripOption(253, All), "remove": NewStripOptions(UnknownKinds(), All, true),
			"corrupt": NewCorruptOption(KindsOf(253), All, 1), "clamp": NewClampMSS(500), "split": NewSplit(3),
			"coalesce": NewCoalesce(100, time.Millisecond), "sequence": NewRewriteSequence(true, 1),
			"NAT": NewNAT(NATConfig{}), "bits": NewBitErrors(1, true, 1), "strip data": new(StripSYNData),
		} {
			w := newWorld(e)
			for _, flags := range []byte{SYN, ACK} {
				pkt := seg{v6: v6, seq: 5, flags: flags, options: slices.Concat(mss, unk), payload: "odd data!"}.raw()
				body, at := transport(pkt)
				s, _ := ParseSegment(pkt)
				binary.BigEndian.PutUint16(body[at:], fold(pseudo(s.Source.Addr(), s.Destination.Addr(), 6, len(body))))
				w.path.Inject(Packet{Data: pkt, To: B, Partial: true})
				w.clock.Advance(time.Second)
			}
			if len(segs(t, w.got[B])) < 2 {
				t.Errorf("%s: %d arrived", name, len(w.got[B]))
			}
			if t.Failed() {
				t.Fatal(name)
			}
		}
	})
}

func FuzzEveryElement(f *testing.F) {
	f.Add(seg{seq: 1, flags: SYN, options: slices.Concat(mss, unk), payload: "x"}.raw(), true)
	f.Add(seg{v6: true, fromB: true, seq: 1, ack: 2, flags: ACK, options: sack1, payload: random}.raw(), false)
	about, _ := icmpError(Packet{Data: seg{seq: 1, flags: ACK}.raw(), To: B}, TooBig, 1300)
	f.Add(about.Data, true)
	f.Fuzz(func(t *testing.T, pkt []byte, toB bool) {
		for _, e := range []Element{NewStripOptions(UnknownKinds(), All, true), NewEchoOptions(UnknownKinds()),
			NewCorruptOption(UnknownKinds(), All, 1), NewClampMSS(500), NewBlockSYNData(ResetBoth), new(StripSYNData),
			NewSplit(1), NewCoalesce(100, time.Millisecond), NewRewriteSequence(true, 1), NewBlackHole(60, true),
			NewInjectICMP(InjectICMPConfig{To: B}), NewFirewall(FirewallConfig{Strict: true, Inbound: true, Answer: Prohibited}),
			NewInjectReset(InjectResetConfig{Both: true}), NewFilter(FilterConfig{Offends: BlocksCiphertext}), NewNAT(NATConfig{}),
			NewBitErrors(1, true, 1), NewBitErrors(1, false, 1)} {
			w := newWorld(e)
			to := A
			if toB {
				to = B
			}
			for _, partial := range []bool{false, true, false} {
				w.path.Inject(Packet{Data: slices.Clone(pkt), To: to, Partial: partial})
				to = to.Other()
			}
			w.clock.Advance(time.Second)
		}
	})
}
