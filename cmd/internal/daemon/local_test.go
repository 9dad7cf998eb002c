package daemon

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"innertun/cmd/internal/config"
	"innertun/cmd/internal/conns"
	"innertun/tcpinc"
)

// A name of which a proof is asked does not end at a program on this host because somebody made it stand for loopback.
func TestThisHostProvesNothing(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg, err := config.Parse("test", `
[[peer]]
name = "web"
to = ["www.example.net"]
key = "ed25519:Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="
[[peer]]
name = "self"
to = ["self.example.net"]
auth = "none"
[socks]
`)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	o := &outbound{
		policies: config.NewPolicies(cfg, log), registry: conns.New(nil),
		where: func(netip.Addr) place { return thisHost },
		peers: &identities{cfg: cfg, log: log, refused: make(map[string]refusal)},
	}
	to := l.Addr().(*net.TCPAddr).AddrPort()
	for name, want := range map[string]error{"www.example.net": tcpinc.ErrEncryptionRequired, "self.example.net": nil, "": nil} {
		out, err := o.open(t.Context(), netip.Addr{}, name, to, nil)
		if !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", name, err, want)
		}
		if out.conn != nil {
			out.conn.Close()
		}
	}
}
