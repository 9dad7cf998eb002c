package lab

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestFirewall(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		in := opening(v6, mss)
		fromB := as6(v6, seg{fromB: true, seq: 1, flags: SYN})
		a, b := through(t, NewFirewall(FirewallConfig{Strict: true}), append(in, fromB...)...)
		compare(t, "A", a, []seg{in[1], in[4]})
		compare(t, "B", b, []seg{in[0], in[2], in[3]})

		// Nothing is known of it.
		_, b = through(t, NewFirewall(FirewallConfig{Answer: Reset}), in[3])
		compare(t, "unknown", b, nil)
		a, _ = through(t, NewFirewall(FirewallConfig{Answer: Reset}), in[3])
		compare(t, "reset", a, as6(v6, seg{fromB: true, seq: 701, flags: RST}))

		a, _ = through(t, NewFirewall(FirewallConfig{Inbound: true}), fromB...)
		compare(t, "inbound", a, fromB)

		// Out of every window: dropped when strict. Within it, a RST ends the connection.
		far := as6(v6, seg{fromB: true, seq: 701 + 1<<20, ack: 115, flags: ACK, payload: "x"},
			seg{fromB: true, seq: 707, ack: 900, flags: ACK}, seg{fromB: true, seq: 0xff000000, ack: 115, flags: ACK})
		strict := NewFirewall(FirewallConfig{Strict: true})
		a, _ = through(t, strict, append(slices.Clone(in), far...)...)
		compare(t, "far", a, []seg{in[1], in[4]})
		if strict.Acted() != 3 {
			t.Errorf("blocked %d", strict.Acted())
		}
		rst := as6(v6, seg{fromB: true, seq: 707, flags: RST}, seg{seq: 115, ack: 707, flags: ACK})
		a, b = through(t, NewFirewall(FirewallConfig{Strict: true}), append(slices.Clone(in), rst...)...)
		compare(t, "RST", a, []seg{in[1], in[4], rst[0]})
		compare(t, "after it", b, []seg{in[0], in[2], in[3]})
	})
}

func TestFirewallForgets(t *testing.T) {
	w := newWorld(NewFirewall(FirewallConfig{Idle: time.Minute}))
	w.path.From(A)(seg{seq: 1, flags: SYN}.raw())
	for _, wait := range []time.Duration{50 * time.Second, 50 * time.Second, 61 * time.Second} {
		w.clock.Advance(wait)
		w.path.From(A)(seg{seq: 2, flags: ACK}.raw())
	}
	w.clock.Advance(0)
	if len(w.got[B]) != 3 {
		t.Errorf("%d passed", len(w.got[B]))
	}
}

func TestInjectReset(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		in := opening(v6, mss)
		e := NewInjectReset(InjectResetConfig{Attack: OnPath, Both: true, After: 1})
		a, b := through(t, e, in...)
		compare(t, "A", a, []seg{in[1], in[4], {v6: v6, fromB: true, seq: 707, ack: 115, flags: RST | ACK}})
		compare(t, "B", b, []seg{in[0], in[2], in[3], {v6: v6, seq: 115, ack: 701, flags: RST | ACK}})

		_, b = through(t, NewInjectReset(InjectResetConfig{Attack: OffPath, To: B, After: 1, Count: 9}), in...)
		if got := b[len(b)-1]; got.flags != RST|ACK || got.seq <= 115 || got.seq > 115+5000 {
			t.Errorf("off-path: %v", got)
		}
		a, b = through(t, NewInjectReset(InjectResetConfig{Attack: Blind, To: A, Seed: 1}), in...)
		if len(a) != 3 || len(b) != 3 || a[1].flags&RST == 0 {
			t.Errorf("blind: %v %v", a, b)
		}
	})
}

func TestFilter(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		plain, noise := opening(v6, mss), opening(v6, mss)
		noise[3].payload = random
		cipher := FilterConfig{Offends: BlocksCiphertext, Residual: time.Minute}
		_, b := through(t, NewFilter(cipher), plain...)
		compare(t, "plain", b, []seg{plain[0], plain[2], plain[3]})
		e := NewFilter(cipher)
		a, b := through(t, e, noise...)
		compare(t, "noise, A", a, []seg{noise[1]})
		compare(t, "noise, B", b, []seg{noise[0], noise[2]})

		cipher.Answer = ResetBoth
		a, b = through(t, NewFilter(cipher), noise[:4]...)
		compare(t, "reset, A", a, []seg{noise[1], {v6: v6, fromB: true, seq: 701, flags: RST}})
		compare(t, "reset, B", b, []seg{noise[0], noise[2], {v6: v6, seq: 101, ack: 701, flags: RST | ACK}})

		// The same hosts again, from another port: still blocked, then no more.
		w := newWorld(e)
		again := seg{v6: v6, seq: 1, flags: SYN}.raw()
		again[len(again)-20+1]++ // the source port; nobody here looks at the checksum
		w.path.From(A)(slices.Clone(again))
		w.clock.Advance(2 * time.Minute)
		w.path.From(A)(again)
		w.clock.Advance(time.Minute)
		if len(w.got[B]) != 1 {
			t.Errorf("%d passed", len(w.got[B]))
		}
	})
}

