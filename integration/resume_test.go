package integration

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"innertun/integration/decode"
	"innertun/integration/netlab"
)

// session is one line of `sessions --json`.
type session struct {
	Peer      string  `json:"peer"`
	TEP       string  `json:"tep"`
	Cipher    string  `json:"cipher"`
	Role      string  `json:"role"`
	Next      int     `json:"i"`
	Misses    int     `json:"misses"`
	AgeMS     float64 `json:"age_ms"`
	ExpiresMS float64 `json:"expires_in_ms"`
}

func (d *daemon) sessions(t testing.TB) (all []session) {
	t.Helper()
	out, err := d.command("sessions", "--json")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(out) {
		var s session
		dec := json.NewDecoder(bytes.NewReader(line))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&s); err != nil {
			t.Fatalf("sessions --json: %v: %s", err, line)
		}
		all = append(all, s)
	}
	return all
}

// resuming is a client and a server that serve each other, each with a SOCKS5 port too.
type resuming struct {
	lab            *netlab.Lab
	client, server *daemon
}

const (
	resumingServer = "[egress]\ninterface = \"eth0\"\n[socks]\nlisten = \"127.0.0.1:1080\"\n[[serve]]\nlisten = \":2001\"\nforward = \"127.0.0.1:9001\"\n"
	resumingClient = clientConfig + "[[serve]]\nlisten = \":2001\"\nforward = \"127.0.0.1:9001\"\n"
)

func newResuming(t *testing.T, lab *netlab.Lab, client, server string) *resuming {
	t.Helper()
	r := &resuming{lab: lab, server: startRun(t, lab.Server, resumingServer+server), client: startRun(t, lab.Client, resumingClient+client)}
	t.Cleanup(func() {
		for _, d := range []*daemon{r.client, r.server} {
			if code, err := d.Stop(); err != nil || code != 0 {
				t.Errorf("%s: status %d, %v", d.host.Role, code, err)
			}
		}
	})
	return r
}

// waitIdle waits until neither end has an open connection left: what follows does not begin with the end of one.
func (r *resuming) waitIdle(t *testing.T) {
	t.Helper()
	r.client.waitIdle(t)
	r.server.waitIdle(t)
}

func newResumingLab(t *testing.T) *netlab.Lab {
	t.Helper()
	lab := netlab.New(t, netlab.Options{})
	for _, h := range []*netlab.Host{lab.Client, lab.Server} {
		h.Serve(t, "127.0.0.1:9001", answerSum)
	}
	return lab
}

// once makes a connection and says whether it was resumed, at both ends.
func (r *resuming) once(t *testing.T, w way, address string, want bool) record {
	t.Helper()
	if err := exchange(t, w, address); err != nil {
		t.Fatalf("%s: %v", address, err)
	}
	c := r.client.newest(t, to(address))
	if !c.Encrypted || c.Resumed != want || c.Error != "" || c.TEP == "" || c.Cipher == "" || len(c.SessionID) != 66 {
		t.Errorf("want resumed %v: %+v", want, c)
	}
	s := r.server.newest(t, func(s record) bool { return s.SessionID == c.SessionID })
	if s.Resumed != want || s.Role != "server" || s.TEP != c.TEP || s.Cipher != c.Cipher {
		t.Errorf("want resumed %v: server has %+v", want, s)
	}
	return c
}

