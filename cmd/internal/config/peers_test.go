package config

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"innertun/tcpinc/identity"
)

const (
	keyOne = "ed25519:iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w="
	keyTwo = "ed25519:gTl3DqhXP5d0XZYBe8Oo4DfZhcUZ4P2JzPxAwE0EJgU="
)

func parsedKey(t *testing.T, s string) identity.PublicKey {
	t.Helper()
	k, err := identity.ParsePublicKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

const peersFile = `
[identity]
key = "/k"
known_peers = "/p"
[[peer]]
name = "web"
key = "` + keyOne + `"
to = ["198.18.0.2"]
port = [80]
[[peer]]
name = "lab"
to = ["198.18.0.0/15", "*.example.net"]
[[peer]]
name = "laptop"
key = ["` + keyTwo + `"]
[[peer]]
name = "rest"
to = ["fd00::/8"]
auth = "none"
[[serve]]
listen = ":80"
forward = "127.0.0.1:80"
peers = ["laptop"]
[[serve]]
listen = ":81"
forward = "127.0.0.1:81"
auth = "pinned"
[[serve]]
listen = ":82"
forward = "127.0.0.1:82"
`

func TestPeers(t *testing.T) {
	c, err := Parse("f.toml", peersFile)
	if err != nil {
		t.Fatal(err)
	}
	one, two := parsedKey(t, keyOne), parsedKey(t, keyTwo)
	if c.Identity != (Identity{"/k", "/p"}) || !c.UsesTOFU() {
		t.Errorf("%+v", c.Identity)
	}
	p := NewPolicies(c, nil)
	for _, q := range []struct {
		name, addr string
		port       uint16
		want       string
		auth       Auth
	}{
		{"", "198.18.0.2", 80, "web", AuthPinned},
		{"", "::ffff:198.18.0.2", 80, "web", AuthPinned},
		{"", "198.18.0.2", 81, "lab", AuthTOFU}, // the first that matches
		{"WWW.example.net.", "192.0.2.1", 443, "lab", AuthTOFU},
		{"", "fd00::2", 80, "rest", AuthNone},
		{"", "192.0.2.1", 80, "", ""},
	} {
		got := p.Peer(q.name, netip.MustParseAddr(q.addr), q.port)
		if q.want == "" && got != nil || q.want != "" && (got == nil || got.Name != q.want || got.Auth != q.auth) {
			t.Errorf("%q %s %d: %+v", q.name, q.addr, q.port, got)
		}
	}
	if c.PeerName(one) != "web" || c.PeerName(two) != "laptop" || c.PeerName(identity.PublicKey{}) != "" {
		t.Error("keys have other names")
	}
	if a := c.Admitted(c.Serve[0]); len(a) != 1 || a[two] != "laptop" {
		t.Errorf("admitted to :80: %v", a)
	}
	if a := c.Admitted(c.Serve[1]); len(a) != 2 {
		t.Errorf("admitted to :81: %v", a)
	}
	if a := c.Admitted(c.Serve[2]); a != nil {
		t.Errorf("admitted to :82: %v", a)
	}
}

func TestIdentityDefaults(t *testing.T) {
	for text, want := range map[string]Identity{
		"":                           {"", DefaultKnownPeers},
		"[identity]\n":               {DefaultKey, DefaultKnownPeers},
		"[identity]\nkey = \"\"\n":   {"", DefaultKnownPeers},
		"[identity]\nkey = \"/k\"\n": {"/k", DefaultKnownPeers},
	} {
		c, err := Parse("f.toml", text)
		if err != nil || c.Identity != want {
			t.Errorf("%q: %+v, %v", text, c.Identity, err)
		}
	}
}

func TestPeerErrors(t *testing.T) {
	const serve = "[[serve]]\nlisten = \":80\"\nforward = \"127.0.0.1:80\"\n"
	const laptop = "[[peer]]\nname = \"laptop\"\nkey = \"" + keyOne + "\"\n"
	for _, c := range []struct {
		text string
		line int
		want string
	}{
		{"[identity]\nknown_peers = \"\"\n", 2, "identity.known_peers: is empty"},
		{"[identity]\nkeys = \"x\"\n", 2, "identity.keys: unknown key"},
		{"[[peer]]\nkey = \"" + keyOne + "\"\n", 1, "peer[0].name: is missing"},
		{"[[peer]]\nname = \"x\"\n", 1, "peer[0].key: is missing"},
		{"[[peer]]\nname = \"x\"\nkey = \"ssh-rsa\"\n", 3, "peer[0].key: \"ssh-rsa\" is no public key"},
		{"[[peer]]\nname = \"x\"\nkey = 1\n", 3, "peer[0].key: is the number 1"},
		{"[[peer]]\nname = \"x\"\nkey = [\"" + keyOne + "\", \"x\"]\n", 3, "peer[0].key[1]: \"x\" is no public key"},
		{"[[peer]]\nname = \"x\"\nto = [\"198.18.0.1\"]\nauth = \"pinned\"\n", 4, "there is no key"},
		{laptop + "to = [\"198.18.0.1\"]\nauth = \"tofu\"\n", 5, "there is a key"},
		{laptop + "auth = \"pinned\"\n", 4, "there is no to"},
		{laptop + "auth = \"tls\"\n", 4, "\"tls\" is unknown"},
		{laptop + "[[peer]]\nname = \"other\"\nkey = \"" + keyOne + "\"\n", 6, "is that of peer \"laptop\" already"},
		{laptop + "to = [\"198.18.0.1/33\"]\n", 4, "is no prefix"},
		{serve + "auth = \"pinned\"\n", 4, "nobody could connect"},
		{serve + "auth = \"tofu\"\n", 4, "\"tofu\" is unknown"},
		{laptop + serve + "peers = [\"desktop\"]\n", 7, "\"desktop\", number 1, is no [[peer]] with a key"},
		{laptop + serve + "peers = []\n", 7, "is empty"},
		{laptop + serve + "peers = [\"laptop\"]\nauth = \"none\"\n", 8, "is \"none\" and there are peers"},
	} {
		_, err := Parse("f.toml", c.text)
		var first *Error
		if err == nil || !errors.As(err, &first) || first.Line != c.line || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want line %d, %q", c.text, err, c.line, c.want)
		}
	}
}
