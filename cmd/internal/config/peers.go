package config

import (
	"net/netip"
	"slices"

	"innertun/tcpinc/identity"
)

// Defaults of [identity].
const (
	DefaultKey        = "/etc/innertun/identity.key"
	DefaultKnownPeers = "/var/lib/innertun/known_peers"
)

// Identity is [identity]: who this host is, and where it writes down who others are.
type Identity struct {
	Key        string // file name; "": this host has no identity
	KnownPeers string // file name
}

// Auth is what must be proven of a peer.
type Auth string

const (
	AuthNone   Auth = "none"   // nothing; who proves an identity is shown
	AuthTOFU   Auth = "tofu"   // the identity that it proved first
	AuthPinned Auth = "pinned" // one of the keys that are configured
)

// Peer is one [[peer]].
type Peer struct {
	Name string
	Keys []identity.PublicKey
	Auth Auth

	at Rule // its destinations
}

func readIdentity(t *table, c *Identity) {
	defer t.done()
	c.Key = DefaultKey
	t.str("key", &c.Key)
	if t.str("known_peers", &c.KnownPeers) && c.KnownPeers == "" {
		t.fail("known_peers", "is empty, expected a file name")
	}
}

func readPeer(t *table) Peer {
	defer t.done()
	var p Peer
	if !t.str("name", &p.Name) && !t.has("name") || t.has("name") && p.Name == "" {
		t.fail("name", "is missing: a peer is shown by its name")
	}
	p.readKeys(t)
	t.strings("to", "prefixes, addresses or names", p.at.add, &p.at.To)
	readPorts(t, &p.at.Ports)
	p.readAuth(t)
	return p
}

// readKeys reads one key, or a list of them for the time in which a host's key is replaced.
func (p *Peer) readKeys(t *table) {
	add := func(path string, v any) {
		s, ok := v.(string)
		if !ok {
			t.doc.fail(path, "is %s, expected a public key as innertun key show prints it", typeName(v))
			return
		}
		key, err := identity.ParsePublicKey(s)
		if err != nil {
			t.doc.fail(path, "%v", err)
			return
		}
		p.Keys = append(p.Keys, key)
	}
	if v, ok := t.get("key"); ok {
		if _, isList := v.([]any); isList {
			t.list("key", "public keys", add)
		} else {
			add(t.key("key"), v)
		}
	}
}

func (p *Peer) readAuth(t *table) {
	switch {
	case len(p.at.To) == 0:
		p.Auth = AuthNone
	case t.has("key"):
		p.Auth = AuthPinned
	default:
		p.Auth = AuthTOFU
	}
	t.choice("auth", (*string)(&p.Auth), []string{"none", "tofu", "pinned"}, nil)
	switch {
	case p.Auth == AuthPinned && !t.has("key"):
		t.fail("auth", "is \"pinned\" and there is no key: expected key = \"ed25519:...\", as innertun key show prints it on that host")
	case p.Auth == AuthTOFU && t.has("key"):
		t.fail("auth", "is \"tofu\" and there is a key: expected \"pinned\", or no key")
	case p.Auth != AuthNone && !t.has("to"):
		t.fail("auth", "is %q and there is no to: expected the peer's addresses or names (clients are asked for by peers in [[serve]])", p.Auth)
	case p.Auth == AuthNone && !t.has("key") && !t.has("to"):
		t.fail("key", "is missing: a peer is known by its key, or by where it is (to)")
	}
}

// readPeers reads all [[peer]]. One key has one name.
func readPeers(root *table, c *Config) {
	for _, t := range root.subs("peer") {
		p := readPeer(t)
		for _, key := range p.Keys {
			if name := c.PeerName(key); name != "" && name != p.Name {
				t.fail("key", "%v is that of peer %q already", key, name)
			}
		}
		c.Peers = append(c.Peers, p)
	}
}

// readServePeers reads who may connect to a served port.
func readServePeers(t *table, s *Serve, c *Config) {
	s.Auth = AuthNone
	if t.strings("peers", "names of peers", func(string) error { return nil }, &s.Peers) {
		s.Auth = AuthPinned
	}
	if t.has("peers") && len(s.Peers) == 0 {
		t.fail("peers", "is empty: expected names of [[peer]], or auth = \"pinned\" for all that have a key")
	}
	t.choice("auth", (*string)(&s.Auth), []string{"none", "pinned"}, nil)
	if s.Auth == AuthNone && len(s.Peers) > 0 {
		t.fail("auth", "is \"none\" and there are peers: expected \"pinned\", or no peers")
	}
	for i, name := range s.Peers {
		if !slices.ContainsFunc(c.Peers, func(p Peer) bool { return p.Name == name && len(p.Keys) > 0 }) {
			t.fail("peers", "%q, number %d, is no [[peer]] with a key", name, i+1)
		}
	}
	if s.Auth == AuthPinned && len(c.pinned(s.Peers)) == 0 && len(s.Peers) == 0 {
		t.fail("auth", "is \"pinned\" and no [[peer]] has a key: nobody could connect")
	}
}

// PeerName is the name of the peer with that key, "" if there is none.
func (c *Config) PeerName(key identity.PublicKey) string {
	for i := range c.Peers {
		if slices.Contains(c.Peers[i].Keys, key) {
			return c.Peers[i].Name
		}
	}
	return ""
}

// Admitted are the keys that may connect to a served port, nil for all and for those without one.
func (c *Config) Admitted(s Serve) identity.Pinned {
	if s.Auth != AuthPinned {
		return nil
	}
	return c.pinned(s.Peers)
}

// pinned are the keys of the peers of those names, or of all.
func (c *Config) pinned(names []string) identity.Pinned {
	all := identity.Pinned{}
	for _, p := range c.Peers {
		if len(names) == 0 || slices.Contains(names, p.Name) {
			for _, key := range p.Keys {
				all[key] = p.Name
			}
		}
	}
	return all
}

// Pinned are the peer's keys with its name.
func (p *Peer) Pinned() identity.Pinned {
	all := identity.Pinned{}
	for _, key := range p.Keys {
		all[key] = p.Name
	}
	return all
}

// To is the peer's destinations as written.
func (p *Peer) To() []string { return p.at.To }

// Peer returns the first [[peer]] that has a destination in its to, nil if none has. See Lookup.
func (p *Policies) Peer(name string, addr netip.Addr, port uint16) *Peer {
	name, addr = canonicalName(name), addr.Unmap().WithZone("")
	for i := range p.cfg.Peers {
		if q := &p.cfg.Peers[i]; len(q.at.To) > 0 && q.at.matches(name, addr, port) {
			return q
		}
	}
	return nil
}

// UsesTOFU reports whether any peer is trusted at its first use.
func (c *Config) UsesTOFU() bool {
	return slices.ContainsFunc(c.Peers, func(p Peer) bool { return p.Auth == AuthTOFU })
}
