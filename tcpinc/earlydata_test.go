package tcpinc

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt"
)

// earlyHosts are two hosts with a session, and what opens connections between them.
type earlyHosts struct {
	t        *testing.T
	to, from netip.AddrPort
	a, b     Config
}

func newEarlyHosts(t *testing.T) *earlyHosts {
	t.Helper()
	h := &earlyHosts{t: t, to: netip.MustParseAddrPort("198.18.0.2:7"), from: netip.MustParseAddrPort("198.18.0.1:0")}
	h.a = Config{Sessions: new(tcpcrypt.SessionCache), InnerSpace: InnerSpaceAuto}
	h.b = Config{Sessions: new(tcpcrypt.SessionCache), InnerSpace: InnerSpaceAuto, EarlyData: true}
	t.Cleanup(func() { h.a.Sessions.Close(); h.b.Sessions.Close() })
	cached(t, tcpcrypt.Curve25519, h.a.Sessions, h.b.Sessions, h.from, h.to)
	return h
}

func (h *earlyHosts) active(data []byte) *Handshake {
	h.t.Helper()
	x, err := h.a.handshake(eno.Config{}, h.to, true)
	if err != nil {
		h.t.Fatal(err)
	}
	x.early.data = data
	return x
}

func (h *earlyHosts) passive() *Handshake {
	h.t.Helper()
	x, err := h.b.NewPassive()
	if err != nil {
		h.t.Fatal(err)
	}
	x.SetPeer(h.from.Addr())
	return x
}

// A SYN that is sent again is the same octet for octet, whatever room there is then, or has no data.
func TestEarlyDataSealedOnce(t *testing.T) {
	h := newEarlyHosts(t)
	data := bytes.Repeat([]byte("early data "), 1000)
	x := h.active(data)
	const room = 1100
	first := x.AppendPayload(nil, SYN, room)
	if len(first) > room || len(first) < room-4 {
		t.Fatalf("%d octets where there is room for %d", len(first), room)
	}
	for _, later := range []int{room, room - 1, 100, 0, 9000} {
		got := x.AppendPayload(nil, SYN, later)
		if fits := later >= len(first); fits && !bytes.Equal(got, first) || !fits && len(got) != 0 {
			t.Errorf("with room for %d: %d octets", later, len(got))
		}
	}
	b := h.passive()
	if taken, err := b.Receive(SYN, nil, first); !taken || err != nil {
		t.Fatal(taken, err)
	}
	if got := b.earlyData().opened; len(got) != x.early.sealed || !bytes.HasPrefix(data, got) || !b.EarlyOpen() {
		t.Errorf("%d octets of %d arrive", len(got), x.early.sealed)
	}
	if whole := h.active(data).AppendPayload(nil, SYN, 9000); len(whole) > maxEarlySYN || len(whole) < maxEarlySYN-4 {
		t.Errorf("%d octets where there is room for any", len(whole))
	}
	if b.early.opened != nil || x.early.data == nil {
		t.Error("what was handed on stays, or what was not does not")
	}
}

// Two connections to one destination do not share a key, and a ticket that was erased seals nothing.
func TestEarlyDataKeys(t *testing.T) {
	h := newEarlyHosts(t)
	data := []byte("the same words")
	var sealed [][]byte
	for range 3 {
		p := h.active(data).AppendPayload(nil, SYN, 1400)
		s, o, err := innerspace.ParseSYN(p)
		if o != innerspace.Upgraded || err != nil || len(s.Payload) != len(data)+tcpcrypt.EarlyOverhead {
			t.Fatalf("%v, %v, %d", o, err, len(s.Payload))
		}
		for _, before := range sealed {
			if bytes.Equal(before, s.Payload) {
				t.Error("the same octets on two connections")
			}
		}
		sealed = append(sealed, s.Payload)
	}
	x := h.active(data)
	x.release()
	if s, _, _ := innerspace.ParseSYN(x.AppendPayload(nil, SYN, 1400)); len(s.Payload) != 0 {
		t.Error("sealed with a ticket that was erased")
	}
}

