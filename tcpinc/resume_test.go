package tcpinc_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"innertun/tcpinc"
	"innertun/tcpinc/eno"
	"innertun/tcpinc/tcpcrypt"
)

var clientAddr = netip.MustParseAddrPort("198.18.0.1:1024")

// resumeWorld is a world whose hosts keep sessions.
func resumeWorld(t *testing.T, client, server tcpinc.Config, policy tcpinc.Policy) *world {
	client.Sessions, server.Sessions = new(tcpcrypt.SessionCache), new(tcpcrypt.SessionCache)
	w := newWorld(t, client, server, policy)
	w.from = clientAddr
	w.server = server.Sessions
	return w
}

// resumed opens a connection and says whether both ends have resumed; it checks that they agree.
func (w *world) resumed(t *testing.T, p tcpinc.Policy) bool {
	t.Helper()
	c, err := w.dial(p)
	at := isEncrypted(t, c, err)
	time.Sleep(time.Second)
	peer := w.last()
	if !bytes.Equal(at.SessionID, peer.SessionID) || at.Resumed != peer.Resumed || at.Cipher != peer.Cipher || at.TEP != peer.TEP {
		t.Fatalf("the ends differ: %+v, %+v", at, peer)
	}
	if at.Resumed != (at.SessionID[0]&0x80 != 0) {
		t.Fatalf("resumed %v, session ID %x", at.Resumed, at.SessionID)
	}
	return at.Resumed
}

// last is the state of the connection that the server has served last.
func (w *world) last() tcpinc.ConnectionState {
	w.host.mu.Lock()
	defer w.host.mu.Unlock()
	return w.host.was[len(w.host.was)-1]
}

func (w *world) expect(t *testing.T, what string, want bool) {
	t.Helper()
	if got := w.resumed(t, tcpinc.Opportunistic); got != want {
		t.Errorf("%s: resumed %v", what, got)
	}
}

func TestResume(t *testing.T) {
	for _, tep := range tcpcrypt.TEPs() {
		for _, cipher := range tcpcrypt.Ciphers() {
			t.Run(fmt.Sprint(tep, cipher), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := resumeWorld(t, tcpinc.Config{}, tcpinc.Config{TEPs: []eno.TEP{tep}, Ciphers: []tcpcrypt.Cipher{cipher}}, tcpinc.Opportunistic)
					w.expect(t, "first", false)
					for i := range 4 {
						w.expect(t, fmt.Sprint(i), true)
						if s := w.last(); s.TEP != tep || s.Cipher != cipher {
							t.Errorf("%v with %v", s.TEP, s.Cipher)
						}
					}
					w.host.close()
				})
			})
		}
	}
}

// RFC 8548, Section 3.5: what a SYN and its answer look like.
func TestResumptionSuboptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := resumeWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
		w.expect(t, "first", false)
		w.sent = nil
		w.expect(t, "second", true)
		syn, answer := w.sent[0].options, w.sent[1].options
		if len(syn) != 21 || syn[1] != 21 || syn[2] != 0x24 || syn[3] != 0xa3 {
			t.Errorf("SYN %x: want one other TEP, then the resumption suboption", syn)
		}
		if len(answer) != 21 || answer[2] != 0x01 || answer[3] != 0xa3 || bytes.Equal(syn[4:13], answer[4:13]) || bytes.Equal(syn[13:], answer[13:]) {
			t.Errorf("SYN-ACK %x", answer)
		}
		w.host.close()
	})
}

func TestResumeNonceLength(t *testing.T) {
	for setting, want := range map[int]int{-1: 0, 0: 8, 3: 3, 8: 8} {
		synctest.Test(t, func(t *testing.T) {
			w := resumeWorld(t, tcpinc.Config{ResumeNonce: setting}, tcpinc.Config{ResumeNonce: setting}, tcpinc.Opportunistic)
			w.expect(t, "first", false)
			w.sent = nil
			w.expect(t, "second", true)
			if syn := w.sent[0].options; len(syn)-bytes.IndexByte(syn, 0xa3) != 1+9+want {
				t.Errorf("SYN %x", syn)
			}
			w.expect(t, "third", true)
			w.host.close()
		})
	}
	if _, err := (tcpinc.Config{ResumeNonce: 9}).NewPassive(); err == nil {
		t.Error("nonces of 9 octets")
	}
}

