package seam

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"innertun/integration/lab"
	"innertun/stack"
	"innertun/tcpinc"
	"innertun/tcpinc/tcpcrypt"
)

// attacker sees what passes and puts segments of his own in. What he sends towards an end bears the addresses of the
// last segment with data or an acknowledgment that went there.
type attacker struct {
	mu   sync.Mutex
	at   lab.Place
	last [2][]byte // towards each end: IP packet
	next [2]uint32 // the sequence number that follows it
	gone [2]bool   // nothing passes towards that end
	rsts [2]int    // seen
	macs [2]int    // seen, with an option of kind 253
}

func (a *attacker) Packet(p lab.Packet, at lab.Place) {
	s, ok := lab.ParseSegment(p.Data)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at = at
	if ok && s.Flags()&lab.RST != 0 {
		a.rsts[p.To]++
		if s.HasOption(253) {
			a.macs[p.To]++
		}
	} else if ok && !s.IsSYN() {
		n := s.Seq() + uint32(len(s.Payload()))
		if s.Flags()&lab.FIN != 0 {
			n++
		}
		if a.last[p.To] == nil || int32(n-a.next[p.To]) >= 0 {
			a.last[p.To], a.next[p.To] = bytes.Clone(p.Data), n
		}
	}
	if !a.gone[p.To] {
		at.Send(p)
	}
}

// forge makes an IPv4 segment without payload towards an end: its sequence number is that which is expected there, plus ahead.
func (a *attacker) forge(to lab.End, flags uint8, ahead uint32, options ...byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := bytes.Clone(a.last[to][:40])
	binary.BigEndian.PutUint32(p[24:], a.next[to]+ahead)
	p = append(p, options...)
	p[32], p[33] = byte(len(p)-20)/4<<4, flags
	a.send(p, to)
}

// forgeData makes a segment with octets of the attacker's own, an even number, with the sequence number that is expected.
func (a *attacker) forgeData(to lab.End, data []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := bytes.Clone(a.last[to][:40])
	binary.BigEndian.PutUint32(p[24:], a.next[to])
	p[32], p[33] = 5<<4, lab.ACK|lab.PSH
	a.send(append(p, data...), to)
}

func (a *attacker) send(p []byte, to lab.End) {
	checksums(p)
	a.at.After(0, func() { a.at.Send(lab.Packet{Data: p, To: to}) })
}

// icmp sends a message about the connection towards an end.
func (a *attacker) icmp(to lab.End, kind, code uint8) {
	a.mu.Lock()
	defer a.mu.Unlock()
	quoted := a.last[to.Other()][:28]
	p := append(bytes.Clone(a.last[to][:20]), kind, code, 0, 0, 0, 0, 0, 0)
	p = append(p, quoted...)
	p[9] = 1
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	binary.BigEndian.PutUint16(p[10:], 0)
	binary.BigEndian.PutUint16(p[10:], sum(p[:20], 0))
	binary.BigEndian.PutUint16(p[22:], sum(p[20:], 0))
	a.at.After(0, func() { a.at.Send(lab.Packet{Data: p, To: to}) })
}

func (a *attacker) cut(to lab.End) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gone[to] = true
}

func (a *attacker) seen(to lab.End) (rsts, macs int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rsts[to], a.macs[to]
}

func checksums(p []byte) {
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	binary.BigEndian.PutUint16(p[10:], 0)
	binary.BigEndian.PutUint16(p[10:], sum(p[:20], 0))
	binary.BigEndian.PutUint16(p[36:], 0)
	pseudo := uint32(6 + len(p) - 20)
	for i := 12; i < 20; i += 2 {
		pseudo += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	binary.BigEndian.PutUint16(p[36:], sum(p[20:], pseudo))
}

func sum(b []byte, s uint32) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// lines counts what is logged.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Count(l.buf.Bytes(), []byte(s))
}

// attacked is a connection to an echo server past an attacker.
type attacked struct {
	*attacker
	client, server *stack.Stack
	conn           *tcpinc.Conn
	log            *lines
}

