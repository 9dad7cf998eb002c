package integration

import (
	"bytes"
	"slices"
	"testing"

	"innertun/integration/decode"
	"innertun/integration/netlab"
)

// TestOrders has rules and served ports with lists of their own: the client's come out in its SYN and its Init1, the
// server's decide.
func TestOrders(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t, netlab.Options{})
	lab.Server.Serve(t, "127.0.0.1:9001", answerSum)
	startRun(t, lab.Server, `
[egress]
interface = "eth0"
[tcpinc]
ciphers = ["aes-256-gcm", "aes-128-gcm", "chacha20-poly1305"]
[[serve]]
listen = ":2001"
forward = "127.0.0.1:9001"
[[serve]]
listen = ":2002"
forward = "127.0.0.1:9001"
teps = ["p256", "curve448"]
ciphers = ["chacha20-poly1305", "aes-256-gcm"]
`)
	client := startRun(t, lab.Client, clientConfig+`
[tcpinc]
teps = ["curve25519", "p521"]
resume = false
inner_space = "off"
[[rule]]
to = ["198.18.2.2"]
port = [2001]
policy = "require"
teps = ["p521", "curve448", "p256"]
ciphers = ["chacha20-poly1305"]
[[rule]]
port = [2002]
policy = "require"
teps = ["curve448", "p256"]
ciphers = ["aes-128-gcm", "aes-256-gcm"]
`)
	for _, v := range []struct {
		family, port int
		listed       []byte // TEPs of the SYN
		offered      []uint16
		tep          byte
		cipher       uint16
		names        [2]string
	}{
		{0, 2001, []byte{0x21, 0x24, 0x22}, []uint16{16}, 0x24, 16, [2]string{"curve448", "chacha20-poly1305"}},
		{0, 2002, []byte{0x21, 0x24}, []uint16{1, 2}, 0x21, 2, [2]string{"p256", "aes-256-gcm"}},
		{1, 2001, []byte{0x22, 0x23}, []uint16{1, 2, 16}, 0x23, 2, [2]string{"curve25519", "aes-256-gcm"}},
	} {
		for _, w := range ways(lab.Client) {
			at := families()[v.family].at(uint16(v.port))
			capture := lab.Capture(t, "c0", 0, "tcp")
			if err := exchange(t, w, at); err != nil {
				t.Fatalf("%s %s: %v", w.name, at, err)
			}
			client.waitIdle(t)
			s := onlySession(t, readCapture(t, capture), client)
			var listed []byte
			for _, sub := range s.Negotiation.SubsA {
				if tep := sub.TEP(); tep != 0 {
					listed = append(listed, tep)
				}
			}
			if !bytes.Equal(listed, v.listed) || !slices.Equal(s.Init1.Ciphers, v.offered) {
				t.Errorf("%s %s: TEPs % x, ciphers %x, want % x and %x", w.name, at, listed, s.Init1.Ciphers, v.listed, v.offered)
			}
			if s.Negotiation.TEP != v.tep || s.Keys.Cipher != v.cipher {
				t.Errorf("%s %s: TEP %#x, cipher %#x", w.name, at, s.Negotiation.TEP, s.Keys.Cipher)
			}
			if r := client.newest(t, to(at)); r.TEP != v.names[0] || r.Cipher != v.names[1] {
				t.Errorf("%s: %+v", w.name, r)
			}
		}
	}
}

// onlySession expects one connection in a capture, and decrypts it with a daemon's key log.
func onlySession(t *testing.T, segs []decode.Segment, d *daemon) *decode.Session {
	t.Helper()
	all := sessions(t, segs, d)
	if len(all) != 1 {
		t.Fatalf("%d connections in the capture", len(all))
	}
	return all[0]
}

// sessions decrypts every connection of a capture with a daemon's key log, in the order of their first segments.
func sessions(t *testing.T, segs []decode.Segment, d *daemon) (all []*decode.Session) {
	t.Helper()
	flows, strays := keptFlows(segs)
	if strays = strange(t, strays, flows, d); len(strays) != 0 {
		t.Fatalf("stray segments in the capture: %v", strays)
	}
	keys, err := decode.ReadKeyLog(d.keylog)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range flows {
		s, err := f.Decrypt(keys)
		if err != nil {
			t.Fatalf("%v>%v: %v\nall violations: %q", f.A, f.B, err, s.Negotiation.Violations)
		}
		all = append(all, s)
	}
	return all
}
