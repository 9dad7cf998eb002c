package seam

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"innertun/tcpinc"
	"innertun/tcpinc/identity"
)

func key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func pinned(t *testing.T, name string, seed byte) identity.Pinned {
	t.Helper()
	k, err := identity.PublicOf(key(seed))
	if err != nil {
		t.Fatal(err)
	}
	return identity.Pinned{k: name}
}

// Proofs both ways, asked for at both ends, add no round trip.
func TestRoundTripsWithProofs(t *testing.T) {
	w := newVirtualWorld(t, 100*time.Millisecond)
	server, client := w.config(t), w.config(t)
	server.Identity, client.Identity = key(2), key(1)
	serve(t, w.server, tcpinc.ListenConfig{Config: server, Auth: pinned(t, "laptop", 1)})
	d := &tcpinc.Dialer{Connect: Connect(w.client), Config: client}
	for i, v := range []struct {
		auth tcpinc.Authenticator
		want float64
	}{{pinned(t, "web", 2), 3}, {pinned(t, "web", 2), 2}, {nil, 2}} {
		trips, state, err := w.roundTrips(t, d, tcpinc.DialOptions{Auth: v.auth})
		if err != nil || trips != v.want || state.Resumed != (i > 0) || state.PeerIdentity == nil {
			t.Errorf("%d: %v round trips, want %v; %+v, %v", i, trips, v.want, state, err)
		}
	}
}

// host is one end of a path, which asks for what it is told to and keeps what its application was given.
type host struct {
	mu      sync.Mutex
	given   bytes.Buffer
	refused []error
}

func (h *host) take(p []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.given.Write(p)
}

// octets and refusals are what there is now.
func (h *host) octets() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.given.String()
}

func (h *host) refusals() []error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]error(nil), h.refused...)
}