// TestResume has the second connection to a server resumed, through TUN and SOCKS, and looks at all of it on the wire.
func TestResume(t *testing.T) {
	t.Parallel()
	lab := newResumingLab(t)
	web := lab.Server.StartNginx(t, 100_000, "127.0.0.1:8080")
	serve := "[[serve]]\nlisten = \":80\"\nforward = \"127.0.0.1:8080\"\n"
	for _, w := range ways(lab.Client) {
		for _, f := range families() {
			t.Run(w.name+"/"+f.name, func(t *testing.T) {
				r := newResuming(t, lab, "", serve)
				capture := lab.Capture(t, "c0", 0, "tcp")
				for range 3 {
					fetch(t, lab, w.curl, "http://"+f.at(80)+"/file", web.SHA256)
				}
				r.client.waitIdle(t)
				r.server.waitIdle(t)
				segs := readCapture(t, capture)
				all := sessions(t, segs, r.client)
				if len(all) != 3 {
					t.Fatalf("%d connections", len(all))
				}
				flows, _ := keptFlows(segs)
				for i, s := range all {
					if s.Resumed != (i > 0) {
						t.Fatalf("connection %d: resumed %v", i, s.Resumed)
					}
					if n := roundTrips(t, flows[i], s); n != 3-min(i, 1) {
						t.Errorf("connection %d: the reply can begin after %d round trips", i, n)
					}
					if !bytes.HasPrefix(s.AtoB.Data, []byte("GET /file HTTP/1.1\r\n")) || !bytes.HasSuffix(s.BtoA.Data, web.Data) {
						t.Errorf("connection %d: %d and %d octets", i, len(s.AtoB.Data), len(s.BtoA.Data))
					}
					checkClean(t, segs, s, decode.Markers(web.Data, 8, 24))
					checkRecords(t, r.client, r.server, s)
				}
				if bytes.Equal(all[1].ResumeA.Half, all[2].ResumeA.Half) || len(all[1].ResumeA.Nonce) != 8 || len(all[1].ResumeB.Nonce) != 8 {
					t.Errorf("%+v\n%+v", all[1].ResumeA, all[2].ResumeA)
				}
				c, s := r.client.sessions(t), r.server.sessions(t)
				if len(c) != 1 || c[0].Peer != f.at(80) || c[0].Role != "A" || c[0].Next != 3 || c[0].TEP != "curve25519" ||
					c[0].Cipher != "aes-128-gcm" || c[0].AgeMS <= 0 || c[0].ExpiresMS < 23*3600_000 {
					t.Errorf("client has %+v", c)
				}
				if len(s) != 1 || s[0].Peer != f.client.String() || s[0].Role != "B" || s[0].Next != 3 {
					t.Errorf("server has %+v", s)
				}
				if text, err := r.client.command("conns"); err != nil || !strings.Contains(string(text), "aes-128-gcm curve25519 resumed") {
					t.Errorf("%v\n%s", err, text)
				}
			})
		}
	}
}

// roundTrips is how many round trips the first octet of the reply waits for: one for the SYNs, one for each stretch of A's
// data that waits for data of B's, until the first frame of B's.
func roundTrips(t *testing.T, f *decode.Flow, s *decode.Session) int {
	t.Helper()
	var isn, seen uint32 // of host B
	trips, begun, frames := 1, false, s.StreamBA.SYNPayload+s.Init2.Length
	for _, g := range f.Segments {
		switch d := f.Direction(g); {
		case g.Flags&decode.SYN != 0:
			if d == decode.BtoA {
				isn, seen = g.Seq, g.Seq+1
			}
		case g.Length == 0:
		case d == decode.AtoB:
			if !begun || int32(g.Ack-seen) > 0 {
				trips++
			}
			begun, seen = true, g.Ack
		case int(int32(g.Seq-isn-1)) >= frames:
			return trips
		}
	}
	t.Error("no reply")
	return 0
}