func attackedConn(t *testing.T, mode tcpinc.ResetMode, policy tcpinc.Policy, elements ...lab.Element) attacked {
	t.Helper()
	x := attacked{attacker: new(attacker), log: new(lines)}
	x.client, x.server = pair(t, append([]lab.Element{lab.Delay(2 * time.Millisecond), x.attacker}, elements...)...)
	cfg := tcpinc.Config{Clock: clock, RST: mode, Logger: slog.New(slog.NewTextHandler(x.log, nil))}
	serve(t, x.server, tcpinc.ListenConfig{Config: tcpinc.Config{Clock: clock, RST: mode}, Policy: policy})
	d := tcpinc.Dialer{Connect: Connect(x.client), Config: cfg}
	c, err := d.Dial(t.Context(), netip.Addr{}, service, tcpinc.DialOptions{Policy: policy})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	x.conn = c
	x.talk(t)
	return x
}

// talk sends some octets and awaits them back.
func (x *attacked) talk(t *testing.T) {
	t.Helper()
	if err := x.tryTalk(); err != nil {
		t.Fatalf("%v", err)
	}
}

func (x *attacked) tryTalk() error {
	if _, err := x.conn.Write([]byte("are you there?")); err != nil {
		return err
	}
	_, err := io.ReadFull(x.conn, make([]byte, 14))
	return err
}

func eventually(t *testing.T, within time.Duration, what string, is func() bool) {
	t.Helper()
	for end := clock.Now().Add(within); !is(); sleep(5 * time.Millisecond) {
		if clock.Now().After(end) {
			t.Fatalf("not in %v: %s", within, what)
		}
	}
}

const exact, blind = 0, 5000 // ahead of what is expected

// A forged RST with the very sequence number that TCP expects, while the connection is idle and while somebody reads.
func TestForgedResetIsRefused(t *testing.T) {
	for _, reads := range []bool{false, true} {
		for _, ahead := range []uint32{exact, blind} {
			x := attackedConn(t, tcpinc.VerifyResets, tcpinc.Require)
			var got atomic.Int64
			if reads {
				go func() {
					n, _ := x.conn.WriteTo(io.Discard)
					got.Store(n)
				}()
			}
			start := clock.Now()
			x.forge(lab.A, lab.RST, ahead)
			eventually(t, time.Second, "refused", func() bool { return x.conn.ConnectionState().ResetsRefused == 1 })
			if took := since(start); took > 500*time.Millisecond {
				t.Errorf("refused after %v", took)
			}
			if !reads {
				x.talk(t)
			}
			if s := x.client.Stats(); s.ResetsHeld != 1 || s.ResetsTaken != 0 || s.ResetsReceived != 0 {
				t.Errorf("%+v", s)
			}
			if s := x.conn.ConnectionState(); s.Sent.Generation != 1 {
				t.Errorf("asked by %d rekeys", s.Sent.Generation)
			}
			if n := x.log.count("reset refused"); n != 1 {
				t.Errorf("logged %d times", n)
			}
		}
	}
}

// Under accept the same RST ends the connection; one that is in the window only gets a challenge (RFC 5961, Section 3.2).
// So it is with a plain connection, whatever the mode.
func TestResetIsAccepted(t *testing.T) {
	for name, x := range map[string]attacked{
		"accept": attackedConn(t, tcpinc.AcceptResets, tcpinc.Require),
		"plain":  attackedConn(t, tcpinc.VerifyResets, tcpinc.Off),
	} {
		x.forge(lab.A, lab.RST, blind)
		sleep(50 * time.Millisecond)
		x.talk(t)
		x.forge(lab.A, lab.RST, exact)
		if _, err := x.conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v", name, err)
		}
		if s := x.client.Stats(); s.ResetsHeld != 0 || s.ResetsReceived != 2 {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

// The peer is gone: nothing comes from it any more, but for RSTs to what is sent there.
func TestTrueReset(t *testing.T) {
	x := attackedConn(t, tcpinc.VerifyResets, tcpinc.Require)
	x.cut(lab.B) // the host answers no more ...
	start := clock.Now()
	x.forge(lab.A, lab.RST|lab.ACK, exact)
	stop := make(chan struct{})
	go func() { // ... but with RSTs
		for {
			select {
			case <-stop:
				return
			case <-after(100 * time.Millisecond):
				x.forge(lab.A, lab.RST, exact)
			}
		}
	}()
	_, err := x.conn.Read(make([]byte, 1))
	took := since(start)
	close(stop)
	if !errors.Is(err, syscall.ECONNRESET) || took < time.Second || took > 2*time.Second {
		t.Errorf("after %v: %v", took, err)
	}
	if _, err := x.conn.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("writing: %v", err)
	}
	if s := x.client.Stats(); s.ResetsTaken != 1 {
		t.Errorf("%+v", s)
	}
	if n := x.log.count("reset taken"); n != 1 {
		t.Errorf("logged %d times", n)
	}
}

// A flood: one question at a time, at a bounded rate, and one line in the log.
func TestResetFlood(t *testing.T) {
	x := attackedConn(t, tcpinc.VerifyResets, tcpinc.Require)
	ended := make(chan error, 1)
	var got bytes.Buffer
	go func() {
		_, err := x.conn.WriteTo(&got)
		ended <- err
	}()
	sent := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{2}).Read(sent)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 16 {
			x.conn.Write(sent[i<<18 : (i+1)<<18])
			sleep(200 * time.Millisecond)
		}
	}()
	n := 0
