package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"innertun/cmd/internal/config"
	"innertun/cmd/internal/control"
	"innertun/tcpinc"
	"innertun/tcpinc/identity"
)

// maxRefused bounds the refused identities that are kept to be looked at.
const maxRefused = 256

// identities is who others are, as configured, as known from their first use, and as refused.
type identities struct {
	cfg   *config.Config
	log   *slog.Logger
	known *identity.Known // nil: no peer is trusted at its first use

	mu      sync.Mutex
	refused map[string]refusal // by destination
}

// refusal is the last identity that a destination proved and was refused for.
type refusal struct {
	key identity.PublicKey
	at  time.Time
}

// beginIdentity reads this host's key and the keys of others.
func (d *daemon) beginIdentity() error {
	d.peers = &identities{cfg: d.cfg, log: d.log, refused: make(map[string]refusal)}
	if name := d.cfg.Identity.Key; name != "" {
		key, err := identity.LoadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf(`%w; or write key = "" in [identity], if this host is to prove nothing of itself`, err)
		}
		if err != nil {
			return err
		}
		d.later("identity", func() error { clear(key); return nil })
		d.tcpinc.Identity = key
		public, err := identity.PublicOf(key)
		if err != nil {
			return err
		}
		d.log.Info("this host proves its identity to peers", "key", public)
	}
	if !d.cfg.UsesTOFU() {
		return nil
	}
	known, err := identity.OpenKnown(d.cfg.Identity.KnownPeers, nil)
	d.peers.known = known
	return err
}

// authenticator returns who judges the peer at a destination; nil: nothing needs to be proven. The name is that of a SOCKS
// request: by it the peer is known then, whatever addresses the name has.
func (i *identities) authenticator(p *config.Peer, name string, to netip.AddrPort) tcpinc.Authenticator {
	switch {
	case p == nil || p.Auth == config.AuthNone:
		return nil
	case p.Auth == config.AuthPinned:
		return p.Pinned()
	}
	return identity.FirstUse{
		Known: i.known, Name: p.Name, Destination: destination(name, to),
		Added: func(destination string, key identity.PublicKey) {
			i.log.Info("a peer is met for the first time: it is known by its key from now on", "destination", destination, "key", key, "file", i.known.Name())
		},
	}
}

// destination is what a peer is known by.
func destination(name string, to netip.AddrPort) string {
	if name == "" {
		name = to.Addr().Unmap().WithZone("").String()
	}
	return identity.Destination(name, to.Port())
}

// admitted returns who judges the clients of a served port; nil: anybody may connect.
func (i *identities) admitted(s config.Serve) tcpinc.Authenticator {
	if keys := i.cfg.Admitted(s); keys != nil {
		return keys
	}
	return nil
}

// name is how a proven peer is shown; "" for none.
func (i *identities) name(p *tcpinc.PeerIdentity) string {
	switch {
	case p == nil:
		return ""
	case p.Name != "":
		return p.Name
	}
	if name := i.cfg.PeerName(p.Key); name != "" {
		return name
	}
	return p.Key.String()
}

// noteRefusal keeps what a destination proved to be, if that was the reason for which it was refused.
func (i *identities) noteRefusal(destination string, err error) {
	var refused *tcpinc.IdentityError
	var changed *identity.ChangedError
	var unknown *identity.UnknownKeyError
	if !errors.As(err, &refused) || refused.Key == nil || !errors.As(err, &changed) && !errors.As(err, &unknown) {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if _, ok := i.refused[destination]; !ok && len(i.refused) >= maxRefused {
		oldest := ""
		for to, r := range i.refused {
			if oldest == "" || r.at.Before(i.refused[oldest].at) {
				oldest = to
			}
		}
		delete(i.refused, oldest)
	}
	i.refused[destination] = refusal{*refused.Key, time.Now()}
}

// logIdentity says loudly who was refused, and how to accept him, by a command as it is to be typed.
func logIdentity(log *slog.Logger, to string, err error, socket string) {
	attrs := []any{"to", to}
	var refused *tcpinc.IdentityError
	if errors.As(err, &refused) && refused.Key != nil {
		attrs = append(attrs, "proved", *refused.Key)
	}
	var changed *identity.ChangedError
	if errors.As(err, &changed) {
		accept := fmt.Sprintf("innertun peers accept %s %v", changed.Destination, changed.New)
		if socket != config.DefaultSocket {
			accept += " -control " + socket
		}
		attrs = append(attrs, "known", changed.Old, "accept", accept)
	}
	log.Error("refused: the peer is not proven to be the one that is meant", append(attrs, "err", err)...)
}

// list is what `innertun peers` shows: who is configured, who is known, and who was refused.
func (i *identities) list() ([]control.Peer, error) {
	var out []control.Peer
	for n := range i.cfg.Peers {
		p := &i.cfg.Peers[n]
		for _, key := range p.Keys {
			out = append(out, control.Peer{Kind: "configured", Name: p.Name, Key: key.String(), Auth: string(p.Auth), To: append([]string{}, p.To()...)})
		}
		if len(p.Keys) == 0 {
			out = append(out, control.Peer{Kind: "configured", Name: p.Name, Auth: string(p.Auth), To: append([]string{}, p.To()...)})
		}
	}
	if i.known != nil {
		all, err := i.known.List()
		if err != nil {
			return nil, err
		}
		for _, e := range all {
			out = append(out, control.KnownPeer(e, i.cfg.PeerName(e.Key)))
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for to, r := range i.refused {
		out = append(out, control.Peer{Kind: "refused", Destination: to, Name: i.cfg.PeerName(r.key), Key: r.key.String(),
			To: []string{}, RefusedAgo: milliseconds(time.Since(r.at))})
	}
	control.SortPeers(out)
	return out, nil
}

var errNoFirstUse = errors.New(`no [[peer]] has auth = "tofu": what is pinned is changed in the configuration`)

// accept makes a key the one that a destination is known by; nil: the one for which it was refused last.
func (i *identities) accept(destination string, key *identity.PublicKey) (control.AcceptedPeer, error) {
	if i.known == nil {
		return control.AcceptedPeer{}, errNoFirstUse
	}
	i.mu.Lock()
	r, ok := i.refused[destination]
	i.mu.Unlock()
	if key == nil {
		if !ok {
			return control.AcceptedPeer{}, fmt.Errorf("%s was not refused of late, so there is no key to accept: name it", destination)
		}
		key = &r.key
	}
	old, err := i.known.Accept(destination, *key)
	if err != nil {
		return control.AcceptedPeer{}, err
	}
	i.mu.Lock()
	delete(i.refused, destination)
	i.mu.Unlock()
	a := control.AcceptedPeer{Destination: destination, Key: key.String()}
	if old != nil {
		a.Before = old.String()
	}
	i.log.Warn("the identity of a peer was accepted by hand", "destination", destination, "key", a.Key, "before", a.Before)
	return a, nil
}

// forget drops what a destination is known by.
func (i *identities) forget(destination string) (known bool, err error) {
	if i.known == nil {
		return false, errNoFirstUse
	}
	if known, err = i.known.Forget(destination); err != nil {
		return false, err
	}
	i.mu.Lock()
	_, refused := i.refused[destination]
	delete(i.refused, destination)
	i.mu.Unlock()
	if known {
		i.log.Warn("the identity of a peer was forgotten: the next connection makes it known anew", "destination", destination)
	}
	return known || refused, nil
}
