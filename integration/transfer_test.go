package integration

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"innertun/integration/decode"
	"innertun/integration/netlab"
)

const transferSize = 64 << 20

// TestTransfer fetches and uploads with curl, unmodified, and looks at all that went over the wire.
func TestTransfer(t *testing.T) {
	lab := netlab.New(t, netlab.Options{})
	web := lab.Server.StartNginx(t, transferSize, "127.0.0.1:8080", "198.18.2.2:8081", "[fd00:2::2]:8081")
	markers := append(decode.Markers(web.Data, 32, 24), []byte("HTTP/1.1"), []byte("GET /file"), []byte("PUT /up/"), []byte("nginx"))

	// Without innertun the detector must find everything, or finding nothing later would prove nothing.
	t.Run("control", func(t *testing.T) {
		capture := lab.Capture(t, "c0", 0, "tcp port 8081")
		fetch(t, lab, nil, "http://198.18.2.2:8081/file", web.SHA256)
		noneOpen(t, lab.Server, "198.18.2.2:8081") // or what follows begins with the end of this connection
		segs := readCapture(t, capture)
		for _, m := range markers {
			if found := decode.FindPlaintext(segs, [][]byte{m}); (len(found) > 0) == bytes.HasPrefix(m, []byte("PUT")) {
				t.Errorf("marker %.20q: %d found", m, len(found))
			}
		}
	})

	server := startServe(t, lab.Server, "80", "127.0.0.1:8080")
	client := startRun(t, lab.Client, clientConfig)
	for _, w := range ways(lab.Client) {
		for _, f := range families() {
			t.Run(w.name+"/"+f.name, func(t *testing.T) {
				capture := lab.Capture(t, "c0", 0, "tcp")
				fetch(t, lab, w.curl, "http://"+f.at(80)+"/file", web.SHA256)
				client.waitIdle(t)
				server.waitIdle(t)
				segs := readCapture(t, capture)
				s := decrypt(t, segs, client, f)
				if !bytes.HasPrefix(s.AtoB.Data, []byte("GET /file HTTP/1.1\r\n")) {
					t.Errorf("request: %.40q", s.AtoB.Data)
				}
				if !bytes.HasPrefix(s.BtoA.Data, []byte("HTTP/1.1 200 OK\r\n")) || !bytes.HasSuffix(s.BtoA.Data, web.Data) {
					t.Errorf("response: %d octets, %.40q", len(s.BtoA.Data), s.BtoA.Data)
				}
				checkClean(t, segs, s, markers)
				checkRecords(t, client, server, s)
			})
		}
		t.Run(w.name+"/upload", func(t *testing.T) {
			f := families()[0]
			body := pattern(1, 8<<20)
			file := filepath.Join(t.TempDir(), "body")
			if err := os.WriteFile(file, body, 0o600); err != nil {
				t.Fatal(err)
			}
			capture := lab.Capture(t, "c0", 0, "tcp")
			name := "from-" + w.name
			lab.Client.MustRun(t, slices.Concat([]string{"curl", "-sSf", "--max-time", "300"}, w.curl,
				[]string{"-T", file, "http://" + f.at(80) + "/up/" + name})...)
			if got, err := web.Uploaded(name); err != nil || sum(got) != sum(body) {
				t.Errorf("uploaded %d octets, %v", len(got), err)
			}
			client.waitIdle(t)
			server.waitIdle(t)
			segs := readCapture(t, capture)
			s := decrypt(t, segs, client, f)
			if !bytes.Contains(s.AtoB.Data, body) {
				t.Errorf("%d octets decrypted from client to server do not hold the upload", len(s.AtoB.Data))
			}
			checkClean(t, segs, s, append(decode.Markers(body, 16, 24), markers...))
			checkRecords(t, client, server, s)
		})
	}
}

// fetch downloads with curl on the client and compares hashes.
func fetch(t *testing.T, lab *netlab.Lab, extra []string, url, want string) {
	t.Helper()
	out := lab.Client.MustRun(t, "sh", "-c", "curl -sSf --max-time 300 "+strings.Join(extra, " ")+" '"+url+"' | sha256sum")
	if got, _, _ := strings.Cut(out, " "); got != want {
		t.Fatalf("%s: sha256 %s, want %s", url, got, want)
	}
}

