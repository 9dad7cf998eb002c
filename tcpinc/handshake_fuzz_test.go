package tcpinc

import (
	"crypto/ed25519"
	"net/netip"
	"testing"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt"
)

// openings makes one Handshake of each kind that a segment of the peer's can meet, with what it has sent.
func (h *earlyHosts) openings(k Segment) (all []*Handshake) {
	h.t.Helper()
	if k == SYN {
		crowded := h.passive()
		crowded.cfg.Cookies = NewCookies(nil, nil)
		crowded.Fleeting(h.to, h.from, 7)
		return []*Handshake{h.passive(), crowded}
	}
	ordinary, err := h.a.handshake(eno.Config{}, h.to, false)
	if err != nil {
		h.t.Fatal(err)
	}
	fresh := h.a
	fresh.NoResume = true
	upgraded, err := fresh.handshake(eno.Config{}, h.to, true)
	if err != nil {
		h.t.Fatal(err)
	}
	all = []*Handshake{ordinary, upgraded, h.active([]byte("early data"))}
	for _, x := range all {
		x.AppendOptions(nil, SYN, 40)
		x.AppendPayload(nil, SYN, 1200)
	}
	return all
}

// Whatever a peer, or whoever passes for it, puts into the options and the data of SYN and SYN-ACK: nothing panics, data is
// taken only of upgraded segments that parse, a repetition adds nothing, and no connection is encrypted by what nobody has sealed.
func FuzzHandshake(f *testing.F) {
	_, identity, _ := ed25519.GenerateKey(nil)
	hosts := &earlyHosts{to: netip.MustParseAddrPort("198.18.0.2:7"), from: netip.MustParseAddrPort("198.18.0.1:0")}
	hosts.a = Config{InnerSpace: InnerSpaceAuto, Identity: identity}
	hosts.b = Config{InnerSpace: InnerSpaceAuto, EarlyData: true, Identity: identity}
	x, err := hosts.a.handshake(eno.Config{}, hosts.to, true)
	if err != nil {
		f.Fatal(err)
	}
	b, err := hosts.b.NewPassive()
	if err != nil {
		f.Fatal(err)
	}
	syn := x.AppendPayload(nil, SYN, 1200)
	if taken, err := b.Receive(SYN, nil, syn); !taken || err != nil {
		f.Fatal(taken, err)
	}
	f.Add(false, []byte{}, syn)
	f.Add(true, []byte{}, b.AppendPayload(nil, SYNACK, 1200))
	f.Add(true, []byte{69, 3, 0x23}, []byte{})
	f.Add(false, []byte{69, 7, 0x81, 0xa0, 0x49, 0x53, 0x23}, []byte("data"))
	f.Fuzz(func(t *testing.T, answer bool, options, payload []byte) {
		h := &earlyHosts{t: t, to: hosts.to, from: hosts.from, a: hosts.a, b: hosts.b}
		h.a.Sessions, h.b.Sessions = new(tcpcrypt.SessionCache), new(tcpcrypt.SessionCache)
		defer h.a.Sessions.Close()
		defer h.b.Sessions.Close()
		cached(t, tcpcrypt.Curve25519, h.a.Sessions, h.b.Sessions, h.from, h.to)
		_, o, _ := innerspace.ParseSYN(payload)
		k := SYN
		if answer {
			k = SYNACK
		}
		for i, x := range h.openings(k) {
			taken, err := x.Receive(k, options, payload)
			if taken && (o != innerspace.Upgraded || err != nil) {
				t.Fatalf("%d: %v data is taken, %v", i, o, err)
			}
			if err != nil {
				x.release()
				continue
			}
			data := x.AppendPayload(nil, SYNACK, 1200)
			if k == SYN {
				x.AppendOptions(nil, SYNACK, 20)
				if again, err := x.Receive(SYN, options, payload); again && !taken || err != nil {
					t.Fatalf("%d: repeated: %v, %v", i, again, err)
				}
				if got := x.AppendPayload(nil, SYNACK, 1200); string(got) != string(data) {
					t.Fatalf("%d: another answer to a repeated SYN", i)
				}
			}
			if x.EarlyOpen() {
				t.Fatalf("%d: open early", i)
			}
			if out := x.Outcome(); k == SYN && out.Encrypt() {
				t.Fatalf("%d: %+v", i, out)
			}
			x.innerSpace()
			x.release()
		}
	})
}