// Policies of RFC 8548, Section 3.5, and what else keeps sessions from being resumed.
func TestResumePolicies(t *testing.T) {
	none := func(any) bool { return false }
	for name, v := range map[string]struct {
		edit func(w *world, client, server *tcpinc.Config)
		dial tcpinc.DialOptions
	}{
		"client: no resume":       {dial: tcpinc.DialOptions{NoResume: true}},
		"client: not resumable":   {dial: tcpinc.DialOptions{Resumable: none}},
		"client: cipher gone":     {dial: tcpinc.DialOptions{Ciphers: []tcpcrypt.Cipher{tcpcrypt.ChaCha20Poly1305}}},
		"client: TEP gone":        {dial: tcpinc.DialOptions{TEPs: []eno.TEP{tcpcrypt.P256}}},
		"server: no resume":       {edit: func(_ *world, _, s *tcpinc.Config) { s.NoResume = true }},
		"server: not resumable":   {edit: func(_ *world, _, s *tcpinc.Config) { s.Resumable = none }},
		"server: cipher gone":     {edit: func(_ *world, _, s *tcpinc.Config) { s.Ciphers = []tcpcrypt.Cipher{tcpcrypt.AES256GCM} }},
		"server: TEP gone":        {edit: func(_ *world, _, s *tcpinc.Config) { s.TEPs = []eno.TEP{tcpcrypt.Curve448} }},
		"server: restarted":       {edit: func(w *world, _, _ *tcpinc.Config) { w.server.FlushAll() }},
		"client: flushed":         {edit: func(w *world, _, _ *tcpinc.Config) { w.d.Config.Sessions.Flush(server) }},
		"client: address flushed": {edit: func(w *world, _, _ *tcpinc.Config) { w.d.Config.Sessions.Flush(netip.AddrPortFrom(server.Addr(), 0)) }},
		"server: flushed by host": {edit: func(w *world, _, _ *tcpinc.Config) { w.server.Flush(netip.AddrPortFrom(clientAddr.Addr(), 0)) }},
		"expired":                 {edit: func(*world, *tcpinc.Config, *tcpinc.Config) { time.Sleep(24 * time.Hour) }},
		"client: neither":         {dial: tcpinc.DialOptions{NoResume: true, NoCache: true}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, srv := tcpinc.Config{}, tcpinc.Config{}
				w := resumeWorld(t, client, srv, tcpinc.Opportunistic)
				w.expect(t, "first", false)
				w.expect(t, "second", true)
				srv.Sessions = w.server
				if v.edit != nil {
					v.edit(w, &client, &srv)
				}
				w.passive = func() *tcpinc.Handshake {
					h, err := srv.NewPassive()
					if err != nil {
						t.Error(err)
					}
					return h
				}
				dials := w.dials()
				c, err := w.d.Dial(t.Context(), netip.Addr{}, server, v.dial)
				if s := isEncrypted(t, c, err); s.Resumed || w.dials() != dials+1 {
					t.Errorf("resumed %v, %d dials", s.Resumed, w.dials()-dials)
				}
				time.Sleep(time.Second)
				w.host.close()
			})
		})
	}
}

func TestNoCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := resumeWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
		for range 2 {
			c, err := w.d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{NoCache: true})
			if s := isEncrypted(t, c, err); s.Resumed || len(w.d.Config.Sessions.Sessions()) != 0 {
				t.Error("cached")
			}
		}
		w.expect(t, "third", false)
		// A session that exists may be resumed, and leaves nothing.
		c, err := w.d.Dial(t.Context(), netip.Addr{}, server, tcpinc.DialOptions{NoCache: true})
		if s := isEncrypted(t, c, err); !s.Resumed || len(w.d.Config.Sessions.Sessions()) != 0 {
			t.Errorf("resumed %v, kept %+v", s.Resumed, w.d.Config.Sessions.Sessions())
		}
		time.Sleep(time.Second)
		w.host.close()
	})
}

func TestFlushSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := resumeWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
		for _, resumed := range []bool{false, true} { // what resulted from it; what it was resumed from
			if resumed {
				w.expect(t, "before", false)
			}
			c, err := w.dial(tcpinc.Opportunistic)
			if err != nil {
				t.Fatal(err)
			}
			c.FlushSession()
			if s := isEncrypted(t, c, nil); s.Resumed != resumed || len(w.d.Config.Sessions.Sessions()) != 0 {
				t.Errorf("resumed %v, left %+v", s.Resumed, w.d.Config.Sessions.Sessions())
			}
		}
		tcpinc.Plain(nil, eno.Local).FlushSession()
		time.Sleep(time.Second)
		w.host.close()
	})
}

// What an application notes about the peer goes with the session.
func TestSessionNote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := resumeWorld(t, tcpinc.Config{Resumable: func(note any) bool { return note == "known" }}, tcpinc.Config{}, tcpinc.Opportunistic)
		w.expect(t, "first", false)
		w.expect(t, "without a note", false)
		c, err := w.dial(tcpinc.Opportunistic)
		if err != nil || c.SessionNote() != nil {
			t.Fatal(err, c.SessionNote())
		}
		c.SetSessionNote("known")
		isEncrypted(t, c, nil)
		c, err = w.dial(tcpinc.Opportunistic)
		if s := isEncrypted(t, c, err); !s.Resumed || c.SessionNote() != "known" {
			t.Errorf("resumed %v, note %v", s.Resumed, c.SessionNote())
		}
		time.Sleep(time.Second)
		w.host.close()
	})
}

// A segment with less room than the suboption needs has fresh key exchange in its place.
func TestNoRoomToResume(t *testing.T) {
	for room, want := range map[int]bool{21: true, 20: false, 19: false} {
		synctest.Test(t, func(t *testing.T) {
			w := resumeWorld(t, tcpinc.Config{AppAware: room == 19}, tcpinc.Config{}, tcpinc.Require)
			w.expect(t, "first", false)
			w.room = room
			if room != 21 && w.d.Config.AppAware == false { // the SYN as well: 20 octets without another TEP
				w.d.Config.TEPs = []eno.TEP{tcpcrypt.Curve25519}
			}
			w.expect(t, fmt.Sprint("room ", room), want)
			if n := w.dials(); n != 2 {
				t.Errorf("%d dials", n)
			}
			w.room = 21
			w.expect(t, "with room again", true)
			w.host.close()
		})
	}
}

// A client that is elsewhere now is still known, and by its new address from then on.
func TestResumeFromAnotherAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := resumeWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
		w.expect(t, "first", false)
		w.from = netip.MustParseAddrPort("198.18.7.7:99")
		w.expect(t, "from another address", true)
		if s := w.server.Sessions(); len(s) != 1 || s[0].Peer != netip.MustParseAddrPort("198.18.7.7:0") {
			t.Errorf("%+v", s)
		}
		w.host.close()
	})
}

