package integration

import (
	"fmt"
	"testing"

	"innertun/integration/netlab"
)

// The application-aware bit of either end, as configured, decides and is shown. RFC 8547, Section 4.2.
func TestAppAware(t *testing.T) {
	const encrypted = ""
	for _, c := range []struct {
		client, server string
		shown          [2]bool   // app_aware at the client, at the server
		reason         [2]string // fallback_reason, likewise
	}{
		{"auto", "auto", [2]bool{false, false}, [2]string{encrypted, encrypted}},
		{"on", "auto", [2]bool{false, true}, [2]string{encrypted, encrypted}},
		{"mandatory", "on", [2]bool{true, true}, [2]string{encrypted, encrypted}},
		{"mandatory", "auto", [2]bool{false, true}, [2]string{"not-app-aware", "eno-stripped"}},
		{"auto", "mandatory", [2]bool{false, false}, [2]string{"peer-no-eno", "not-app-aware"}},
	} {
		t.Run(c.client+" and "+c.server, func(t *testing.T) {
			lab := netlab.New(t, netlab.Options{})
			lab.Server.Serve(t, "127.0.0.1:2001", answerSum)
			server := startRun(t, lab.Server, fmt.Sprintf("[egress]\ninterface = \"eth0\"\n[tcpinc]\napp_aware = %q\n"+
				"[[serve]]\nlisten = \":2002\"\nforward = \"127.0.0.1:2001\"\n", c.server))
			client := startRun(t, lab.Client, clientConfig+fmt.Sprintf("[tcpinc]\napp_aware = %q\n", c.client))
			if err := exchange(t, ways(lab.Client)[0], families()[0].at(2002)); err != nil {
				t.Fatal(err)
			}
			for i, d := range []*daemon{client, server} {
				d.waitIdle(t)
				all := d.conns(t)
				if len(all) != 1 || all[0].AppAware != c.shown[i] || all[0].FallbackReason != c.reason[i] ||
					all[0].Encrypted != (c.reason[i] == encrypted) {
					t.Errorf("%s: %+v", d.host.Role, all)
				}
			}
		})
	}
}