// TestResumeElsewhere has what may change between two connections change.
func TestResumeElsewhere(t *testing.T) {
	t.Parallel()
	lab := newResumingLab(t)
	w := ways(lab.Client)[1]
	at := families()[0].at(2001)

	t.Run("the client's address changes", func(t *testing.T) {
		r := newResuming(t, lab, "", "")
		r.once(t, w, at, false)
		lab.Client.Script(t, "ip addr del 198.18.1.2/24 dev eth0; ip addr add 198.18.1.7/24 dev eth0; ip route replace default via 198.18.1.1")
		t.Cleanup(func() {
			lab.Client.Script(t, "ip addr del 198.18.1.7/24 dev eth0; ip addr add 198.18.1.2/24 dev eth0; ip route replace default via 198.18.1.1")
		})
		// A connection from an address that is no longer there would hang.
		netlab.WaitFor(t, netlab.Patience, "the client to notice its new address", func() error {
			log := r.client.Log()
			changed := log[max(strings.LastIndex(log, "the interface has changed"), 0):]
			if first, _, _ := strings.Cut(changed, "\n"); !strings.Contains(first, "198.18.1.7") || strings.Contains(first, "198.18.1.2") {
				return fmt.Errorf("last change: %s", first)
			}
			network := log[max(strings.LastIndex(log, "on this network"), 0):]
			if first, _, _ := strings.Cut(network, "\n"); !strings.Contains(first, "198.18.1.0/24 via 198.18.1.1") {
				return fmt.Errorf("network: %s", first)
			}
			return nil
		})
		netlab.WaitFor(t, netlab.Patience, "a connection from the new address", func() error {
			if err := exchange(t, w, at); err != nil {
				return err
			}
			if c := r.client.newest(t, to(at)); !strings.HasPrefix(c.Local, "198.18.1.7:") {
				return fmt.Errorf("from %s", c.Local)
			}
			return nil
		})
		if c := r.once(t, w, at, true); !strings.HasPrefix(c.Local, "198.18.1.7:") {
			t.Errorf("%+v", c)
		}
		if s := r.server.sessions(t); len(s) != 1 || s[0].Peer != "198.18.1.7" {
			t.Errorf("server has %+v", s)
		}
	})

	t.Run("the server is started anew", func(t *testing.T) {
		r := newResuming(t, lab, "", "")
		r.once(t, w, at, false)
		r.once(t, w, at, true)
		if code, err := r.server.Stop(); err != nil || code != 0 {
			t.Fatal(code, err)
		}
		r.server = startRun(t, lab.Server, resumingServer)
		r.once(t, w, at, false)
		r.once(t, w, at, true)
	})

	t.Run("the server dials back", func(t *testing.T) {
		r := newResuming(t, lab, "", "")
		r.once(t, w, at, false)
		r.waitIdle(t)
		capture := lab.Capture(t, "c0", 0, "tcp")
		back := netip.AddrPortFrom(netlab.ClientIP4, 2001).String()
		fromServer := ways(lab.Server)[1]
		for range 2 {
			if err := exchange(t, fromServer, back); err != nil {
				t.Fatal(err)
			}
			if c := r.server.newest(t, to(back)); !c.Resumed || c.Role != "client" || !c.Encrypted {
				t.Errorf("%+v", c)
			}
		}
		r.once(t, w, at, true)
		r.client.waitIdle(t)
		r.server.waitIdle(t)
		segs := readCapture(t, capture)
		for _, d := range []*daemon{r.client, r.server} {
			all := sessions(t, segs, d)
			for i, s := range all {
				if !s.Resumed || s.Reversed != (i < 2) || len(all) != 3 {
					t.Errorf("connection %d of %d: resumed %v, roles reversed %v", i, len(all), s.Resumed, s.Reversed)
				}
			}
		}
		// One session, used up by both in turn.
		if c, s := r.client.sessions(t), r.server.sessions(t); len(c) != 1 || len(s) != 1 || c[0].Next != 4 || s[0].Next != 4 {
			t.Errorf("%+v\n%+v", c, s)
		}
	})
}