func TestWhatLooksLikeCiphertext(t *testing.T) {
	for first, blocked := range map[string]bool{
		random:                                true,
		"\x16\x03\x01" + random:               false,
		"GET / " + random:                     false,
		random[:16] + strings.Repeat("a", 21): false,
		strings.Repeat("\x00", 100):           false,
		strings.Repeat("\xff", 100):           false,
		"\x15\x10\x1a\x0e" + random:           true, // Init1 of RFC 8548 begins so
	} {
		if BlocksCiphertext([]byte(first)) != blocked {
			t.Errorf("%q: %v", first, !blocked)
		}
	}
	offends, ok := Unless("tls", "ssh")
	if !ok || offends([]byte("\x16\x03\x01")) || offends([]byte("SSH-2.0-x")) || !offends([]byte("GET / HTTP/1.1")) || !offends([]byte(random)) {
		t.Error("Unless")
	}
	if _, ok := Unless("quic"); ok {
		t.Error("Unless knows quic")
	}
	for _, p := range Protocols() {
		if _, ok := Unless(p); !ok {
			t.Errorf("%s is not known", p)
		}
	}
}

func TestNAT(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		external := netip.MustParseAddr(map[bool]string{false: "198.18.255.1", true: "fd00::ffff:1"}[v6])
		n := NewNAT(NATConfig{Opening: time.Minute, Idle: time.Hour})
		w := newWorld(n)
		syn := seg{v6: v6, seq: 1, flags: SYN, options: mss}
		w.path.From(A)(syn.raw())
		w.clock.Advance(time.Second)
		segs(t, w.got[B])
		out, ok := ParseSegment([]byte(w.got[B][0].data))
		if !ok || out.Source != netip.AddrPortFrom(external, 1024) || out.Destination.Port() != 80 {
			t.Fatalf("%v", out.Source)
		}
		reply := func(flags byte) []byte {
			b := fresh(out.Destination, out.Source, 7, 2, flags)
			return b.packet(A).Data
		}
		w.path.From(B)(reply(SYN | ACK))
		stranger := fresh(netip.AddrPortFrom(out.Destination.Addr(), 81), out.Source, 7, 2, SYN|ACK)
		w.path.From(B)(stranger.packet(A).Data)
		w.clock.Advance(time.Second)
		back := segs(t, w.got[A])
		in, _ := ParseSegment([]byte(w.got[A][0].data))
		was, _ := ParseSegment(syn.raw())
		if len(back) != 1 || in.Destination != was.Source {
			t.Errorf("%v came to %v", back, in.Destination)
		}
		// An ICMP error about it finds its way, quote and all.
		about, _ := icmpError(Packet{Data: []byte(w.got[B][0].data), To: B}, HostUnreachable, 0)
		w.path.From(B)(about.Data)
		w.clock.Advance(time.Second)
		got := []byte(w.got[A][1].data)
		if q, _, ok := quoted(got); !ok || q.source != was.Source || destination(got) != was.Source.Addr() {
			t.Errorf("ICMP quotes %v", q)
		}
		segs(t, w.got[A][1:])
		// One whose own header is shorter than a header can be is none.
		if !v6 {
			broken := append([]byte{0x40, 0, 0, 0, 0, 0, 0, 0}, w.got[B][0].data...)
			broken[9] = protocolICMP
			if _, _, ok := quoted(broken); ok {
				t.Error("a header of no octets")
			}
		}
		// Half open, it is forgotten after the shorter time.
		w.clock.Advance(2 * time.Minute)
		w.path.From(B)(reply(ACK))
		w.path.From(A)(seg{v6: v6, seq: 2, flags: ACK}.raw())
		w.clock.Advance(time.Second)
		if len(w.got[A]) != 2 || len(w.got[B]) != 1 {
			t.Errorf("a mapping outlives its time: %d, %d", len(w.got[A]), len(w.got[B]))
		}
		// Open, after the longer one.
		w.path.From(A)(syn.raw())
		w.clock.Advance(time.Millisecond)
		out, _ = ParseSegment([]byte(w.got[B][1].data))
		w.path.From(B)(reply(SYN | ACK))
		w.path.From(B)(reply(ACK))
		w.clock.Advance(50 * time.Minute)
		w.path.From(B)(reply(ACK))
		w.clock.Advance(time.Second)
		if len(w.got[A]) != 5 {
			t.Errorf("%d of 5", len(w.got[A]))
		}
	})
}

func TestNATPortsRunOut(t *testing.T) {
	n := NewNAT(NATConfig{Ports: [2]uint16{5000, 5001}})
	w := newWorld(n)
	for port := range byte(3) {
		pkt := seg{seq: 1, flags: SYN}.raw()
		pkt[21] += port
		w.path.From(A)(pkt)
	}
	w.clock.Advance(time.Second)
	if len(w.got[B]) != 2 {
		t.Errorf("%d passed with two ports", len(w.got[B]))
	}
}