func readCapture(t *testing.T, c *netlab.Capture) []decode.Segment {
	t.Helper()
	segs, err := decode.ReadFile(c.Stop())
	if err != nil {
		t.Fatal(err)
	}
	return segs
}

// decrypt expects one connection in the capture, from the client's own address to the server's port 80, checks its
// handshake and decrypts it with the client's key log.
func decrypt(t *testing.T, segs []decode.Segment, client *daemon, f family) *decode.Session {
	t.Helper()
	flows, strays := keptFlows(segs)
	strays = strange(t, strays, flows, client)
	if len(flows) != 1 || len(strays) != 0 {
		t.Fatalf("%d connections and %d stray segments in the capture, want 1 and 0: %v", len(flows), len(strays), strays)
	}
	flow := flows[0]
	if flow.A.Addr() != f.client || flow.B != netip.AddrPortFrom(f.server, 80) || flow.A.Port() < 61000 {
		t.Errorf("connection %v>%v, want one from %v, port 61000 or higher", flow.A, flow.B, f.client)
	}
	keys, err := decode.ReadKeyLog(client.keylog)
	if err != nil {
		t.Fatal(err)
	}
	s, err := flow.Decrypt(keys)
	if err != nil {
		t.Fatalf("%v\nall violations: %q", err, s.Negotiation.Violations)
	}
	return s
}

// checkClean checks how the connection was negotiated and ended, and that none of the markers is on the wire.
func checkClean(t *testing.T, segs []decode.Segment, s *decode.Session, markers [][]byte) {
	t.Helper()
	if err := s.Clean(); err != nil {
		t.Error(err)
	}
	n := s.Negotiation
	// The least preferred comes first (RFC 8547, Section 4.5): curve25519 is the default's favourite.
	if last := n.SubsA[len(n.SubsA)-1]; n.TEP != 0x23 || last.TEP() != 0x23 {
		t.Errorf("negotiated TEP %#02x; host A listed %+v", n.TEP, n.SubsA)
	}
	if s.Keys.Cipher != decode.CipherAES128GCM || !s.Resumed && s.Init1.Ciphers[0] != decode.CipherAES128GCM {
		t.Errorf("cipher %#04x of %#04x", s.Keys.Cipher, s.Init1.Ciphers)
	}
	if found := decode.FindPlaintext(segs, markers); len(found) > 0 {
		t.Errorf("plaintext on the wire, %d times, first: %s", len(found), found[0])
	}
}

// checkRecords compares what both daemons say about the connection with what was decrypted.
func checkRecords(t *testing.T, client, server *daemon, s *decode.Session) {
	t.Helper()
	a, b := s.Keys.A.String(), s.Keys.B.String()
	c := client.newest(t, func(r record) bool { return r.Local == a && r.Remote == b })
	v := server.newest(t, func(r record) bool { return r.Local == b && r.Remote == a })
	for _, r := range []record{c, v} {
		if !r.Encrypted || r.TEP != "curve25519" || r.Cipher != "aes-128-gcm" || r.State != "closed" || r.FallbackReason != "" ||
			r.Error != "" || r.Resumed != s.Resumed || r.HandshakeMS <= 0 || r.RTTMS <= 0 {
			t.Errorf("record: %+v", r)
		}
	}
	if c.Role != "client" || v.Role != "server" || c.SessionID != v.SessionID || c.SessionID != hex.EncodeToString(s.Keys.SessionID) {
		t.Errorf("records of the two ends: %+v\n%+v", c, v)
	}
	if c.BytesIn != int64(len(s.BtoA.Data)) || c.BytesOut != int64(len(s.AtoB.Data)) ||
		v.BytesIn != c.BytesOut || v.BytesOut != c.BytesIn {
		t.Errorf("octets: %d in and %d out at the client, %d in and %d out at the server, %d and %d decrypted",
			c.BytesIn, c.BytesOut, v.BytesIn, v.BytesOut, len(s.BtoA.Data), len(s.AtoB.Data))
	}
	keys, err := decode.ReadKeyLog(server.keylog)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(keys, func(k decode.Keys) bool {
		return bytes.Equal(k.SessionID, s.Keys.SessionID) && bytes.Equal(k.AB, s.Keys.AB) && bytes.Equal(k.BA, s.Keys.BA) &&
			k.A == s.Keys.A && k.B == s.Keys.B
	}) {
		t.Error("the server's key log has no such session")
	}
	info, err := os.Stat(client.keylog)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key log: %v, %v", info, err)
	}
}