flood:
	for {
		select {
		case <-done:
			break flood
		default:
			for _, to := range []lab.End{lab.A, lab.B} {
				x.forge(to, lab.RST, uint32(n%7*1000))
			}
			n++
			sleep(5 * time.Millisecond)
		}
	}
	sleep(50 * time.Millisecond)
	x.conn.CloseWrite() // after the flood: of a stream that has ended RFC 5961 judges
	if err := <-ended; err != nil || !bytes.Equal(got.Bytes(), sent) {
		t.Errorf("%d octets of %d, %v", got.Len(), len(sent), err)
	}
	s := x.conn.ConnectionState()
	if n < 200 || s.ResetsRefused < 100 || s.Sent.Generation > 6 {
		t.Errorf("%d resets, %d refused, %d rekeys", n, s.ResetsRefused, s.Sent.Generation)
	}
	if n := x.log.count("\n"); n != 1 {
		t.Errorf("%d lines in the log: %s", n, x.log.buf.String())
	}
}

// A spoofed FIN ends nothing silently.
func TestForgedFIN(t *testing.T) {
	x := attackedConn(t, tcpinc.VerifyResets, tcpinc.Require)
	x.forge(lab.A, lab.FIN|lab.ACK, exact)
	if _, err := x.conn.Read(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v", err)
	}
}

// Forged data in the window ends the connection loudly: nothing of it is delivered.
func TestForgedData(t *testing.T) {
	x := attackedConn(t, tcpinc.VerifyResets, tcpinc.Require)
	x.forgeData(lab.A, append([]byte{0, 0, 17}, make([]byte, 17)...))
	if n, err := x.conn.Read(make([]byte, 100)); n != 0 || !errors.Is(err, tcpcrypt.ErrIntegrity) {
		t.Errorf("%d octets, %v", n, err)
	}
}

// Once a stream has ended it is TCP's affair again: a RST in the window gets a challenge, the next one is taken.
func TestResetAfterEndOfStream(t *testing.T) {
	for _, at := range []string{"that sent it", "that received it"} {
		x := attacked{attacker: new(attacker), log: new(lines)}
		x.client, x.server = pair(t, lab.Delay(2*time.Millisecond), x.attacker)
		l, err := listener(x.server, service, tcpinc.ListenConfig{})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		d := tcpinc.Dialer{Connect: Connect(x.client), Config: tcpinc.Config{Clock: clock}}
		c, err := d.Dial(t.Context(), netip.Addr{}, service, tcpinc.DialOptions{Policy: tcpinc.Require})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s, err := l.AcceptConn()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		victim, other, victims, to := c, s, x.client, lab.A
		if at == "that received it" {
			victim, other, victims, to = s, c, x.server, lab.B
		}
		c.CloseWrite()
		if _, err := s.Read(make([]byte, 1)); err != io.EOF {
			t.Fatal(err)
		}
		if at == "that sent it" {
			other.Write([]byte("x"))
			victim.Read(make([]byte, 1))
		}
		sleep(50 * time.Millisecond)
		sent := victims.Stats().SegmentsSent
		x.forge(to, lab.RST, blind)
		sleep(50 * time.Millisecond)
		if st := victims.Stats(); st.SegmentsSent != sent+1 || st.ResetsHeld != 0 {
			t.Errorf("at the end %s: %d segments in answer, %+v", at, st.SegmentsSent-sent, st)
		}
		x.forge(to, lab.RST, exact)
		eventually(t, time.Second, "ended at the end "+at, func() bool {
			if at == "that sent it" {
				return lastRead(victim)
			}
			_, err := victim.Write([]byte("x"))
			return errors.Is(err, syscall.EPIPE) // of CLOSE-WAIT
		})
	}
}