// TestSessionPolicies has users say that they do not want it.
func TestSessionPolicies(t *testing.T) {
	t.Parallel()
	lab := newResumingLab(t)
	w := ways(lab.Client)[0]
	at, at6 := families()[0].at(2001), families()[1].at(2001)

	t.Run("flush", func(t *testing.T) {
		r := newResuming(t, lab, "", "")
		forget := func(d *daemon, want int, args ...string) {
			t.Helper()
			out, err := d.command(append([]string{"sessions", "flush", "--json"}, args...)...)
			if err != nil || string(out) != fmt.Sprintf("{\"forgotten\":%d}\n", want) {
				t.Errorf("%s, %v: %s, %v", d.host.Role, args, out, err)
			}
		}
		r.once(t, w, at, false)
		r.once(t, w, at6, false)
		forget(r.client, 0, "198.18.2.2:2002")
		r.once(t, w, at, true)
		forget(r.client, 1, at)
		if left := r.client.sessions(t); len(left) != 1 || left[0].Peer != at6 {
			t.Errorf("%+v", left)
		}
		r.once(t, w, at, false)
		r.once(t, w, at6, true)
		forget(r.client, 2)
		r.once(t, w, at, false)
		r.once(t, w, at, true)
		forget(r.server, 3, "198.18.1.2") // the sessions of three fresh connections
		r.once(t, w, at, false)
		if _, err := r.client.command("sessions", "flush", "nonsense"); err == nil || !strings.Contains(err.Error(), "exit status 2") {
			t.Errorf("%v", err)
		}
	})

	for _, v := range []struct {
		name           string
		client, server string
		kept           [2]bool // at client and server, after two connections
	}{
		{"client does not resume", "[tcpinc]\nresume = false\n", "", [2]bool{true, true}},
		{"client's rule does not", "[[rule]]\nto = [\"198.18.2.2\"]\npolicy = \"require\"\nresume = false\n", "", [2]bool{true, true}},
		{"server does not resume", "", "[tcpinc]\nresume = false\n", [2]bool{true, true}},
		{"client does not cache", "[tcpinc]\nsession_cache = false\n", "", [2]bool{false, true}},
		{"server does not cache", "", "[tcpinc]\nsession_cache = false\n", [2]bool{true, false}},
		{"neither", "[tcpinc]\nresume = false\nsession_cache = false\n", "[tcpinc]\nsession_cache = false\n", [2]bool{false, false}},
	} {
		t.Run(v.name, func(t *testing.T) {
			r := newResuming(t, lab, v.client, v.server)
			for range 2 {
				r.once(t, w, at, false)
			}
			for i, d := range []*daemon{r.client, r.server} {
				if got := d.sessions(t); (len(got) > 0) != v.kept[i] {
					t.Errorf("%s: %+v", d.host.Role, got)
				}
			}
		})
	}

	t.Run("a rule resumes where all others do not", func(t *testing.T) {
		r := newResuming(t, lab, "[tcpinc]\nresume = false\n[[rule]]\nto = [\"fd00::/8\"]\npolicy = \"require\"\nresume = true\n", "")
		for i := range 2 {
			r.once(t, w, at, false)
			r.once(t, w, at6, i > 0)
		}
	})

	t.Run("a cipher or key exchange no longer wanted", func(t *testing.T) {
		// Rules by port: the server's second port knows the session as well, but is not to use its cipher.
		r := newResuming(t, lab, "", "[[serve]]\nlisten = \":2002\"\nforward = \"127.0.0.1:9001\"\nciphers = [\"chacha20-poly1305\"]\n")
		other := families()[0].at(2002)
		if c := r.once(t, w, at, false); c.Cipher != "aes-128-gcm" {
			t.Errorf("%+v", c)
		}
		if c := r.once(t, w, other, false); c.Cipher != "chacha20-poly1305" {
			t.Errorf("%+v", c)
		}
		if c := r.once(t, w, other, true); c.Cipher != "chacha20-poly1305" {
			t.Errorf("%+v", c)
		}
		if c := r.once(t, w, at, true); c.Cipher != "aes-128-gcm" {
			t.Errorf("%+v", c)
		}
	})
}

