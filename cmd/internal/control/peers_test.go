package control

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"innertun/tcpinc/identity"

	"github.com/google/go-cmp/cmp"
)

const peerKey = "ed25519:iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w="

var peers = []Peer{
	{Kind: "refused", Destination: "198.18.0.3:80", Key: peerKey, To: []string{}, RefusedAgo: 61_000},
	{Kind: "known", Destination: "198.18.0.2:80", Name: "web", Key: peerKey, To: []string{}, Added: "2026-01-31T12:00:00Z"},
	{Kind: "known", Destination: "www.example.net:80", Key: peerKey, To: []string{}},
	{Kind: "configured", Name: "lab", Auth: "tofu", To: []string{"198.18.0.0/15", "fd00::/8"}},
	{Kind: "configured", Name: "web", Key: peerKey, Auth: "none", To: []string{}},
}

func TestPeers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	var accepted, forgotten string
	s, err := Listen(path, Source{
		Peers: func() ([]Peer, error) { return peers, nil },
		AcceptPeer: func(to string, key *identity.PublicKey) (AcceptedPeer, error) {
			if key == nil {
				return AcceptedPeer{}, errors.New("was not refused of late")
			}
			accepted = to + " " + key.String()
			return AcceptedPeer{to, key.String(), "before"}, nil
		},
		ForgetPeer: func(to string) (bool, error) { forgotten = to; return true, nil },
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, ctx := NewClient(path), context.Background()
	if got, err := c.Peers(ctx); err != nil || cmp.Diff(peers, got) != "" {
		t.Errorf("%v, %s", err, cmp.Diff(peers, got))
	}
	key, err := identity.ParsePublicKey(peerKey)
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.AcceptPeer(ctx, "[fd00::2]:80", &key)
	if err != nil || a != (AcceptedPeer{"[fd00::2]:80", peerKey, "before"}) || accepted != "[fd00::2]:80 "+peerKey {
		t.Errorf("%+v, %q, %v", a, accepted, err)
	}
	if _, err := c.AcceptPeer(ctx, "198.18.0.2:80", nil); err == nil || err.Error() != "was not refused of late" {
		t.Errorf("without a key: %v", err)
	}
	if f, err := c.ForgetPeer(ctx, "www.example.net:80"); err != nil || !f.Known || forgotten != "www.example.net:80" {
		t.Errorf("%+v, %q, %v", f, forgotten, err)
	}
	if _, err := c.ForgetPeer(ctx, "nonsense"); err == nil || !strings.HasPrefix(err.Error(), `"nonsense" is no destination, expected IP:PORT`) {
		t.Errorf("nonsense: %v", err)
	}
	if _, err := c.AcceptPeer(ctx, "198.18.0.2", &key); err == nil || !strings.HasPrefix(err.Error(), `"198.18.0.2" is no destination, expected IP:PORT`) {
		t.Errorf("no port: %v", err)
	}
}

func TestPrintPeers(t *testing.T) {
	var out bytes.Buffer
	if err := PrintPeers(&out, peers); err != nil {
		t.Fatal(err)
	}
	want := strings.ReplaceAll(`DESTINATION             WHAT                    NAME  KEY
198.18.0.3:80           REFUSED 1m1s ago        -     KEY
198.18.0.2:80           known since 2026-01-31  web   KEY
www.example.net:80      known                   -     KEY
198.18.0.0/15,fd00::/8  tofu                    lab   -
-                       none                    web   KEY
`, "KEY\n", peerKey+"\n")
	want = strings.Replace(want, peerKey, "KEY", 1)
	if out.String() != want {
		t.Errorf("%s\nwant\n%s", out.String(), want)
	}
	out.Reset()
	if PrintPeers(&out, nil); out.String() != "no peers\n" {
		t.Errorf("%q", out.String())
	}
}
