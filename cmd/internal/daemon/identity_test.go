package daemon

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"innertun/cmd/internal/config"
	"innertun/tcpinc"
	"innertun/tcpinc/identity"
)

// The command to accept a changed key reaches the daemon that has refused it.
func TestAcceptCommand(t *testing.T) {
	changed := &identity.ChangedError{Destination: "198.18.0.2:80", New: identity.PublicKey{7}}
	err := &tcpinc.IdentityError{Remote: netip.MustParseAddrPort("198.18.0.2:80"), Key: &changed.New, Err: changed}
	command := "innertun peers accept 198.18.0.2:80 " + changed.New.String()
	for socket, want := range map[string]string{
		config.DefaultSocket: command + `"`,
		"/run/other.sock":    command + ` -control /run/other.sock"`,
	} {
		var out bytes.Buffer
		logIdentity(slog.New(slog.NewTextHandler(&out, nil)), "198.18.0.2:80", err, socket)
		if !strings.Contains(out.String(), `accept="`+want) {
			t.Errorf("%s: %s", socket, out.String())
		}
	}
}