// lastRead reports whether reading fails with a reset.
func lastRead(c *tcpinc.Conn) bool {
	c.SetReadDeadline(clock.Now().Add(20 * time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	return errors.Is(err, syscall.ECONNRESET)
}

// An error from outside is a hint: ICMP ends no open connection.
func TestForgedICMP(t *testing.T) {
	for _, mode := range []tcpinc.ResetMode{tcpinc.VerifyResets, tcpinc.AcceptResets} {
		x := attackedConn(t, mode, tcpinc.Require)
		for _, code := range []uint8{0, 1, 2, 3, 5, 6, 7, 9, 10, 13} { // RFC 1122, Section 3.2.2.1; RFC 1812, Section 5.2.7.1
			x.icmp(lab.A, 3, code)
			x.icmp(lab.B, 3, code)
		}
		x.icmp(lab.A, 4, 0)  // source quench
		x.icmp(lab.A, 11, 0) // time exceeded
		x.icmp(lab.A, 12, 0) // parameter problem
		sleep(50 * time.Millisecond)
		x.talk(t)
		x.talk(t)
	}
}

// A SYN with a forged source does not take the guard of an open connection away.
func TestForgedSYNThenReset(t *testing.T) {
	x := attackedConn(t, tcpinc.VerifyResets, tcpinc.Require)
	x.forge(lab.B, lab.SYN, 77777)
	sleep(300 * time.Millisecond)
	x.forge(lab.B, lab.RST, exact)
	eventually(t, time.Second, "held", func() bool { return x.server.Stats().ResetsHeld == 1 })
	x.talk(t)
}

func (x *attacked) serverOpen() int { return x.server.Stats().Established }

// abortIsSeen resets the connection at the client and returns how long it takes the server to see that.
func (x *attacked) abortIsSeen(t *testing.T) time.Duration {
	t.Helper()
	start := clock.Now()
	x.conn.Abort()
	eventually(t, 5*time.Second, "the server's connection ends", func() bool { return x.serverOpen() == 0 })
	return since(start)
}

// A RST of the peer's own, signed, ends the connection at once; the path may renumber the octets.
func TestAuthenticatedReset(t *testing.T) {
	for name, elements := range map[string][]lab.Element{"straight": nil, "renumbered": {lab.NewRewriteSequence(true, 9)}} {
		x := attackedConn(t, tcpinc.AuthenticateResets, tcpinc.Require, elements...)
		took := x.abortIsSeen(t)
		rsts, macs := x.seen(lab.B)
		if s := x.server.Stats(); took > 500*time.Millisecond || rsts != 1 || macs != 1 || s.ResetsHeld != 0 || s.ResetsReceived != 1 {
			t.Errorf("%s: after %v, %d RSTs, %d signed, %+v", name, took, rsts, macs, s)
		}
	}
}

// Where only one end is for it nothing is signed, and the peer is asked.
func TestUnauthenticatedReset(t *testing.T) {
	x := attackedConn(t, tcpinc.VerifyResets, tcpinc.Require)
	took := x.abortIsSeen(t)
	rsts, macs := x.seen(lab.B)
	if s := x.server.Stats(); took < 900*time.Millisecond || took > 2*time.Second || rsts == 0 || macs != 0 || s.ResetsTaken != 1 {
		t.Errorf("after %v, %d RSTs, %d signed, %+v", took, rsts, macs, s)
	}
}

// A RST that somebody signed otherwise, or not at all, is not believed where signed ones are expected.
func TestForgedSignedReset(t *testing.T) {
	x := attackedConn(t, tcpinc.AuthenticateResets, tcpinc.Require)
	mac := append([]byte{253, 20, 0x49, 0x54}, bytes.Repeat([]byte{7}, 16)...)
	x.forge(lab.A, lab.RST|lab.ACK, exact, mac...)
	x.forge(lab.A, lab.RST, exact)
	eventually(t, time.Second, "refused", func() bool { return x.conn.ConnectionState().ResetsRefused == 2 })
	x.talk(t)
}

// A path that takes the signature away leaves a RST that has to be verified.
func TestStrippedSignature(t *testing.T) {
	x := attackedConn(t, tcpinc.AuthenticateResets, tcpinc.Require, lab.NewStripOption(253, lab.All))
	if took := x.abortIsSeen(t); took < 900*time.Millisecond || took > 2*time.Second {
		t.Errorf("after %v", took)
	}
}

// A resumed connection has keys for RSTs of its own, and inherits what was announced. Where the SYNs carry data, the places
// that are signed count from their initial sequence numbers all the same.
func TestAuthenticatedResetResumed(t *testing.T) {
	for _, mode := range []tcpinc.InnerSpaceMode{tcpinc.InnerSpaceOff, tcpinc.InnerSpaceAuto} {
		t.Run(mode.String(), func(t *testing.T) {
			x := attacked{attacker: new(attacker), log: new(lines)}
			x.client, x.server = pair(t, x.attacker)
			cfg := func() tcpinc.Config {
				s := &tcpcrypt.SessionCache{Clock: clock}
				t.Cleanup(func() { s.Close() })
				return tcpinc.Config{Clock: clock, RST: tcpinc.AuthenticateResets, Sessions: s, InnerSpace: mode}
			}
			serve(t, x.server, tcpinc.ListenConfig{Config: cfg()})
			d := tcpinc.Dialer{Connect: Connect(x.client), Config: cfg(), Paths: new(tcpinc.PathMemory)}
			for i := range 3 {
				c, err := d.Dial(t.Context(), netip.Addr{}, service, tcpinc.DialOptions{Policy: tcpinc.Require})
				if err != nil {
					t.Fatal(err)
				}
				x.conn = c
				x.talk(t)
				if s := c.ConnectionState(); s.Resumed != (i > 0) || s.InnerSpace != (mode != tcpinc.InnerSpaceOff) {
					t.Errorf("connection %d: resumed %v, Inner Space %v", i, s.Resumed, s.InnerSpace)
				}
				if took := x.abortIsSeen(t); took > 500*time.Millisecond {
					t.Errorf("connection %d: after %v", i, took)
				}
			}
			if s := x.server.Stats(); s.ResetsHeld != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// bulk sends octets there and back without ending its stream before all are back.
func bulk(t *testing.T, client *stack.Stack, cfg tcpinc.Config) error {
	t.Helper()
	d := tcpinc.Dialer{Connect: Connect(client), Config: cfg}
	c, err := d.Dial(t.Context(), netip.Addr{}, service, tcpinc.DialOptions{Policy: tcpinc.Require})
	if err != nil {
		return err
	}
	defer c.Close()
	sent := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{4}).Read(sent)
	go c.Write(sent)
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(got, sent) {
		return errors.New("other octets came back")
	}
	return nil
}

// The lab's attackers, in the middle of a transfer, towards both sides: it is complete under verify; and under accept one
// with the right sequence number breaks it.
func TestLabResets(t *testing.T) {
	for name, attack := range map[string]lab.Attack{"on the path": lab.OnPath, "in the window": lab.OffPath, "blind": lab.Blind} {
		inject := lab.NewInjectReset(lab.InjectResetConfig{Attack: attack, Both: true, After: 12, Count: 20, Seed: 3})
		client, server := pair(t, lab.Delay(time.Millisecond), inject)
		serve(t, server, tcpinc.ListenConfig{})
		if err := bulk(t, client, tcpinc.Config{Clock: clock}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if inject.Acted() == 0 {
			t.Errorf("%s: nothing was injected", name)
		}
	}
	client, server := pair(t, lab.Delay(time.Millisecond), lab.NewInjectReset(lab.InjectResetConfig{Attack: lab.OnPath, Both: true, After: 12, Count: 20}))
	cfg := tcpinc.Config{Clock: clock, RST: tcpinc.AcceptResets}
	serve(t, server, tcpinc.ListenConfig{Config: cfg})
	if err := bulk(t, client, cfg); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("under accept: %v", err)
	}
}

// A program reads nothing for a while, in the middle of a download: a forged RST is found out all the same.
func TestForgedResetWhileNobodyReads(t *testing.T) {
	x := attackedConn(t, tcpinc.VerifyResets, tcpinc.Require)
	go x.conn.Write(make([]byte, 2<<20)) // which comes back
	sleep(500 * time.Millisecond)
	x.forge(lab.A, lab.RST, exact)
	eventually(t, 5*time.Second, "refused", func() bool { return x.conn.ConnectionState().ResetsRefused == 1 })
	if _, err := io.ReadFull(x.conn, make([]byte, 2<<20)); err != nil {
		t.Error(err)
	}
}
