package tcpinc

import (
	"bytes"
	"net/netip"
	"testing"

	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
	"innertun/tcpinc/tcpcrypt/crypttest"
)

// cached puts the same fresh session into two caches: x was its host A, under the address of y and the other way round.
func cached(t *testing.T, tep eno.TEP, x, y *tcpcrypt.SessionCache, ofX, ofY netip.AddrPort) {
	t.Helper()
	la, lb := crypttest.Pipe(crypttest.Options{})
	a, errA := tcpcrypt.New(la, tcpcrypt.Config{Role: eno.RoleA, TEP: tep, Sessions: x, Peer: ofY})
	b, errB := tcpcrypt.New(lb, tcpcrypt.Config{Role: eno.RoleB, TEP: tep, Sessions: y, Peer: ofX})
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	done := make(chan error, 1)
	go func() { done <- b.Handshake(t.Context()) }()
	if err := a.Handshake(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	a.Abort()
	b.Abort()
}

// Two SYNs that cross on one connection. RFC 8548, Section 3.5: hosts that simultaneously send compatible resumption
// suboptions resume; what is not compatible is ignored.
func TestSimultaneousResumption(t *testing.T) {
	x, y := netip.MustParseAddrPort("198.18.0.1:7"), netip.MustParseAddrPort("198.18.0.2:7")
	for name, v := range map[string]struct {
		prepare func(t *testing.T, atX, atY *tcpcrypt.SessionCache)
		tep     eno.TEP
		resumed bool
	}{
		"same secret": {func(t *testing.T, atX, atY *tcpcrypt.SessionCache) {
			cached(t, tcpcrypt.P256, atX, atY, x, y)
		}, tcpcrypt.P256, true},
		"only host A offers": {func(t *testing.T, atX, atY *tcpcrypt.SessionCache) {
			cached(t, tcpcrypt.Curve25519, atX, atY, x, y)
			atY.FlushAll()
		}, tcpcrypt.Curve25519, false},
		"only host B offers": {func(t *testing.T, atX, atY *tcpcrypt.SessionCache) {
			cached(t, tcpcrypt.Curve25519, atX, atY, x, y)
			atX.FlushAll()
		}, tcpcrypt.Curve448, false}, // the suboption is ignored: the other TEP in B's SYN
		"secrets of different sessions": {func(t *testing.T, atX, atY *tcpcrypt.SessionCache) {
			cached(t, tcpcrypt.Curve25519, atX, new(tcpcrypt.SessionCache), x, y)
			cached(t, tcpcrypt.Curve25519, new(tcpcrypt.SessionCache), atY, x, y)
		}, tcpcrypt.Curve448, false},
		"different numbers of one session": {func(t *testing.T, atX, atY *tcpcrypt.SessionCache) {
			cached(t, tcpcrypt.Curve25519, atX, atY, x, y)
			atX.Take(y, nil).Erase()
		}, tcpcrypt.Curve448, false},
	} {
		for _, roleBIsOriginalA := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				atX, atY := new(tcpcrypt.SessionCache), new(tcpcrypt.SessionCache)
				defer atX.Close()
				defer atY.Close()
				if roleBIsOriginalA {
					v.prepare(t, atY, atX)
				} else {
					v.prepare(t, atX, atY)
				}
				cfgX, cfgY := Config{Sessions: atX}.filled(), Config{Sessions: atY, B: true, ResumeNonce: 7}.filled()
				hx, errX := cfgX.newHandshake(eno.Config{}, peerOf(atX, y))
				hy, errY := cfgY.newHandshake(eno.Config{RoleB: true}, peerOf(atY, x))
				if errX != nil || errY != nil {
					t.Fatal(errX, errY)
				}
				synX, synY := hx.AppendOptions(nil, SYN, 21), hy.AppendOptions(nil, SYN, 21)
				hx.Receive(SYN, synY, nil)
				hy.Receive(SYN, synX, nil)
				hx.Receive(SYNACK, hy.AppendOptions(nil, SYNACK, 21), nil)
				hy.Receive(SYNACK, hx.AppendOptions(nil, SYNACK, 21), nil)
				ox, oy := hx.Outcome(), hy.Outcome()
				tx, nx := hx.agreed()
				ty, ny := hy.agreed()
				tep := v.tep
				if roleBIsOriginalA && name == "only host A offers" {
					tep = tcpcrypt.Curve448 // it is host B of this connection
				} else if roleBIsOriginalA && name == "only host B offers" {
					tep = tcpcrypt.Curve25519
				}
				if ox.State != eno.Enabled || oy.State != eno.Enabled || ox.TEP != tep || oy.TEP != tep {
					t.Fatalf("outcomes %+v and %+v", ox, oy)
				}
				if (tx != nil) != v.resumed || (ty != nil) != v.resumed || !bytes.Equal(nx, ny) || v.resumed && len(nx) != 15 {
					t.Errorf("tickets %v and %v, nonces %x and %x", tx, ty, nx, ny)
				}
				if v.resumed && (ox.TEPByte != 0x80|byte(tep) || tx.Role() == ty.Role()) {
					t.Errorf("TEP byte %#x, roles %v and %v", ox.TEPByte, tx.Role(), ty.Role())
				}
			})
		}
	}
}

// With nonces of 8 octets host B's SYN has no room for another TEP beside the suboption, which host A may have to ignore: it
// does not offer.
func TestSimultaneousWithoutRoom(t *testing.T) {
	atX, atY := new(tcpcrypt.SessionCache), new(tcpcrypt.SessionCache)
	to := netip.MustParseAddrPort("198.18.0.2:7")
	cached(t, tcpcrypt.Curve25519, atX, atY, to, to)
	h, err := Config{Sessions: atX, B: true}.newHandshake(eno.Config{RoleB: true}, to)
	if err != nil {
		t.Fatal(err)
	}
	if syn := h.AppendOptions(nil, SYN, 21); h.offered() || len(syn) != 7 || atX.Sessions()[0].Next != 1 {
		t.Errorf("SYN %x, cache %+v", syn, atX.Sessions())
	}
}

// peerOf is what a cache has its session under, else the address given.
func peerOf(s *tcpcrypt.SessionCache, otherwise netip.AddrPort) netip.AddrPort {
	for _, session := range s.Sessions() {
		return session.Peer
	}
	return otherwise
}