// The keys of early data are told apart from those of a copy of the cache, in a clone of this host, by the nonce alone: with a short
// one none is sent.
func TestEarlyDataNeedsNonce(t *testing.T) {
	for octets, carries := range map[int]bool{0: true, 8: true, 7: false, -1: false} {
		h := newEarlyHosts(t)
		h.a.ResumeNonce = octets
		s, o, err := innerspace.ParseSYN(h.active([]byte("first words")).AppendPayload(nil, SYN, 1400))
		if o != innerspace.Upgraded || err != nil || (len(s.Payload) > 0) != carries {
			t.Errorf("ResumeNonce %d: %v, %v, %d octets of payload", octets, o, err, len(s.Payload))
		}
		paths := new(PathMemory)
		paths.innerSucceeded(paths.path(h.to), h.a.filled().Clock.Now())
		d := Dialer{Config: h.a, Paths: paths}
		if got := d.CarriesEarlyData(h.to, DialOptions{}); got != carries {
			t.Errorf("ResumeNonce %d: CarriesEarlyData is %v", octets, got)
		}
	}
}

// What a server declines, and what it says of it.
func TestEarlyDataVerdicts(t *testing.T) {
	data := []byte("first words")
	for name, v := range map[string]struct {
		server   func(h *earlyHosts)
		peer     string // where it comes from
		edit     func(payload []byte)
		accepted bool
	}{
		"all is well":     {accepted: true},
		"mapped address":  {peer: "::ffff:198.18.0.1", accepted: true},
		"another address": {peer: "198.18.0.9"},
		"no address":      {peer: "none"},
		"switched off":    {server: func(h *earlyHosts) { h.b.EarlyData = false }},
		"no session":      {server: func(h *earlyHosts) { h.b.Sessions.FlushAll() }},
		"not to resume":   {server: func(h *earlyHosts) { h.b.NoResume = true }},
		"another tag":     {edit: func(p []byte) { p[len(p)-1] ^= 1 }},
		"another length":  {edit: func(p []byte) { p[2]-- }},
		"a rekey":         {edit: func(p []byte) { p[0] = 1 }},
	} {
		t.Run(name, func(t *testing.T) {
			h := newEarlyHosts(t)
			if v.server != nil {
				v.server(h)
			}
			x, b := h.active(data), h.passive()
			switch v.peer {
			case "":
			case "none":
				b.SetPeer(netip.Addr{})
			default:
				b.SetPeer(netip.MustParseAddr(v.peer))
			}
			syn := x.AppendPayload(nil, SYN, 1400)
			if v.edit != nil {
				v.edit(syn[len(syn)-len(data)-tcpcrypt.EarlyOverhead:])
			}
			if taken, err := b.Receive(SYN, nil, syn); !taken || err != nil {
				t.Fatal(taken, err)
			}
			answer := b.AppendPayload(nil, SYNACK, 1400)
			if taken, err := x.Receive(SYNACK, nil, answer); !taken || err != nil {
				t.Fatal(taken, err)
			}
			if x.earlyAccepted() != v.accepted || b.EarlyOpen() != v.accepted || !x.early.offered || !b.early.offered {
				t.Errorf("accepted %v at the client, %v at the server", x.earlyAccepted(), b.EarlyOpen())
			}
			if again := b.AppendPayload(nil, SYNACK, 1400); !bytes.Equal(again, answer) {
				t.Error("another SYN-ACK the second time")
			}
			// A copy, from the same address: what it names is spent.
			c := h.passive()
			if taken, err := c.Receive(SYN, nil, syn); !taken || err != nil || c.EarlyOpen() {
				t.Errorf("a copy: taken %v, %v, open %v", taken, err, c.EarlyOpen())
			}
		})
	}
}

// A ticket seals, or opens, once.
func TestTicketSealsOnce(t *testing.T) {
	h := newEarlyHosts(t)
	ticket := h.a.Sessions.Take(h.to, nil)
	nonce := make([]byte, 8)
	if _, err := ticket.SealEarly(nil, []byte("x"), nonce); err != nil {
		t.Fatal(err)
	}
	if _, err := ticket.SealEarly(nil, []byte("x"), nonce); !errors.Is(err, tcpcrypt.ErrEarlyUsed) {
		t.Errorf("sealed again: %v", err)
	}
	if _, err := ticket.OpenEarly(make([]byte, 40), nonce); !errors.Is(err, tcpcrypt.ErrEarlyUsed) {
		t.Errorf("opened after it was sealed: %v", err)
	}
}