// The former server opens a connection: who seals with which key does not change. RFC 8548, Section 3.5.
func TestFormerServerDialsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		logs := map[string][]tcpinc.KeyLogEntry{}
		log := func(who string) func(tcpinc.KeyLogEntry) {
			return func(e tcpinc.KeyLogEntry) { mu.Lock(); logs[who] = append(logs[who], e); mu.Unlock() }
		}
		w := resumeWorld(t, tcpinc.Config{KeyLog: log("client")}, tcpinc.Config{KeyLog: log("server")}, tcpinc.Opportunistic)
		w.expect(t, "first", false)

		back := newWorld(t, tcpinc.Config{Sessions: w.server, KeyLog: log("server")},
			tcpinc.Config{Sessions: w.d.Config.Sessions, KeyLog: log("client")}, tcpinc.Opportunistic)
		back.from = server
		for range 2 {
			c, err := back.d.Dial(t.Context(), netip.Addr{}, netip.AddrPortFrom(clientAddr.Addr(), 80), tcpinc.DialOptions{})
			s := isEncrypted(t, c, err)
			time.Sleep(time.Second)
			peer := back.last()
			if !s.Resumed || s.Role != eno.RoleA || s.SessionRole != eno.RoleB || peer.Role != eno.RoleB || peer.SessionRole != eno.RoleA {
				t.Errorf("resumed %v, roles %v and %v, originally %v and %v", s.Resumed, s.Role, peer.Role, s.SessionRole, peer.SessionRole)
			}
		}
		w.expect(t, "the first way again", true)
		for i, e := range logs["client"] {
			if o := logs["server"][i]; !bytes.Equal(e.KAB, o.KAB) || !bytes.Equal(e.KBA, o.KBA) || bytes.Equal(e.KAB, e.KBA) {
				t.Errorf("connection %d: keys differ", i)
			}
		}
		if e := logs["server"][1]; e.HostB.String() != "a" { // the end that dials back seals with k_ba
			t.Errorf("host B is %v", e.HostB)
		}
		w.host.close()
		back.host.close()
	})
}

// Two hosts open to each other at once with the same secret: both come out fresh. RFC 8548, Section 3.5.
func TestBothOfferTheSameSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := resumeWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Opportunistic)
		w.expect(t, "first", false)
		back := newWorld(t, tcpinc.Config{Sessions: w.server}, tcpinc.Config{Sessions: w.d.Config.Sessions}, tcpinc.Opportunistic)
		back.from = server

		var both sync.WaitGroup // both SYNs are made before either arrives
		both.Add(2)
		var offered [2][]byte
		hold := func(i int) func(*segment) bool {
			return func(s *segment) bool {
				if s.kind == tcpinc.SYN {
					offered[i] = s.options
					both.Done()
					both.Wait()
				}
				return true
			}
		}
		w.path, back.path = hold(0), hold(1)
		var all sync.WaitGroup
		for _, d := range []struct {
			w  *world
			to netip.AddrPort
		}{{w, server}, {back, netip.AddrPortFrom(clientAddr.Addr(), 80)}} {
			all.Go(func() {
				c, err := d.w.d.Dial(t.Context(), netip.Addr{}, d.to, tcpinc.DialOptions{Policy: tcpinc.Require})
				if s := isEncrypted(t, c, err); s.Resumed {
					t.Error("resumed")
				}
			})
		}
		all.Wait()
		if len(offered[0]) != 21 || len(offered[1]) != 21 {
			t.Errorf("offered %x and %x", offered[0], offered[1])
		}
		time.Sleep(time.Second)
		w.host.close()
		back.host.close()
	})
}

// No two connections ever have a secret in common, however many open at once.
func TestParallelDialsResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := resumeWorld(t, tcpinc.Config{}, tcpinc.Config{}, tcpinc.Require)
		w.expect(t, "first", false)
		var mu sync.Mutex
		ids, resumed := map[string]bool{}, 0
		var all sync.WaitGroup
		for range 200 {
			all.Go(func() {
				c, err := w.dial(tcpinc.Require)
				s := isEncrypted(t, c, err)
				mu.Lock()
				defer mu.Unlock()
				ids[string(s.SessionID)] = true
				if s.Resumed {
					resumed++
				}
			})
		}
		all.Wait()
		if len(ids) != 200 || resumed == 0 {
			t.Errorf("%d sessions, %d resumed", len(ids), resumed)
		}
		time.Sleep(time.Second)
		w.host.close()
	})
}
