package integration

import (
	"fmt"
	"net"
	"testing"
	"time"

	"innertun/integration/decode"
	"innertun/integration/netlab"
)

// TestInstruments is a control experiment without innertun: the router's middleboxes do to ENO options what the
// other tests believe they do, and raw peers can open connections with them.
func TestInstruments(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t, netlab.Options{})
	lab.Server.Serve(t, "198.18.2.2:2001", answerSum)
	peer := newRawPeer(t, lab.Client)
	for i, test := range []struct {
		name       string
		interfere  func()
		syn, third bool // ENO arrives
		lost       bool // the SYN does not
	}{
		{name: "none", interfere: func() {}, syn: true, third: true},
		{name: "strip SYN", interfere: func() { lab.StripENO(t, netlab.SYN, netlab.Both) }, third: true},
		{name: "strip all", interfere: func() { lab.StripENO(t, netlab.All, netlab.ToServer) }},
		{name: "strip all, other direction", interfere: func() { lab.StripENO(t, netlab.All, netlab.ToClient) }, syn: true, third: true},
		{name: "strip non-SYN", interfere: func() { lab.StripENO(t, netlab.NonSYN, netlab.Both) }, syn: true},
		{name: "drop", interfere: func() { lab.DropENO(t, netlab.SYN, netlab.Both) }, lost: true},
		{name: "cleared", interfere: func() {}, syn: true, third: true},
	} {
		lab.ClearMiddlebox(t)
		test.interfere()
		c := &rawConn{peer: peer, port: 20000 + uint16(i), to: 2001, seq: 1}
		capture := lab.Capture(t, "s0", 0, fmt.Sprintf("tcp and dst host 198.18.2.2 and src port %d", c.port))
		if test.lost {
			if err := c.send(syn, enoCurve25519, nil); err != nil {
				t.Fatal(err)
			}
			if s, err := c.wait(300*time.Millisecond, func(rawSegment) bool { return true }); err == nil {
				t.Errorf("%s: answered with flags %#02x", test.name, s.flags)
			}
		} else if _, err := c.open(enoCurve25519, enoACK); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		segs := readCapture(t, capture)
		var arrived []bool
		for _, s := range segs {
			enos, err := s.ENO()
			if err != nil {
				t.Fatal(err)
			}
			arrived = append(arrived, len(enos) > 0)
		}
		switch {
		case test.lost && len(segs) == 0:
		case !test.lost && len(segs) == 2 && arrived[0] == test.syn && arrived[1] == test.third && segs[0].Flags == decode.SYN:
		default:
			t.Errorf("%s: ENO arrived: %v", test.name, arrived)
		}
		_ = c.send(rst, nil, nil)
	}
}

// TestControl is what other tests do with innertun, done by the kernel's TCP alone: what fails here is not
// innertun's fault.
func TestControl(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	web := lab.Server.StartNginx(t, 16<<20, "198.18.2.2:80", "[fd00:2::2]:80")
	lab.Server.Serve(t, ":2001", answerSum)
	speakFirst, flooded := make(chan error, 4), make(chan error, 8)
	lab.Server.Serve(t, ":2002", func(c *net.TCPConn) { speakFirst <- sendThenRead(c) })
	lab.Server.Serve(t, ":2003", func(c *net.TCPConn) { flooded <- flood(c) })
	lab.Server.Serve(t, ":2004", sayBye)
	before := snapshot(t, lab.Client)
	kernel := way{name: "kernel", dial: ways(lab.Client)[0].dial}
	manyDownloads(t, kernel, web, 200)
	manyUploads(t, kernel, web, 100)
	for _, f := range families() {
		if err := exchange(t, kernel, f.at(2001)); err != nil {
			t.Error(err)
		}
	}
	halfCloseByServer(t, kernel, speakFirst)
	slowReader(t, kernel, web)
	abort(t, kernel, flooded)
	killClient(t, lab, kernel, flooded)
	sameSourcePort(t, lab.Client)
	udp(t, lab)
	compare(t, "without innertun", before, snapshot(t, lab.Client))
}
