package tcpinc

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"

	"innertun/tcpinc/tcpcrypt"
)

// TestEphemeralKeysAreErased: with the private key of an exchange, and what went over the wire, the keys of all generations can
// be computed. A stack keeps the Handshake for as long as the connection lasts: the key must not stay with it.
func TestEphemeralKeysAreErased(t *testing.T) {
	cfg := Config{InnerSpace: InnerSpaceOn, TEPs: tcpcrypt.TEPs()}
	exchanges := func(what string, end func(a *Handshake, synack []byte)) {
		t.Helper()
		a, b := upgradedHandshake(t, cfg), passiveHandshake(t, cfg)
		x := a.upgrade.exchange
		if x == nil || x.Erased() {
			t.Fatalf("%s: no key exchange in the SYN", what)
		}
		if taken, err := b.Receive(SYN, nil, a.AppendPayload(nil, SYN, 1400)); !taken || err != nil {
			t.Fatal(taken, err)
		}
		end(a, b.AppendPayload(nil, SYNACK, 1400))
		if a.upgrade.exchange != nil || !x.Erased() {
			t.Errorf("%s: the private key is still there", what)
		}
	}
	exchanges("answered", func(a *Handshake, synack []byte) {
		if taken, err := a.Receive(SYNACK, nil, synack); !taken || err != nil || a.prepared() == nil {
			t.Fatal(taken, err)
		}
	})
	exchanges("garbled", func(a *Handshake, synack []byte) {
		clear(synack[len(synack)-40:])
		if _, err := a.Receive(SYNACK, nil, synack); err == nil && a.prepared() != nil {
			t.Fatal("keys of a garbled answer")
		}
		a.release()
	})
	exchanges("given up", func(a *Handshake, _ []byte) { a.release() })
}

// TestFailedDialGivesUpItsSession: a secret that was offered in an upgraded SYN is erased, and no longer counted among those that
// are out, when the connection is answered and then fails.
func TestFailedDialGivesUpItsSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // an upgraded SYN has a second for its answer
		h := newEarlyHosts(t)
		paths := new(PathMemory)
		paths.innerSucceeded(paths.path(h.to), h.a.filled().Clock.Now())
		var dialled []*Handshake
		d := &Dialer{Config: h.a, Paths: paths, Connect: func(_ context.Context, _, _ netip.AddrPort, x *Handshake) (Transport, error) {
			dialled = append(dialled, x)
			b := h.passive()
			if taken, err := b.Receive(SYN, nil, x.AppendPayload(nil, SYN, 1400)); !taken || err != nil {
				t.Error(taken, err)
			}
			if taken, err := x.Receive(SYNACK, nil, b.AppendPayload(nil, SYNACK, 1400)); !taken || err != nil {
				t.Error(taken, err)
			}
			return nil, syscall.ECONNRESET
		}}
		if _, err := d.Dial(t.Context(), netip.Addr{}, h.to, DialOptions{}); !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
		if len(dialled) != 1 || dialled[0].resume.ticket == nil {
			t.Fatalf("%d connections", len(dialled))
		}
		if dialled[0].resume.ticket.Live() {
			t.Error("the secret that was offered is still there")
		}
	})
}

func passiveHandshake(t *testing.T, cfg Config) *Handshake {
	t.Helper()
	h, err := cfg.NewPassive()
	if err != nil {
		t.Fatal(err)
	}
	return h
}
