package seam

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"innertun/tcpinc"
	"innertun/tcpinc/identity"
	"innertun/tcpinc/tcpcrypt"
)

func seeded(b byte) (ed25519.PrivateKey, identity.PublicKey) {
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = b
	k := ed25519.NewKeyFromSeed(seed)
	public, _ := identity.PublicOf(k)
	return k, public
}

// identifiedPair is a client and a server that both prove who they are, of which a connection has come about that asked
// nobody. accepted gets the early data that the server has.
func identifiedPair(t *testing.T, server ed25519.PrivateKey) (*tcpinc.Dialer, *answering) {
	t.Helper()
	c, s := pair(t)
	cfg := tcpinc.Config{Clock: clock, InnerSpace: tcpinc.InnerSpaceAuto, Sessions: &tcpcrypt.SessionCache{Clock: clock}, EarlyData: true, Identity: server}
	t.Cleanup(func() { cfg.Sessions.Close() })
	l, err := listener(s, service, tcpinc.ListenConfig{Config: cfg})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	a := new(answering)
	go a.serve(l)
	own, _ := seeded(9)
	d := &tcpinc.Dialer{Connect: Connect(c), Paths: new(tcpinc.PathMemory), Config: tcpinc.Config{Clock: clock,
		InnerSpace: tcpinc.InnerSpaceAuto, Sessions: &tcpcrypt.SessionCache{Clock: clock}, Identity: own,
	}}
	t.Cleanup(func() { d.Config.Sessions.Close() })
	for range 2 {
		ask(t, d)
		a.take()
	}
	return d, a
}

// What is for one peer only does not leave in the SYN to another one, of whom a session is cached that nobody asked for
// proof.
func TestEarlyDataOnlyForTheRightPeer(t *testing.T) {
	key, public := seeded(1)
	_, other := seeded(2)
	known, err := identity.OpenKnown(filepath.Join(t.TempDir(), "known"), nil)
	if err != nil {
		t.Fatal(err)
	}
	changed, err := identity.OpenKnown(filepath.Join(t.TempDir(), "known"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := changed.Remember(service.String(), other); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		auth           tcpinc.Authenticator
		refused, early bool
	}{
		"pinned":           {identity.Pinned{public: "it"}, false, true},
		"pinned, another":  {identity.Pinned{other: "another"}, true, false},
		"first use":        {identity.FirstUse{Known: known}, false, false}, // nobody has vouched for it yet
		"known by another": {identity.FirstUse{Known: changed}, true, false},
		"of some program":  {anybody{}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			d, a := identifiedPair(t, key)
			o := tcpinc.DialOptions{Auth: c.auth, EarlyData: []byte(request)}
			if got := d.CarriesEarlyData(service, o); got != c.early {
				t.Errorf("CarriesEarlyData: %v", got)
			}
			ctx, cancel := context.WithTimeout(t.Context(), guard)
			defer cancel()
			conn, err := d.Dial(ctx, netip.Addr{}, service, o)
			if conn != nil {
				if got := conn.ConnectionState().EarlyData; got != c.early {
					t.Errorf("early data: %v", got)
				}
				defer conn.Close()
			}
			if errors.Is(err, tcpinc.ErrPeerIdentity) != c.refused || !c.refused && err != nil {
				t.Fatal(err)
			}
			sleep(100 * time.Millisecond)
			if got, _, _ := a.take(); c.refused && len(got) > 0 && got[0] != "" {
				t.Errorf("the wrong peer got %q", got)
			}
		})
	}
}

// anybody takes every key, and cannot be asked in advance.
type anybody struct{}

func (anybody) Authenticate(netip.AddrPort, identity.PublicKey) (string, error) { return "", nil }