// Somebody in the middle, with a netstack towards each end: he answers the client in the server's name and dials the
// server. He is trusted by nobody who has met the other end before, or knows its key, and hears nothing of the
// application's.
func TestManInTheMiddle(t *testing.T) {
	const secret = "the application's secret"
	known, err := identity.OpenKnown(filepath.Join(t.TempDir(), "known_peers"), nil)
	if err != nil {
		t.Fatal(err)
	}
	real := tcpinc.Config{Clock: clock, Identity: key(2)}
	dial := func(t *testing.T, d *tcpinc.Dialer, auth tcpinc.Authenticator) error {
		ctx, cancel := context.WithTimeout(t.Context(), guard)
		defer cancel()
		c, err := d.Dial(ctx, netip.Addr{}, service, tcpinc.DialOptions{Auth: auth})
		if err != nil {
			return err
		}
		defer c.Abort()
		c.SetDeadline(clock.Now().Add(guard))
		if _, err := c.Write([]byte(secret)); err != nil {
			return err
		}
		got := make([]byte, len(secret))
		if _, err = io.ReadFull(c, got); err == nil && string(got) != secret {
			t.Errorf("%q came back", got)
		}
		return err
	}

	t.Run("first, without him", func(t *testing.T) {
		client, server := pair(t)
		serve(t, server, tcpinc.ListenConfig{Config: real})
		d := &tcpinc.Dialer{Connect: Connect(client), Config: tcpinc.Config{Clock: clock, Identity: key(1)}}
		if err := dial(t, d, identity.FirstUse{Known: known}); err != nil {
			t.Fatal(err)
		}
	})
	for name, v := range map[string]struct{ client, server tcpinc.Authenticator }{
		"the client has met the server": {client: identity.FirstUse{Known: known}},
		"the client has its key":        {client: pinned(t, "web", 2)},
		"the server has the client's":   {server: pinned(t, "laptop", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			client, front := pair(t) // the path from the client ends at him
			back, server := pair(t)  // and another one leads on
			end := new(host)
			l, err := listener(server, service, tcpinc.ListenConfig{Config: real, Auth: v.server, Failed: func(_ net.Addr, err error) {
				end.mu.Lock()
				defer end.mu.Unlock()
				end.refused = append(end.refused, err)
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				for {
					c, err := l.AcceptConn()
					if err != nil {
						return
					}
					go func() {
						defer c.Abort()
						buf := make([]byte, 1000)
						for {
							n, err := c.Read(buf)
							end.take(buf[:n])
							if err != nil {
								return
							}
							c.Write(buf[:n])
						}
					}()
				}
			}()
			his := new(host)
			x := tcpinc.Config{Clock: clock, Identity: key(9)}
			m, err := listener(front, service, tcpinc.ListenConfig{Config: x})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			onward := &tcpinc.Dialer{Connect: Connect(back), Config: x}
			var relays sync.WaitGroup
			defer relays.Wait()
			relays.Go(func() {
				for {
					c, err := m.AcceptConn()
					if err != nil {
						return
					}
					s, err := onward.Dial(context.Background(), netip.Addr{}, service, tcpinc.DialOptions{})
					if err != nil {
						c.Abort()
						continue
					}
					relays.Go(func() {
						defer s.Abort()
						buf := make([]byte, 1000)
						for {
							n, err := c.Read(buf)
							his.take(buf[:n])
							if _, werr := s.Write(buf[:n]); err != nil || werr != nil {
								return
							}
						}
					})
					relays.Go(func() {
						defer c.Abort()
						io.Copy(c, s)
					})
				}
			})
			defer m.Close()
			defer l.Close()

			d := &tcpinc.Dialer{Connect: Connect(client), Config: tcpinc.Config{Clock: clock, Identity: key(1)}}
			err = dial(t, d, v.client)
			if err == nil {
				t.Error("he was not noticed")
			}
			if v.client != nil {
				if !errors.Is(err, tcpinc.ErrPeerIdentity) {
					t.Errorf("the client's error: %v", err)
				}
				if got := his.octets(); got != "" {
					t.Errorf("he heard %q", got)
				}
			}
			if v.server != nil {
				for range 100 {
					if len(end.refusals()) > 0 {
						break
					}
					sleep(20 * time.Millisecond)
				}
				if all := end.refusals(); len(all) != 1 || !errors.Is(all[0], tcpinc.ErrPeerIdentity) {
					t.Errorf("the server refused %v", all)
				}
			}
			if got := end.octets(); got != "" {
				t.Errorf("the server's application was given %q", got)
			}
		})
	}
}

// Where Inner Space upgrades the opening, and keys are ready with the SYN-ACK, identities are proven all the same.
func TestProofsOverInnerSpace(t *testing.T) {
	x := inner(t, tcpinc.InnerSpaceOn, tcpinc.ListenConfig{
		Config: tcpinc.Config{Clock: clock, InnerSpace: tcpinc.InnerSpaceOn, Identity: key(2)}, Auth: pinned(t, "laptop", 1),
	})
	x.dialer.Config.Identity = key(1)
	for i, auth := range []tcpinc.Authenticator{nil, pinned(t, "web", 2), pinned(t, "web", 3)} {
		ctx, cancel := context.WithTimeout(t.Context(), guard)
		defer cancel()
		c, err := x.dialer.Dial(ctx, netip.Addr{}, service, tcpinc.DialOptions{Auth: auth})
		if i == 2 {
			if !errors.Is(err, tcpinc.ErrPeerIdentity) {
				t.Errorf("another key is pinned: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(clock.Now().Add(guard))
		c.Write([]byte("data"))
		got := make([]byte, 4)
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "data" {
			t.Errorf("%d: %q, %v", i, got, err)
		}
		if s := c.ConnectionState(); !s.InnerSpace || s.PeerIdentity == nil || i == 1 && s.PeerIdentity.Name != "web" {
			t.Errorf("%d: %+v", i, s)
		}
		c.Close()
	}
	if _, upgraded := x.seen.count(); upgraded == 0 {
		t.Error("no opening was upgraded")
	}
}
