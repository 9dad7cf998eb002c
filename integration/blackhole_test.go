package integration

import (
	"testing"

	"innertun/integration/decode"
	"innertun/integration/netlab"
)

// TestBlackHole has a router that drops large packets to the server and does not say so: connections go on with smaller ones,
// where those of the kernel would stay as they are.
func TestBlackHole(t *testing.T) {
	t.Parallel() // most of it is waiting
	lab := netlab.New(t, netlab.Options{})
	lab.Server.Serve(t, "127.0.0.1:9001", answerSum)
	startRun(t, lab.Server, "[egress]\ninterface = \"eth0\"\n[[serve]]\nlisten = \":2001\"\nforward = \"127.0.0.1:9001\"\n")
	for _, f := range families() {
		lab.Server.Serve(t, f.at(2002), answerSum)
	}
	// The router is to see packets as they are on a wire.
	lab.Client.Script(t, "ethtool -K eth0 tso off gso off >/dev/null")
	lab.Router.Script(t, `
		ethtool -K c0 gro off >/dev/null
		iptables -A FORWARD -o s0 -p tcp -m length --length 1401:65535 -j DROP
		ip6tables -A FORWARD -o s0 -p tcp -m length --length 1401:65535 -j DROP`)
	client := startRun(t, lab.Client, clientConfig)
	ways := ways(lab.Client)
	const header = 20 + 20 // of IPv4 and TCP
	for i, f := range families() {
		for _, port := range []uint16{2001, 2002} {
			c := lab.Capture(t, "s0", 128, "tcp and src host "+f.client.String())
			if err := exchange(t, ways[i], f.at(port)); err != nil {
				t.Fatalf("%s, port %d: %v", f.name, port, err)
			}
			if r := client.newest(t, to(f.at(port))); r.Encrypted != (port == 2001) {
				t.Errorf("%s: %+v", f.name, r)
			}
			segs, err := decode.ReadFile(c.Stop())
			if err != nil {
				t.Fatal(err)
			}
			narrow := 0
			for _, s := range segs {
				size := header + len(s.Options) + s.Length
				if f.server.Is6() {
					size += 20
				}
				if size > 1200 && size <= 1280 {
					narrow++
				}
			}
			if narrow < 100 { // of 200,000 octets
				t.Errorf("%s, port %d: %d packets of about 1280 octets in %d", f.name, port, narrow, len(segs))
			}
		}
	}
}
