package seam

import (
	"bytes"
	"context"
	"io"
	"net/netip"
	"sync"
	"testing"
	"time"

	"innertun/stack"
	"innertun/stack/link"
	"innertun/stack/stacktest"
	"innertun/tcpinc"
	"innertun/tcpinc/eno"
)

// raw is a host that sends what a test likes, and keeps what it gets.
type raw struct {
	t    *testing.T
	wire *link.Wire
	mu   sync.Mutex
	got  []stacktest.Packet
}

// against is a stack that has a raw host as its only neighbour.
func against(t *testing.T, addr netip.Addr) (*raw, *stack.Stack) {
	t.Helper()
	r := &raw{t: t}
	r.wire = link.NewWire(1500, func(pkt []byte) {
		p, err := stacktest.Parse(bytes.Clone(pkt))
		if err != nil {
			t.Errorf("a bad packet: %v", err)
		}
		r.mu.Lock()
		r.got = append(r.got, p)
		r.mu.Unlock()
	})
	s, err := stack.New(stack.Config{
		Clock:     clock.Clock,
		Link:      r.wire,
		Addresses: []netip.Prefix{netip.PrefixFrom(addr, 32)},
		Routes:    []stack.Route{{Prefix: netip.MustParsePrefix("0.0.0.0/0")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return r, s
}

// await returns the first n packets that match, once there are so many.
func (r *raw) await(n int, what string, match func(stacktest.Packet) bool) []stacktest.Packet {
	r.t.Helper()
	for end := clock.Now().Add(10 * time.Second); ; sleep(time.Millisecond) {
		var found []stacktest.Packet
		r.mu.Lock()
		for _, p := range r.got {
			if match(p) {
				found = append(found, p)
			}
		}
		r.mu.Unlock()
		if len(found) >= n {
			return found[:n]
		}
		if clock.Now().After(end) {
			r.t.Fatalf("%d of %d came: %s", len(found), n, what)
		}
	}
}

func (r *raw) forget() {
	r.mu.Lock()
	r.got = nil
	r.mu.Unlock()
}

func isSYNACK(p stacktest.Packet) bool { return p.Is(stacktest.SYN | stacktest.ACK) }
func isSYN(p stacktest.Packet) bool    { return p.Is(stacktest.SYN) }

// enoOf is the ENO option of a segment, from its kind octet, "" if there is none.
func enoOf(p stacktest.Packet) string {
	b, ok := stacktest.Option(p.Options, eno.Kind)
	if !ok {
		return ""
	}
	return string(append([]byte{eno.Kind, byte(len(b) + 2)}, b...))
}

// Options of a SYN: MSS, then ENO options.
const (
	mss      = "\x02\x04\x05\xb4"
	x25519   = "\x45\x03\x23"
	ackENO   = "\x45\x02"
	answer   = "\x45\x04\x01\x23"
	awareYes = "\x45\x04\x03\x23"
	appAware = "\x45\x04\x02\x23"
)

var rawClient = netip.AddrPortFrom(clientAddr, 7000)

// accepted is what a Listener made of a connection.
type accepted struct {
	c   *tcpinc.Conn
	err error
}

func listen(t *testing.T, s *stack.Stack, cfg tcpinc.ListenConfig) <-chan accepted {
	t.Helper()
	l, err := listener(s, service, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	got := make(chan accepted, 1)
	go func() {
		c, err := l.AcceptConn()
		got <- accepted{c, err}
	}()
	return got
}

// Each SYN is answered as it must be, repetitions alike, and what data it carries is neither acknowledged nor delivered: the
// application reads what comes after the handshake. RFC 8547, Sections 4.1, 4.2, 4.6 and 4.7.
func TestPassiveSegments(t *testing.T) {
	const payload = "in the SYN"
	fastOpen := "\x22\x06abcd\x01\x01" // a TFO option with a cookie
	for _, c := range []struct {
		name   string
		cfg    tcpinc.Config
		policy tcpinc.Policy
		syn    string
		data   string
		again  string // the options of a second SYN, "-": none is sent
		want   string // ENO of the SYN-ACK
		want2  string // and of the one after the second SYN
		third  string // ENO of the first ACK
		reason eno.Reason
		aware  bool
	}{
		{name: "ENO, then stripped", syn: mss + x25519, again: "-", want: answer, reason: eno.Stripped},
		{name: "repeated", syn: mss + x25519, again: mss + x25519, want: answer, want2: answer, reason: eno.Stripped},
		{name: "two options", syn: mss + x25519 + x25519, again: "-", third: ackENO, reason: eno.Malformed},
		{name: "two options, one of them vacuous", syn: mss + "\x45\x02" + x25519, again: "-", reason: eno.Malformed},
		{name: "repeated without ENO", syn: mss + x25519, again: mss, want: answer, reason: eno.PeerNoENO},
		{name: "repeated without ENO, ENO in the ACK", syn: mss + x25519, again: mss, want: answer, third: ackENO, reason: eno.PeerNoENO},
		{name: "repeated with another ENO", syn: mss + x25519, again: mss + "\x45\x03\x21", want: answer, reason: eno.Malformed},
		{name: "first without ENO, then with", syn: mss, again: mss + x25519, third: ackENO, reason: eno.PeerNoENO},
		{name: "vacuous", syn: mss + "\x45\x02\x01\x01", again: "-", reason: eno.NoCommonTEP},
		{name: "b = 1", syn: mss + answer, again: "-", reason: eno.RoleConflict},
		{name: "data with ENO", syn: mss + x25519, data: payload, again: "-", want: answer, reason: eno.Stripped},
		{name: "data with ENO, no common TEP", syn: mss + "\x45\x03\x6f", data: payload, again: "-", reason: eno.NoCommonTEP},
		{name: "data with ENO and TFO", syn: mss + fastOpen + x25519, data: payload, again: "-", want: answer, reason: eno.Stripped},
		{name: "data with ENO, ENO switched off", policy: tcpinc.Off, syn: mss + x25519, data: payload, again: "-", reason: eno.PolicyOff},
		{name: "data with ENO, repeated", syn: mss + x25519, data: payload, again: mss + x25519, want: answer, want2: answer, reason: eno.Stripped},
		{name: "vacuous answer", cfg: tcpinc.Config{Clock: clock, Vacuous: true}, syn: mss + x25519, again: "-", want: "\x45\x03\x01", reason: eno.PolicyOff},
		{name: "vacuous, but no ENO in the SYN", cfg: tcpinc.Config{Clock: clock, Vacuous: true}, syn: mss, again: "-", reason: eno.PeerNoENO},
		{name: "peer is application-aware", syn: mss + appAware, again: "-", want: answer, reason: eno.Stripped, aware: true},
		{name: "this end is", cfg: tcpinc.Config{Clock: clock, AppAware: true}, syn: mss + x25519, again: "-", want: awareYes, reason: eno.Stripped},
		{name: "must be, and is not", cfg: tcpinc.Config{Clock: clock, MandatoryAppAware: true}, syn: mss + x25519, again: "-", reason: eno.NotAppAware},
		{name: "must be, and is", cfg: tcpinc.Config{Clock: clock, MandatoryAppAware: true}, syn: mss + appAware, again: "-", want: awareYes,
			reason: eno.Stripped, aware: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, s := against(t, serverAddr)
			got := listen(t, s, tcpinc.ListenConfig{Config: c.cfg, Policy: c.policy})
			send := func(seq, ack uint32, flags uint8, options, data string) {
				r.wire.Inject(stacktest.Segment(rawClient, service, seq, ack, flags, padded(options), []byte(data)))
			}
			send(1000, 0, stacktest.SYN, c.syn, c.data)
			sa := r.await(1, "SYN-ACK", isSYNACK)[0]
			if enoOf(sa) != c.want || sa.Ack != 1001 || len(sa.Payload) > 0 {
				t.Errorf("SYN-ACK with ENO % x, want % x: %v", enoOf(sa), c.want, sa)
			}
			if c.again != "-" {
				r.forget()
				send(1000, 0, stacktest.SYN, c.again, c.data)
				sa = r.await(1, "SYN-ACK again", isSYNACK)[0]
				if enoOf(sa) != c.want2 || sa.Ack != 1001 {
					t.Errorf("second SYN-ACK with ENO % x, want % x: %v", enoOf(sa), c.want2, sa)
				}
			}
			r.forget()
			send(1001, sa.Seq+1, stacktest.ACK, c.third, "")
			send(1001, sa.Seq+1, stacktest.ACK|stacktest.PSH, "", "after the SYN")
			var a accepted
			select {
			case a = <-got:
			case <-after(5 * time.Second):
				t.Fatal("not accepted as a plain connection")
			}
			if a.err != nil {
				t.Fatal(a.err)
			}
			defer a.c.Close()
			if st := a.c.ConnectionState(); st.FallbackReason != c.reason || st.PeerAppAware != c.aware {
				t.Errorf("%+v", st)
			}
			a.c.SetDeadline(clock.Now().Add(guard))
			text := make([]byte, len("after the SYN"))
			if _, err := io.ReadFull(a.c, text); err != nil || string(text) != "after the SYN" {
				t.Errorf("read %q, %v", text, err)
			}
			a.c.Write([]byte("answer"))
			for _, p := range r.await(1, "the answer", func(p stacktest.Packet) bool { return len(p.Payload) > 0 }) {
				if enoOf(p) != "" {
					t.Errorf("ENO on a plain connection: %v", p)
				}
			}
		})
	}
}

func padded(options string) []byte {
	b := []byte(options)
	for len(b)%4 != 0 {
		b = append(b, 1)
	}
	return b
}

// An active opener's SYN is the same octets each time. What it does after the SYN-ACK depends on that alone.
// RFC 8547, Sections 4.1, 4.2, 4.6 and 4.7.
func TestActiveSegments(t *testing.T) {
	for _, c := range []struct {
		name   string
		cfg    tcpinc.Config
		synAck string
		data   string
		syn    string // ENO of the SYN
		reason eno.Reason
	}{
		{name: "no ENO", synAck: mss, syn: x25519, reason: eno.PeerNoENO},
		{name: "no ENO, data in the SYN-ACK", synAck: mss, data: "early", syn: x25519, reason: eno.PeerNoENO},
		{name: "two options", synAck: mss + answer + answer, syn: x25519, reason: eno.Malformed},
		{name: "vacuous", synAck: mss + "\x45\x03\x01", syn: x25519, reason: eno.NoCommonTEP},
		{name: "a TEP that was not offered", synAck: mss + "\x45\x04\x01\x22", syn: x25519, reason: eno.NoCommonTEP},
		{name: "b = 0", synAck: mss + x25519, syn: x25519, reason: eno.RoleConflict},
		{name: "own option back", synAck: mss + x25519, syn: x25519, reason: eno.RoleConflict},
		{name: "role B", cfg: tcpinc.Config{Clock: clock, B: true}, synAck: mss + answer, syn: answer, reason: eno.RoleConflict},
		{name: "vacuous itself", cfg: tcpinc.Config{Clock: clock, Vacuous: true}, synAck: mss + answer, syn: "\x45\x02", reason: eno.PolicyOff},
		{name: "must be application-aware", cfg: tcpinc.Config{Clock: clock, MandatoryAppAware: true}, synAck: mss + answer, syn: appAware, reason: eno.NotAppAware},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, s := against(t, clientAddr)
			c.cfg.Clock, c.cfg.TEPs = clock, []eno.TEP{0x23}
			if c.cfg.Vacuous {
				c.cfg.TEPs = nil
			}
			d := tcpinc.Dialer{Connect: Connect(s), Config: c.cfg}
			go func() {
				syns := r.await(2, "SYNs", isSYN)
				for _, p := range syns {
					if enoOf(p) != c.syn || len(p.Payload) > 0 {
						t.Errorf("SYN with ENO % x, want % x: %v", enoOf(p), c.syn, p)
					}
				}
				if p := syns[0]; p.Seq != syns[1].Seq {
					t.Errorf("the second SYN is another: %v", syns[1])
				}
				r.wire.Inject(stacktest.Segment(service, syns[0].Src, 5000, syns[0].Seq+1, stacktest.SYN|stacktest.ACK, padded(c.synAck), []byte(c.data)))
			}()
			ctx, cancel := context.WithTimeout(t.Context(), guard)
			defer cancel()
			conn, err := d.Dial(ctx, netip.Addr{}, service, tcpinc.DialOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if st := conn.ConnectionState(); st.FallbackReason != c.reason || st.SYNsSent != 2 {
				t.Errorf("%+v", st)
			}
			conn.Write([]byte("hello"))
			r.await(1, "data", func(p stacktest.Packet) bool { return string(p.Payload) == "hello" })
			for _, p := range r.await(2, "ACKs", func(p stacktest.Packet) bool { return !isSYN(p) }) {
				if enoOf(p) != "" || p.Ack != 5001 {
					t.Errorf("after the SYN-ACK: %v", p)
				}
			}
		})
	}
}

// Until something else than the SYN-ACK has come, each segment has ENO: the third, Init1, and both again.
func TestENOUntilHeard(t *testing.T) {
	r, s := against(t, clientAddr)
	d := tcpinc.Dialer{Connect: Connect(s), Config: tcpinc.Config{Clock: clock, TEPs: []eno.TEP{0x23}}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		c, err := d.Dial(ctx, netip.Addr{}, service, tcpinc.DialOptions{Policy: tcpinc.Require})
		if err == nil {
			c.Close()
		}
		ended <- err
	}()
	syn := r.await(1, "SYN", isSYN)[0]
	sleep(time.Millisecond) // answered in no time, it tells no round-trip time, and Init1 is sent again twice in 3 s at most
	synAck := stacktest.Segment(service, syn.Src, 5000, syn.Seq+1, stacktest.SYN|stacktest.ACK, padded(mss+answer), nil)
	r.wire.Inject(bytes.Clone(synAck))
	init1 := func(p stacktest.Packet) bool { return len(p.Payload) > 0 }
	first := r.await(2, "Init1, twice", init1)
	r.wire.Inject(bytes.Clone(synAck)) // again: it is acknowledged again
	all := r.await(5, "segments", func(p stacktest.Packet) bool { return !isSYN(p) && p.Flags&stacktest.RST == 0 })
	for _, p := range all {
		if enoOf(p) != ackENO {
			t.Errorf("without ENO, or with another: %v", p)
		}
	}
	if !bytes.Equal(first[0].Payload, first[1].Payload) {
		t.Error("Init1 differs when it is sent again")
	}
	// An ACK has come: from now on there is none.
	last := first[1]
	r.wire.Inject(stacktest.Segment(service, syn.Src, 5001, last.Seq+uint32(len(last.Payload)), stacktest.ACK, padded(ackENO), nil))
	sleep(50 * time.Millisecond)
	r.forget()
	r.wire.Inject(stacktest.Segment(service, syn.Src, 5001, last.Seq+uint32(len(last.Payload)), stacktest.ACK|stacktest.PSH, nil, []byte{0x09, 0x7f, 0, 0}))
	for _, p := range r.await(1, "an ACK of data", func(p stacktest.Packet) bool { return !isSYN(p) }) {
		if enoOf(p) != "" {
			t.Errorf("ENO after an ACK has come: %v", p)
		}
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("connected without Init2")
	}
}