// TestResumeAtOnce dials 50 times at once right after the first connection: every connection comes about, and no secret is
// used twice.
func TestResumeAtOnce(t *testing.T) {
	t.Parallel()
	lab := newResumingLab(t)
	for _, w := range ways(lab.Client) {
		best := 0
		burst := func(t *testing.T) {
			r := newResuming(t, lab, "", "")
			at := families()[0].at(2001)
			r.once(t, w, at, false)
			r.waitIdle(t)
			capture := lab.Capture(t, "c0", 0, "tcp")
			var all sync.WaitGroup
			failed := make(chan error, 50)
			for range 50 {
				all.Go(func() {
					if err := exchange(t, w, at); err != nil {
						failed <- err
					}
				})
			}
			all.Wait()
			close(failed)
			for err := range failed {
				t.Error(err)
			}
			r.client.waitIdle(t)
			r.server.waitIdle(t)
			ids, halves, resumed := make(map[string]bool), make(map[string]bool), 0
			for _, s := range sessions(t, readCapture(t, capture), r.client) {
				if err := s.Clean(); err != nil {
					t.Error(err)
				}
				ids[hex.EncodeToString(s.Keys.SessionID)] = true
				for _, sub := range s.Negotiation.SubsA {
					if sub.Data == nil {
						continue
					}
					if h := string(sub.Data[:9]); halves[h] {
						t.Errorf("half % x was offered twice", h)
					} else {
						halves[h] = true
					}
				}
				if s.Resumed {
					resumed++
				}
			}
			if len(ids) != 50 || resumed == 0 {
				t.Errorf("%d sessions, %d resumed", len(ids), resumed)
			}
			best = max(best, resumed)
			t.Logf("%d of 50 resumed", resumed)
			for _, d := range []*daemon{r.client, r.server} {
				for _, c := range d.conns(t) {
					if c.State == "failed" || !c.Encrypted {
						t.Errorf("%s: %+v", d.host.Role, c)
					}
				}
			}
		}
		// A server knows eight secrets ahead: on a machine with much else to do more SYNs overtake each other than that, and
		// those too early or too late exchange fresh keys. The best of some bursts counts.
		const bursts = 6
		for n := 0; n < bursts && best < 25; n++ {
			t.Run(fmt.Sprintf("%s/%d", w.name, n), burst)
		}
		if best < 25 {
			t.Errorf("%s: in the best of %d bursts %d of 50 were resumed", w.name, bursts, best)
		}
	}
}

// TestResumeStripped has the path begin to strip ENO from non-SYN segments when a session is cached. The client that resumes
// has nothing to wait for, so its first connection fails, and the next one is found out about as ever. The origin is given
// what the program has sent or nothing, never ciphertext.
func TestResumeStripped(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t, netlab.Options{})
	lab.Client.Serve(t, "127.0.0.1:9001", answerSum)
	var mu sync.Mutex
	wrong := 0
	lab.Server.Serve(t, "127.0.0.1:9001", func(c *net.TCPConn) {
		got, err := io.ReadAll(c)
		if err == nil {
			_, _ = io.WriteString(c, sum(got))
		}
		if !bytes.HasPrefix(pattern(6, 200_000), got) {
			mu.Lock()
			wrong++
			mu.Unlock()
		}
	})
	at := families()[0].at(2001)
	for _, v := range []struct {
		name      string
		direction netlab.Direction
		plain     bool
	}{
		{"both ways", netlab.Both, true},
		{"to server", netlab.ToServer, true},
		{"to client", netlab.ToClient, false},
	} {
		for _, policy := range []string{"opportunistic", "require"} {
			t.Run(v.name+"/"+policy, func(t *testing.T) {
				lab.ClearMiddlebox(t)
				r := newResuming(t, lab, "[tcpinc]\ninner_space = \"off\"\npolicy = \""+policy+"\"\n", "")
				w := ways(lab.Client)[0]
				r.once(t, w, at, false)
				r.once(t, w, at, true)
				lab.StripENO(t, netlab.NonSYN, v.direction)
				begin := time.Now()
				err := exchange(t, w, at)
				t.Logf("after %v: %v", time.Since(begin).Round(time.Millisecond), err)
				c := r.client.ended(t, to(at))
				switch {
				case !v.plain:
					if err != nil || !c.Resumed {
						t.Errorf("%v, %+v", err, c)
					}
				case err == nil || c.State != "failed" || !c.Resumed || errors.Is(err, errUnexpected):
					t.Errorf("%v, %+v", err, c)
				case len(r.client.sessions(t)) != 0:
					t.Errorf("kept %+v", r.client.sessions(t))
				case policy == "require":
					if err := exchange(t, w, at); err == nil {
						t.Error("connected")
					}
				default:
					err := exchange(t, w, at)
					if c := r.client.newest(t, to(at)); err != nil || c.Encrypted || c.FallbackReason != "eno-stripped" {
						t.Errorf("%v, %+v", err, c)
					}
				}
				lab.ClearMiddlebox(t)
				if policy == "require" && v.plain {
					r.once(t, w, at, false)
					r.once(t, w, at, true)
				}
				r.server.waitIdle(t)
				mu.Lock()
				defer mu.Unlock()
				if wrong > 0 {
					t.Errorf("the origin was given what no program has sent, %d times", wrong)
				}
			})
		}
	}
}
