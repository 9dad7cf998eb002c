package decode

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// conversation is a whole connection; edit may change the frames' octets before they are cut into segments.
func conversation(t *testing.T, v6 bool, cipher uint16, edit func(ab, ba []byte) ([]byte, []byte)) *world {
	t.Helper()
	w := newWorld(v6)
	w.handshake()
	m1, m2 := init1(1, 2, 0x10), init2(cipher)
	w.send(AtoB, ACK|PSH, ackENO, m1)
	w.send(BtoA, ACK|PSH, nil, m2)
	sa := &sealer{t: t, cipher: cipher, key: trafficKey(t, "ab0", cipher), offset: uint64(len(m1))}
	sb := &sealer{t: t, cipher: cipher, key: trafficKey(t, "ba0", cipher), offset: uint64(len(m2))}
	ab := append(sa.frame(0, 0, []byte("GET / HTTP/1.1")), sa.frame(0, 0, nil)...)
	ba := sb.frame(0, 0, bytes.Repeat([]byte("answer "), 2000))
	sa.key, sb.key = trafficKey(t, "ab1", cipher), trafficKey(t, "ba1", cipher)
	ab = append(ab, sa.frame(1, 0, []byte("more"))...)
	ab = append(ab, sa.frame(0, flagFINp, nil)...)
	ba = append(ba, sb.frame(1, flagFINp, []byte("end"))...)
	if edit != nil {
		ab, ba = edit(ab, ba)
	}
	w.send(AtoB, ACK|PSH, nil, ab[:10])
	// B's data: a super-segment, then pieces out of order, overlapping and repeated.
	seq := w.seqB
	piece := func(from, to int) { w.put(BtoA, ACK, seq+uint32(from), w.seqA, nil, ba[from:to]) }
	piece(0, 9000)
	piece(11000, 12000)
	piece(10000, 11500)
	piece(8000, 10500)
	piece(0, 1000)
	piece(12000, len(ba))
	w.seqB += uint32(len(ba))
	w.send(BtoA, ACK|FIN, nil, nil)
	w.send(AtoB, ACK|FIN|PSH, nil, ab[10:])
	return w
}

func keysOf(w *world, t *testing.T, cipher uint16) []Keys {
	t.Helper()
	return readKeys(t, "# a comment\n"+keyLogLine(w, t, 0, cipher)+keyLogLine(w, t, 1, cipher))
}

func TestDecrypt(t *testing.T) {
	for _, cipher := range []uint16{CipherAES128GCM, CipherAES256GCM, CipherChaCha20Poly1305} {
		for _, v6 := range []bool{false, true} {
			w := conversation(t, v6, cipher, nil)
			s, err := w.flow(t).Decrypt(keysOf(w, t, cipher))
			if err != nil {
				t.Fatalf("cipher %#04x: %v", cipher, err)
			}
			if got := string(s.AtoB.Data); got != "GET / HTTP/1.1more" {
				t.Errorf("A to B: %q", got)
			}
			if got, want := string(s.BtoA.Data), strings.Repeat("answer ", 2000)+"end"; got != want {
				t.Errorf("B to A: %d octets, want %d", len(got), len(want))
			}
			if err := s.Clean(); err != nil {
				t.Error(err)
			}
			if s.AtoB.Frames != 4 || s.AtoB.Rekeys != 1 || s.Negotiation.TEP != 0x23 || len(s.Init1.Ciphers) != 3 {
				t.Errorf("%+v", s.AtoB)
			}
		}
	}
}

func TestDecryptRefuses(t *testing.T) {
	const c = CipherAES128GCM
	for _, test := range []struct {
		name, want string
		edit       func(ab, ba []byte) ([]byte, []byte)
		world      func(w *world)
		clean      bool // the error comes from Clean
	}{
		{name: "flipped bit", want: "authentication", edit: func(ab, ba []byte) ([]byte, []byte) {
			ba[5000] ^= 1
			return ab, ba
		}},
		{name: "control changed", want: "reserved", edit: func(ab, ba []byte) ([]byte, []byte) {
			ab[0] = 0x80
			return ab, ba
		}},
		{name: "truncated", want: "within a frame", clean: true, edit: func(ab, ba []byte) ([]byte, []byte) {
			return ab[:len(ab)-1], ba
		}},
		{name: "no FINp", want: "no frame with FINp", clean: true, edit: func(ab, ba []byte) ([]byte, []byte) {
			return ab[:len(ab)-20], ba
		}},
		{name: "octets after FINp", want: "after the one with FINp", edit: func(ab, ba []byte) ([]byte, []byte) {
			return append(ab, 0, 0, 1, 0), ba
		}},
		{name: "retransmission changed", want: "another value", world: func(w *world) {
			w.put(BtoA, ACK, w.seqB-20, w.seqA, nil, []byte{1, 2, 3})
		}},
		{name: "hole", want: "missing from the capture", world: func(w *world) {
			w.put(BtoA, ACK, w.seqB+5, w.seqA, nil, []byte{1, 2, 3})
		}},
		{name: "late ENO", want: "after host A has received", world: func(w *world) {
			w.put(AtoB, ACK, w.seqA, w.seqB, ackENO, nil)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := conversation(t, false, c, test.edit)
			if test.world != nil {
				test.world(w)
			}
			s, err := w.flow(t).Decrypt(keysOf(w, t, c))
			if test.clean {
				if err != nil {
					t.Fatal(err)
				}
				err = s.Clean()
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestInitPush(t *testing.T) {
	w := newWorld(false)
	w.handshake()
	w.send(AtoB, ACK, nil, init1(1))
	w.send(BtoA, ACK|PSH, nil, init2(1))
	w.put(AtoB, ACK, w.seqA, w.seqB, nil, nil)
	f := w.flow(t)
	if v := f.Negotiate().Violations; len(v) != 1 || !strings.Contains(v[0], "no ENO") {
		t.Errorf("violations: %q", v) // Init1 left before anything but the SYN-ACK had come from B
	}
	w = newWorld(false)
	w.handshake()
	w.send(AtoB, ACK, ackENO, init1(1))
	w.send(BtoA, ACK|PSH, nil, init2(1))
	if _, err := w.flow(t).Decrypt(nil); err == nil || !strings.Contains(err.Error(), "no PSH") {
		t.Errorf("got %v", err)
	}
}

func TestNegotiate(t *testing.T) {
	for _, test := range []struct {
		name    string
		packets func(w *world)
		enabled bool
		want    string // in a violation; empty: none
	}{
		{name: "good", packets: (*world).handshake, enabled: true},
		{name: "plain", packets: func(w *world) {
			w.send(AtoB, SYN, nil, nil)
			w.send(BtoA, SYN|ACK, nil, nil)
			w.send(AtoB, ACK, nil, nil)
		}},
		{name: "no answer", packets: func(w *world) {
			w.send(AtoB, SYN, synENO, nil)
			w.send(BtoA, SYN|ACK, nil, nil)
			w.send(AtoB, ACK, nil, nil)
		}},
		{name: "third segment stripped", packets: func(w *world) {
			w.send(AtoB, SYN, synENO, nil)
			w.send(BtoA, SYN|ACK, synAckENO, nil)
			w.send(AtoB, ACK, nil, nil)
		}, want: "no ENO, although host A"},
		{name: "ENO although refused", packets: func(w *world) {
			w.send(AtoB, SYN, synENO, nil)
			w.send(BtoA, SYN|ACK, nil, nil)
			w.send(AtoB, ACK, ackENO, nil)
		}, want: "after the negotiation failed"},
		{name: "repeated unchanged", enabled: true, packets: func(w *world) {
			w.put(AtoB, SYN, w.seqA, 0, synENO, nil)
			w.handshake()
		}},
		{name: "repeated without", packets: func(w *world) {
			w.put(AtoB, SYN, w.seqA, 0, synENO, nil)
			w.send(AtoB, SYN, nil, nil)
			w.send(BtoA, SYN|ACK, nil, nil)
			w.send(AtoB, ACK, nil, nil)
		}},
		{name: "repeated changed", enabled: true, packets: func(w *world) {
			w.put(AtoB, SYN, w.seqA, 0, []byte{69, 3, 0x23}, nil)
			w.handshake()
		}, want: "changed in a repeated SYN"},
		{name: "SYN-ACK repeated changed", enabled: true, packets: func(w *world) {
			w.send(AtoB, SYN, synENO, nil)
			w.put(BtoA, SYN|ACK, w.seqB, w.seqA, synAckENO, nil)
			w.send(BtoA, SYN|ACK, []byte{69, 4, 1, 0x21}, nil)
			w.send(AtoB, ACK, ackENO, nil)
		}, want: "changed in a repeated SYN-ACK"},
		{name: "two options", packets: func(w *world) {
			w.send(AtoB, SYN, append(bytes.Clone(synENO), synENO...), nil)
		}, want: "2 ENO options"},
		{name: "no passive bit", enabled: true, packets: func(w *world) {
			w.send(AtoB, SYN, synENO, nil)
			w.send(BtoA, SYN|ACK, []byte{69, 3, 0x23}, nil)
			w.send(AtoB, ACK, ackENO, nil)
		}, want: "no global suboption with b = 1"},
		{name: "two TEPs", enabled: true, packets: func(w *world) {
			w.send(AtoB, SYN, synENO, nil)
			w.send(BtoA, SYN|ACK, []byte{69, 5, 1, 0x21, 0x23}, nil)
			w.send(AtoB, ACK, ackENO, nil)
		}, want: "2 TEPs"},
		{name: "with the mark", enabled: true, packets: func(w *world) {
			w.send(AtoB, SYN, []byte{69, 8, 0x81, 0xa0, 0x49, 0x53, 0x21, 0x23}, nil)
			w.send(BtoA, SYN|ACK, []byte{69, 8, 1, 0x81, 0xa0, 0x49, 0x53, 0x23}, nil)
			w.send(AtoB, ACK, ackENO, nil)
		}},
		{name: "TEP not offered", packets: func(w *world) {
			w.send(AtoB, SYN, synENO, nil)
			w.send(BtoA, SYN|ACK, []byte{69, 4, 1, 0x24}, nil)
		}, want: "did not offer"},
		{name: "reserved bits", packets: func(w *world) {
			w.send(AtoB, SYN, []byte{69, 4, 0x10, 0x23}, nil)
		}, want: "reserved bits"},
		{name: "SYN data", packets: func(w *world) {
			w.send(AtoB, SYN, synENO, []byte("x"))
		}, want: "octets of data"},
		{name: "contents in non-SYN form", enabled: true, packets: func(w *world) {
			w.send(AtoB, SYN, synENO, nil)
			w.send(BtoA, SYN|ACK, synAckENO, nil)
			w.send(AtoB, ACK, []byte{69, 3, 0}, nil)
		}, want: "with contents"},
		{name: "B acknowledges without ENO", enabled: true, packets: func(w *world) {
			w.send(AtoB, SYN, synENO, nil)
			w.send(BtoA, SYN|ACK, synAckENO, nil)
			w.put(BtoA, ACK, w.seqB, w.seqA, nil, nil)
			w.send(AtoB, ACK, ackENO, nil)
		}, want: "host B cannot have received"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(false)
			test.packets(w)
			n := w.flow(t).Negotiate()
			if n.Enabled != test.enabled {
				t.Errorf("enabled %v; %q", n.Enabled, n.Violations)
			}
			switch all := strings.Join(n.Violations, "\n"); {
			case test.want == "" && all != "":
				t.Errorf("violations: %s", all)
			case !strings.Contains(all, test.want):
				t.Errorf("violations %q, want %q", all, test.want)
			}
		})
	}
}

func TestParseSYNForm(t *testing.T) {
	good := []byte{69, 9, 0x01, 0x21, 0x81, 0xa0, 0x49, 0x53, 0xa3}
	subs, err := ParseSYNForm(good)
	if err != nil || len(subs) != 4 || !bytes.Equal(subs[2].Data, []byte{0x49, 0x53}) || !subs[2].Length || subs[3].TEP() != 0x23 {
		t.Fatalf("%+v, %v", subs, err)
	}
	for _, bad := range [][]byte{
		{69, 3, 0x80}, {69, 4, 0x80, 0x23}, {69, 4, 0x80, 0x90}, {69, 5, 0x81, 0xa3, 0}, {69, 4, 1}, {68, 2}, {69},
	} {
		if _, err := ParseSYNForm(bad); err == nil {
			t.Errorf("% x accepted", bad)
		}
	}
}

func TestFindPlaintext(t *testing.T) {
	w := newWorld(true)
	w.send(AtoB, SYN, nil, nil)
	w.send(BtoA, SYN|ACK, nil, nil)
	w.send(AtoB, ACK|PSH, nil, []byte("GET /secr"))
	w.send(AtoB, ACK|PSH, nil, []byte("et HTTP"))
	segs, err := Read(w.pcap(t))
	if err != nil {
		t.Fatal(err)
	}
	for marker, want := range map[string]int{"secret": 1, "GET": 2, "absent": 0} {
		if found := FindPlaintext(segs, [][]byte{[]byte(marker)}); len(found) != want {
			t.Errorf("%s: %q", marker, found)
		}
	}
	data := bytes.Repeat([]byte("0123456789"), 10)
	if m := Markers(data, 5, 16); len(m) != 5 || !bytes.Equal(m[4], data[84:]) {
		t.Errorf("%q", m)
	}
}

func TestKeyLogErrors(t *testing.T) {
	w := newWorld(false)
	good := strings.TrimSpace(keyLogLine(w, t, 0, 1))
	for _, bad := range []string{
		good + " x", strings.Replace(good, " 0001 ", " 1 ", 1), strings.Replace(good, " 0 ", " z ", 1),
		strings.Replace(good, "TCPCRYPT 2", "TCPCRYPT g", 1), strings.Replace(good, ":80", "", 1),
	} {
		name := filepath.Join(t.TempDir(), "keys")
		if err := os.WriteFile(name, []byte(good+"\n"+bad+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKeyLog(name); err == nil || !strings.Contains(err.Error(), ":2:") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestPcapng(t *testing.T) {
	w := newWorld(false)
	w.handshake()
	var b bytes.Buffer
	out, err := pcapgo.NewNgWriter(&b, layers.LinkTypeEthernet)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range w.packets {
		if err := out.WritePacket(gopacket.CaptureInfo{CaptureLength: len(p), Length: len(p)}, p); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
	segs, err := Read(bytes.NewReader(b.Bytes()))
	if err != nil || len(segs) != 3 || segs[2].Length != 0 {
		t.Fatalf("%v, %v", segs, err)
	}
	if _, err := Read(strings.NewReader("neither of them, but long enough to have a header")); err == nil {
		t.Error("garbage accepted")
	}
}

// FuzzParse feeds packets and streams of any content to every parser.
func FuzzParse(f *testing.F) {
	w := newWorld(false)
	w.handshake()
	for _, p := range w.packets {
		f.Add(p)
	}
	f.Add(init1(1, 2))
	f.Add(init2(1))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, ok, err := parsePacket(layers.LinkTypeEthernet, b)
		if ok && err == nil {
			flows, _ := Flows([]Segment{s})
			for _, f := range flows {
				f.Negotiate()
				if st, err := f.Reassemble(AtoB); err == nil && !s.has(RST) && len(st.Data) != len(s.Payload) {
					t.Errorf("%d octets from a segment of %d", len(st.Data), len(s.Payload))
				}
			}
		}
		if subs, err := ParseSYNForm(b); err == nil && len(subs) > len(b) {
			t.Errorf("%d suboptions from %d octets", len(subs), len(b))
		}
		for tep := byte(0x20); tep < 0x26; tep++ {
			if m, err := ParseInit1(b, tep); err == nil && m.Length > len(b) {
				t.Errorf("%+v", m)
			}
			if m, err := ParseInit2(b, tep); err == nil && m.Length > len(b) {
				t.Errorf("%+v", m)
			}
		}
	})
}
